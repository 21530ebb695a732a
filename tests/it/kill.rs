//! Kill -9 a process of eight writing threads, again and again, on one growing directory.
//!
//! The test runs its own binary as the child. A child tells on a pipe, one write a line, what it
//! was promised; the parent kills it after some number of promises, opens the store and holds it
//! to all of them. `ONCELOG_SEED` and `ONCELOG_KILLS` choose another run.
//!
//! ```text
//! O                      about to open the store
//! C key token operation  a claim was granted
//! I key                  about to complete or release: from here on the end is in doubt
//! D key, R key           the completion, the release was acknowledged
//! ```

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oncelog::{
    Background, Claim, Durability, Fingerprint, OperationId, OrphanCause, Scope, Store, Token,
};

use crate::support::rng::Rng;

const THREADS: u64 = 8;
/// More open claims than this are not kept: they are carried from segment to segment, and have a
/// quarter of one at most.
const OPEN_MAX: usize = 700;

#[test]
fn fifty_kills_lose_no_acknowledged_response_and_no_claim() {
    let (seed, kills) = (number("ONCELOG_SEED", 1), number("ONCELOG_KILLS", 50));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut ledger = Ledger::default();
    let mut rng = Rng::new(seed);
    let mut cuts = BTreeMap::<&str, u64>::new();
    for round in 0..kills {
        let label = format!("seed {seed}, round {round}");
        let wanted = if round % 10 == 9 { 0 } else { 300 + rng.below(1200) };
        let heard = run_and_kill(dir.path(), round, wanted);
        for line in &heard {
            ledger.hear(line).unwrap_or_else(|error| panic!("{label}: {error}"));
        }
        let store =
            open(dir.path(), mode(round)).unwrap_or_else(|error| panic!("{label}: {error}"));
        if let Some((_, why)) = store.recovery().cut {
            *cuts.entry(why).or_default() += 1;
        }
        assert_eq!(store.recovery().segments_discarded, 0, "{label}: a kill tears the tail alone");
        ledger.end_round(&store, round).unwrap_or_else(|error| panic!("{label}: {error}"));
        store.close().unwrap();
    }
    let store = open(dir.path(), mode(0)).unwrap();
    ledger.check_all(&store).unwrap_or_else(|error| panic!("seed {seed}, at the end: {error}"));
    println!(
        "{kills} kills, seed {seed}: {} claims acknowledged, {} responses replayed, {} orphans, \
         {} releases, {} unacknowledged claims found, {} ends in doubt, {} orphans resolved, \
         {} segments, torn tails: {cuts:?}",
        ledger.acknowledged,
        ledger.count(Told::Done),
        ledger.count(Told::Claimed),
        ledger.count(Told::Freed),
        ledger.unacknowledged,
        ledger.in_doubt,
        ledger.resolved,
        store.stats().segments,
    );
}

/// The body of the child process; nothing when it runs as a test among the others.
#[test]
fn child() {
    let Ok(dir) = std::env::var("ONCELOG_KILL_DIR") else { return };
    let round = number("ONCELOG_KILL_ROUND", 0);
    let durability = match std::env::var("ONCELOG_KILL_MODE").as_deref() {
        Ok("synced") => Durability::Synced,
        _ => BUFFERED,
    };
    tell("O");
    let store = open(Path::new(&dir), durability).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || write_for_ever(store, round, thread));
        }
    });
}

#[test]
fn the_check_finds_every_broken_promise() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = open(dir.path(), BUFFERED).unwrap();
    let mut permits = Vec::new();
    let mut ledger = Ledger::default();
    for key in ["done", "wrong", "open", "free"] {
        let Claim::Granted(permit) = store.claim(scope(key), fingerprint(key)).unwrap() else {
            panic!("{key} was not granted")
        };
        ledger.hear(&claim_line(key, permit.token(), permit.operation())).unwrap();
        permits.push(permit);
    }
    let mut permits = permits.into_iter();
    permits.next().unwrap().complete(&response("done")).unwrap();
    permits.next().unwrap().complete(b"other bytes").unwrap();
    let kept = permits.next().unwrap();
    let (token, operation) = (kept.token(), kept.operation());
    permits.next().unwrap().release().unwrap();
    drop(kept);

    // Truths first: what was promised is found.
    for (key, told) in [("done", Told::Done), ("free", Told::Freed), ("open", Told::Claimed)] {
        let entry = Entry { told, ..ledger.keys[key] };
        assert_eq!(judge(key, entry, look(&store, key).unwrap()).unwrap(), told);
    }
    // Then one lie after the other.
    for (key, told) in [
        ("free", Told::Done),    // A response is lost.
        ("wrong", Told::Done),   // A response has other bytes.
        ("free", Told::Claimed), // A claim is lost.
        ("done", Told::Claimed), // A claim ended by itself.
        ("open", Told::Done),    // A completion is lost, its claim is not.
        ("open", Told::Freed),   // A release is lost.
        ("done", Told::Freed),   // A release came to a response.
    ] {
        let entry = Entry { told, ..ledger.keys[key] };
        let error = judge(key, entry, look(&store, key).unwrap()).expect_err(key);
        assert!(error.contains("was told"), "{error}");
    }
    // The right answers under another token, and under another operation.
    let (other, open) = (ledger.keys["done"], ledger.keys["open"]);
    for entry in
        [Entry { token: other.token, ..open }, Entry { operation: other.operation, ..open }]
    {
        judge("open", entry, look(&store, "open").unwrap()).expect_err("another attempt");
    }
    let orphan = store.orphan(scope("open")).unwrap().unwrap();
    assert_eq!((orphan.info().token(), orphan.info().operation()), (token, operation));
    ledger.hear(&claim_line("again", token, operation)).expect_err("an operation id twice");
    ledger.token_floor = token.get();
    let fresh = OperationId::from_bytes([7; 16]);
    ledger.hear(&claim_line("stale", token, fresh)).expect_err("a token of an earlier round");
    ledger.hear("thread panicked").expect_err("a child that complains");
    ledger.hear("D never-claimed").expect_err("a completion without a claim");
}

/// What the kills found: blocks that were made for later records overwrote carried claims. The
/// files of a store that is still open are what a kill leaves.
#[test]
fn more_open_claims_than_the_first_blocks_hold_survive_a_kill_and_a_close() {
    let options = || Store::options().background(Background::Inline).durability(BUFFERED);
    let [dir, killed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let store = options().open(dir.path()).unwrap();
    let keys: Vec<String> = (0..1000).map(|nth| nth.to_string()).collect();
    let claim = |key: &String| store.claim(scope(key), fingerprint(key)).unwrap();
    let permits: Vec<Claim> = keys.iter().map(claim).collect();
    assert!(permits.iter().all(|claim| claim.kind() == "granted"));
    for entry in dir.path().read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), killed.path().join(entry.file_name())).unwrap();
    }
    for round in 0..2 {
        let store = options().open(killed.path());
        let store = store.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(store.unresolved().unwrap().len(), keys.len(), "round {round}");
        store.close().unwrap();
    }
}

const BUFFERED: Durability = Durability::Buffered { sync_every: Duration::from_millis(50) };

fn mode(round: u64) -> Durability {
    if round.is_multiple_of(2) { Durability::Synced } else { BUFFERED }
}

/// Small segments, so that every round fills some.
fn open(dir: &Path, durability: Durability) -> oncelog::Result<Store> {
    let options = Store::options().durability(durability);
    options.segment_bytes(1 << 20).response_bytes_max(64 << 10).open(dir)
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/v1/contacts", key }
}

fn fingerprint(key: &str) -> Fingerprint {
    Fingerprint::of(key.as_bytes())
}

/// How a child ends a claim.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    Complete,
    Release,
    Stay,
}

fn plan(key: &str) -> Plan {
    match Rng::of(key).below(100) {
        0..84 => Plan::Complete,
        84..97 => Plan::Release,
        _ => Plan::Stay,
    }
}

/// The response of a key: often short, now and then empty, up to 32 KiB.
fn response(key: &str) -> Vec<u8> {
    let mut rng = Rng::of(key);
    let limit = [0, 64, 1 << 10, 4 << 10, 32 << 10][usize::from(rng.next().to_le_bytes()[7] % 5)];
    let bytes = rng.below(limit + 1);
    (0..bytes.div_ceil(8))
        .flat_map(|_| rng.next().to_le_bytes())
        .take(usize::try_from(bytes).expect("at most 32 KiB"))
        .collect()
}

/// One write to a pipe, far below the size up to which it is never torn. Standard error has no
/// buffer, and the test harness never writes there.
fn tell(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("the parent listens");
}

fn claim_line(key: &str, token: Token, operation: OperationId) -> String {
    format!("C {key} {token} {operation}")
}

fn write_for_ever(store: &Store, round: u64, thread: u64) {
    let mut kept = Vec::new();
    for nth in 0_u64.. {
        let key = format!("{round}-{thread}-{nth}");
        let claim = store.claim(scope(&key), fingerprint(&key));
        let Ok(Claim::Granted(permit)) = claim else { panic!("{key} was not granted: {claim:?}") };
        tell(&claim_line(&key, permit.token(), permit.operation()));
        let plan = plan(&key);
        if plan == Plan::Stay {
            kept.push(permit);
            continue;
        }
        tell(&format!("I {key}"));
        if plan == Plan::Complete {
            permit.complete(&response(&key)).unwrap_or_else(|error| panic!("{key}: {error}"));
            tell(&format!("D {key}"));
        } else {
            permit.release().unwrap_or_else(|error| panic!("{key}: {error}"));
            tell(&format!("R {key}"));
        }
    }
}

fn start_child(dir: &Path, round: u64) -> Child {
    let mode = if mode(round) == Durability::Synced { "synced" } else { "buffered" };
    let mut command = Command::new(std::env::current_exe().expect("a test knows its binary"));
    command.args(["--exact", "kill::child", "--nocapture"]);
    command.env("ONCELOG_KILL_DIR", dir).env("ONCELOG_KILL_MODE", mode);
    command.env("ONCELOG_KILL_ROUND", round.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("a test can run its own binary")
}

/// Kills a child once it has told of `wanted` promises, or is about to open the store where none
/// are wanted; returns all that it told.
fn run_and_kill(dir: &Path, round: u64, wanted: u64) -> Vec<String> {
    let mut child = start_child(dir, round);
    let mut pipe = BufReader::new(child.stderr.take().expect("it is piped"));
    let (mut heard, mut promises) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if pipe.read_line(&mut line).expect("a child tells text") == 0 {
            break;
        }
        assert_eq!(line.pop(), Some('\n'), "round {round}: a torn line: {line}");
        promises += u64::from(line.starts_with(['C', 'D', 'R']));
        heard.push(line);
        if promises >= wanted {
            child.kill().expect("the child was not waited for");
        }
    }
    let status = child.wait().expect("the child was not waited for");
    // A child that panics says so in other lines.
    if let Some(at) = heard.iter().position(|line| !line.starts_with(['O', 'C', 'I', 'D', 'R'])) {
        panic!("round {round}: the child complains: {}", heard[at..].join("\n"));
    }
    assert!(!status.success() && promises >= wanted, "round {round}: {status}");
    heard
}

/// What a child was told of a key last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Claimed,
    /// It was about to end the claim, and not told that it had.
    Ending,
    Done,
    Freed,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    round: u64,
    told: Told,
    token: Token,
    operation: OperationId,
}

/// What the store answers for a key.
#[derive(Debug)]
enum Found {
    Free,
    Open { token: Token, operation: OperationId },
    Done { token: Token, operation: OperationId, bytes: Vec<u8> },
}

fn look(store: &Store, key: &str) -> Result<Found, String> {
    let text = |error| format!("{key}: {error}");
    if store.lookup(scope(key)).map_err(text)?.is_none() {
        return Ok(Found::Free);
    }
    match store.claim(scope(key), fingerprint(key)).map_err(text)? {
        Claim::Orphaned(orphan) => {
            Ok(Found::Open { token: orphan.info().token(), operation: orphan.info().operation() })
        }
        Claim::Replay(stored) => Ok(Found::Done {
            token: stored.token(),
            operation: stored.operation(),
            bytes: stored.bytes().ok_or_else(|| format!("{key}: no response was kept"))?.to_vec(),
        }),
        other => Err(format!("{key}: {other:?}")),
    }
}

/// What is known of a key from now on, unless what is found breaks a promise.
fn judge(key: &str, entry: Entry, found: Found) -> Result<Told, String> {
    let same = |token, operation| (token, operation) == (entry.token, entry.operation);
    let ending = |by| entry.told == Told::Ending && plan(key) == by;
    match found {
        Found::Open { token, operation }
            if matches!(entry.told, Told::Claimed | Told::Ending) && same(token, operation) =>
        {
            Ok(Told::Claimed)
        }
        Found::Done { token, operation, ref bytes }
            if (entry.told == Told::Done || ending(Plan::Complete))
                && same(token, operation)
                && *bytes == response(key) =>
        {
            Ok(Told::Done)
        }
        Found::Free if entry.told == Told::Freed || ending(Plan::Release) => Ok(Told::Freed),
        found => Err(format!("{key} was told {entry:?}, found {found:?}")),
    }
}

/// Everything that the children were promised.
#[derive(Default)]
struct Ledger {
    keys: BTreeMap<String, Entry>,
    operations: HashSet<OperationId>,
    /// The newest token of the rounds before.
    token_floor: u64,
    round: u64,
    acknowledged: u64,
    unacknowledged: u64,
    in_doubt: u64,
    resolved: u64,
}

impl Ledger {
    fn count(&self, told: Told) -> usize {
        self.keys.values().filter(|entry| entry.told == told).count()
    }

    fn hear(&mut self, line: &str) -> Result<(), String> {
        match *line.split(' ').collect::<Vec<_>>() {
            ["O"] => Ok(()),
            ["C", key, token, operation] => {
                let token = token.parse().map_err(|error| format!("{line}: {error}"))?;
                let operation = operation.parse().map_err(|error| format!("{line}: {error}"))?;
                self.acknowledged += 1;
                self.claimed(key, token, operation)
            }
            ["I", key] => self.told(key, Told::Claimed, Told::Ending),
            ["D", key] => self.told(key, Told::Ending, Told::Done),
            ["R", key] => self.told(key, Told::Ending, Told::Freed),
            _ => Err(format!("a child complains: {line}")),
        }
    }

    fn told(&mut self, key: &str, before: Told, after: Told) -> Result<(), String> {
        let entry = self.keys.get_mut(key).filter(|entry| entry.told == before);
        entry.ok_or_else(|| format!("{key}: {after:?} without {before:?}"))?.told = after;
        Ok(())
    }

    fn claimed(&mut self, key: &str, token: Token, operation: OperationId) -> Result<(), String> {
        if token.get() <= self.token_floor {
            return Err(format!("{key}: token {token} after token {}", self.token_floor));
        }
        if !self.operations.insert(operation) {
            return Err(format!("{key}: operation {operation} was issued before"));
        }
        let entry = Entry { round: self.round, told: Told::Claimed, token, operation };
        match self.keys.insert(key.to_owned(), entry) {
            None => Ok(()),
            Some(before) => Err(format!("{key} was granted twice: {before:?}, {entry:?}")),
        }
    }

    /// Holds the store to what was heard in this round. What was in doubt is certain afterwards.
    fn end_round(&mut self, store: &Store, round: u64) -> Result<(), String> {
        self.find_unacknowledged(store)?;
        for (key, entry) in self.keys.iter_mut().filter(|(_, entry)| entry.round == round) {
            self.in_doubt += u64::from(entry.told == Told::Ending);
            entry.told = judge(key, *entry, look(store, key)?)?;
        }
        let tokens = self.keys.values().filter(|entry| entry.round == round);
        let tokens: Vec<u64> = tokens.map(|entry| entry.token.get()).collect();
        if tokens.iter().collect::<HashSet<_>>().len() < tokens.len() {
            return Err("a token was issued twice".to_owned());
        }
        self.token_floor = tokens.into_iter().max().unwrap_or(0).max(self.token_floor);
        self.round = round + 1;
        self.resolve_oldest(store)
    }

    /// Claims that were durable before their child was told: at most the next one of each thread.
    fn find_unacknowledged(&mut self, store: &Store) -> Result<(), String> {
        for orphan in store.unresolved().map_err(|error| error.to_string())? {
            if orphan.cause() != OrphanCause::Crash {
                return Err(format!("an orphan of another cause: {orphan:?}"));
            }
            let key = orphan.key();
            if self.keys.contains_key(key) {
                continue;
            }
            let (round, thread) = (self.round, key.split('-').nth(1).unwrap_or_default());
            let prefix = format!("{round}-{thread}-");
            let next = self.keys.keys().filter(|key| key.starts_with(&prefix)).count();
            if key != format!("{prefix}{next}") {
                return Err(format!("nobody claimed {key}: {orphan:?}"));
            }
            self.unacknowledged += 1;
            self.claimed(key, orphan.token(), orphan.operation())?;
        }
        Ok(())
    }

    /// Makes room for the open claims of later rounds, which a store bounds.
    fn resolve_oldest(&mut self, store: &Store) -> Result<(), String> {
        let orphans = store.unresolved().map_err(|error| error.to_string())?;
        if orphans.len() <= OPEN_MAX {
            return Ok(());
        }
        for orphan in &orphans[..OPEN_MAX / 4] {
            let key = orphan.key();
            let orphan = store.orphan(scope(key)).map_err(|error| format!("{key}: {error}"))?;
            let orphan = orphan.ok_or_else(|| format!("{key} is no orphan any more"))?;
            orphan.resolve(&response(key)).map_err(|error| format!("{key}: {error}"))?;
            self.told(key, Told::Claimed, Told::Done)?;
            self.resolved += 1;
        }
        Ok(())
    }

    /// Holds the store to everything, and to nothing else.
    fn check_all(&self, store: &Store) -> Result<(), String> {
        for (key, entry) in &self.keys {
            judge(key, *entry, look(store, key)?)?;
        }
        let stats = store.stats();
        let held = (stats.responses, stats.orphans, stats.in_flight);
        let told = (self.count(Told::Done) as u64, self.count(Told::Claimed) as u64, 0);
        if held == told { Ok(()) } else { Err(format!("the store holds {held:?}, not {told:?}")) }
    }
}
