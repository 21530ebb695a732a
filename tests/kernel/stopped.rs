//! A process that stands still for longer than a lease, and goes on: SIGSTOP and SIGCONT.
//!
//! ```text
//! parent: a letter and a line end      child: what came of it
//! C key      claim                     . claimed token | . not granted kind
//! T key      take over what lapsed     . taken token cause
//! F key      complete the first claim  . completed | . refused kind
//! L key      look it up                . status
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use oncelog::{Claim, Error, OrphanPolicy, Permit, Status, Store};
use rustix::process::Signal;

use crate::child::{self, Running, kind, tell, tell_error};
use crate::image;
use crate::keys::{fingerprint, number, scope};
use crate::rng::Rng;

/// Long enough for a process that runs to renew or to end what it began.
const LEASE: Duration = Duration::from_millis(250);
const STOP: Duration = Duration::from_millis(600);

#[test]
fn a_stop_beyond_the_lease_takes_nothing_from_a_claim_that_nobody_took_over() {
    let dir = image::scratch();
    let mut talk = Talk::start("stopped", dir.path());
    assert!(talk.ask("C alone").starts_with(". claimed"));
    talk.stop();
    assert_eq!(talk.ask("L alone"), ". orphaned LeaseLapsed", "its lease is over");
    assert_eq!(talk.ask("F alone"), ". completed", "nobody took it over");
    assert_eq!(talk.ask("L alone"), ". completed");
}

#[test]
fn a_stop_beyond_the_lease_lets_one_attempt_complete_and_fences_the_other() {
    let dir = image::scratch();
    let mut talk = Talk::start("stopped", dir.path());
    let claimed = talk.ask("C taken");
    let first: u64 = claimed.strip_prefix(". claimed ").expect(&claimed).parse().unwrap();
    assert_eq!(talk.ask("C taken"), ". not granted in_progress");
    talk.stop();
    let taken = talk.ask("T taken");
    let second = taken.strip_prefix(". taken ").expect(&taken).strip_suffix(" LeaseLapsed");
    assert!(second.expect(&taken).parse::<u64>().unwrap() > first, "{taken} after {first}");
    assert_eq!(talk.ask("F taken"), ". refused Superseded", "the first attempt was fenced");
    assert_eq!(talk.ask("S taken"), ". completed", "the second attempt goes on");
    assert_eq!(talk.ask("L taken"), ". completed");
}

#[test]
fn stops_under_load_let_no_operation_complete_twice() {
    let stops = number("ONCELOG_STOPS", 12);
    let dir = image::scratch();
    let mut rng = Rng::new(number("ONCELOG_SEED", 1));
    let mut talk = Talk::start("rivals", dir.path());
    let mut seen = Rivals::default();
    for _ in 0..stops {
        for _ in 0..200 + rng.below(600) {
            seen.hear(&talk.line());
        }
        for line in talk.stop() {
            seen.hear(&line);
        }
    }
    talk.kill();
    while let Some(line) = talk.rest() {
        seen.hear(&line);
    }
    let store = Store::options().open(dir.path()).unwrap();
    for key in seen.completed.keys() {
        let status = store.lookup(scope(key)).unwrap();
        let Some(Status::Completed(stored)) = status else { panic!("{key} is lost: {status:?}") };
        assert_eq!(stored.token().get(), seen.completed[key], "{key}: another attempt's response");
    }
    println!(
        "{stops} stops of {STOP:?} at a lease of {LEASE:?}: {} attempts, {} take-overs, {} fenced, \
         {} operations completed, each once",
        seen.tokens.len(),
        seen.taken,
        seen.fenced,
        seen.completed.len(),
    );
    assert!(seen.taken > 0 && seen.fenced > 0, "no stop met an attempt under way");
}

/// What two rivals for each key were told.
#[derive(Default)]
struct Rivals {
    tokens: BTreeMap<u64, String>,
    completed: BTreeMap<String, u64>,
    taken: u64,
    fenced: u64,
}

impl Rivals {
    fn hear(&mut self, line: &str) {
        match *line.split(' ').collect::<Vec<_>>() {
            [".", "granted", key, token, attempt] => {
                let token = token.parse().unwrap();
                assert_eq!(self.tokens.insert(token, key.to_owned()), None, "{line}: again");
                self.taken += u64::from(attempt != "1");
            }
            [".", "fenced", _] => self.fenced += 1,
            [".", "completed", key, token] => {
                let before = self.completed.insert(key.to_owned(), token.parse().unwrap());
                assert_eq!(before, None, "{key} completed twice");
            }
            _ => panic!("the child complains: {line}"),
        }
    }
}

/// A child whose lines arrive by a channel, so that it can be seen to say nothing.
struct Talk {
    lines: mpsc::Receiver<String>,
    child: Running,
}

/// Far beyond what any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Talk {
    fn start(job: &str, dir: &Path) -> Talk {
        let mut child = Running::start(child::command(&[], job, dir));
        let mut pipe = child.take_pipe();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            while let Some(line) = child::next_line(&mut pipe) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut talk = Talk { lines, child };
        assert_eq!(talk.line(), "O");
        talk
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the child answers")
    }

    fn rest(&mut self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    fn ask(&mut self, question: &str) -> String {
        writeln!(self.child.stdin(), "{question}").unwrap();
        self.line()
    }

    /// Stops the child for longer than a lease, and sees that it stands still; what it had said
    /// before comes back.
    fn stop(&mut self) -> Vec<String> {
        self.child.signal(Signal::STOP);
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(STOP) {
                Ok(line) => before.push(line),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("the child is gone"),
            }
        }
        self.child.signal(Signal::CONT);
        before
    }

    fn kill(&mut self) {
        self.child.kill();
        self.child.end();
    }
}

fn open(dir: &Path, policy: OrphanPolicy) -> Store {
    let store = Store::options().lease(LEASE).on_orphan(policy).open(dir).unwrap();
    tell("O");
    store
}

/// The child that does what it is asked.
pub(crate) fn child(dir: &Path) {
    let store = open(dir, OrphanPolicy::Report);
    let mut permits = BTreeMap::<String, Permit>::new();
    let mut seconds = BTreeMap::<String, Permit>::new();
    for question in std::io::stdin().lines() {
        let question = question.unwrap();
        let (what, key) = question.split_once(' ').expect("a question names a key");
        match what {
            "C" => match store.claim(scope(key), fingerprint(key)).unwrap() {
                Claim::Granted(permit) => {
                    tell(&format!(". claimed {}", permit.token()));
                    permits.insert(key.to_owned(), permit);
                }
                other => tell(&format!(". not granted {}", other.kind())),
            },
            "T" => match store.claim(scope(key), fingerprint(key)).unwrap() {
                Claim::Orphaned(orphan) => {
                    let cause = orphan.info().cause();
                    let Claim::Granted(permit) = orphan.take_over().unwrap() else {
                        panic!("nobody else takes over")
                    };
                    tell(&format!(". taken {} {cause:?}", permit.token()));
                    seconds.insert(key.to_owned(), permit);
                }
                other => tell(&format!(". not taken {}", other.kind())),
            },
            "F" | "S" => {
                let permits = if what == "F" { &mut permits } else { &mut seconds };
                let permit = permits.remove(key).expect("it was claimed");
                match permit.complete(what.as_bytes()) {
                    Ok(_) => tell(". completed"),
                    Err(error) => tell(&format!(". refused {}", kind(&error))),
                }
            }
            "L" => match store.lookup(scope(key)).unwrap() {
                Some(Status::Completed(_)) => tell(". completed"),
                Some(Status::Orphaned(orphan)) => tell(&format!(". orphaned {:?}", orphan.cause())),
                other => tell(&format!(". {other:?}")),
            },
            _ => panic!("no such question: {question}"),
        }
    }
}

/// The child whose threads race for each key, and take over what lapses.
pub(crate) fn rivals(dir: &Path) {
    let store = open(dir, OrphanPolicy::Rerun);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for nth in 0_u64.. {
                    let key = format!("{}-{nth}", thread / 2);
                    if let Err(error) = race(store, &key) {
                        return tell_error(&key, &error);
                    }
                }
            });
        }
    });
}

/// Runs a key until it is known to have completed.
fn race(store: &Store, key: &str) -> Result<(), Error> {
    loop {
        match store.claim_or_wait(scope(key), fingerprint(key), PATIENCE)? {
            Claim::Granted(permit) => {
                let token = permit.token();
                tell(&format!(". granted {key} {token} {}", permit.attempt()));
                match permit.complete(&token.get().to_le_bytes()) {
                    Ok(_) => tell(&format!(". completed {key} {token}")),
                    Err(Error::Superseded) => tell(&format!(". fenced {key}")),
                    Err(error) => return Err(error),
                }
            }
            Claim::Replay(_) => return Ok(()),
            other => panic!("{key}: {other:?}"),
        }
    }
}
