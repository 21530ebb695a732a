//! The statements that `docs/servers.md` shows for PostgreSQL, read from that page, on a real
//! server: in every order of a zombie and a witness one effect happens.
//!
//! Wants root and Debian's postgresql, so it runs only where it is named: `cargo test --test
//! witness`.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a step of a test that fails fails the test; it looks for an installed server itself"
)]

mod programs;
mod server;

use crate::server::{Did, Postgres, Session};

const OPERATION: &str = "'0190c0de-0000-8000-8000-000000000001'";

/// The statements of the page: the table, the admission, the saving of the response, the witness.
fn statements() -> [String; 4] {
    let page = include_str!("../../docs/servers.md");
    let (_, section) = page.split_once("## Exactly once, in PostgreSQL").expect("the section");
    let (_, block) = section.split_once("```sql\n").expect("its block");
    let (block, _) = block.split_once("```").expect("the end of the block");
    let lines = block.lines().filter(|line| !line.starts_with("--"));
    let statements = lines.collect::<Vec<_>>().join("\n");
    let each: Vec<String> = statements
        .split(';')
        .map(|statement| statement.trim().to_owned())
        .filter(|statement| !statement.is_empty())
        .collect();
    each.try_into().expect("four statements")
}

struct Shop {
    postgres: Postgres,
}

impl Shop {
    fn open() -> Shop {
        let shop = Shop { postgres: Postgres::start() };
        let mut session = shop.postgres.session();
        session.must(&statements()[0]);
        session.must("CREATE TABLE contact (run bigint NOT NULL)");
        shop
    }

    fn session(&self) -> Session {
        let mut session = self.postgres.session();
        let [_, admit, save, witness] = statements();
        session.must(&format!("PREPARE admit AS {admit}"));
        session.must(&format!("PREPARE save AS {save}"));
        session.must(&format!("PREPARE witness AS {witness}"));
        session
    }

    fn effects(&self) -> Vec<String> {
        self.session().must("SELECT run FROM contact ORDER BY run").rows
    }
}

/// The statements of an attempt up to its commit; whether it was admitted.
fn run(session: &mut Session, token: u64) -> bool {
    session.must("BEGIN");
    if session.must(&format!("EXECUTE admit({OPERATION}, {token})")).changed == 0 {
        session.must("ROLLBACK");
        return false;
    }
    session.must(&format!("INSERT INTO contact VALUES ({token})"));
    session.must(&format!("EXECUTE save({OPERATION}, '\\x{token:02x}')"));
    true
}

/// An attempt from its beginning to its end; whether it was admitted.
fn attempt(session: &mut Session, token: u64) -> bool {
    let admitted = run(session, token);
    if admitted {
        session.must("COMMIT");
    }
    admitted
}

fn witness(fence: u64) -> String {
    format!("EXECUTE witness({OPERATION}, {fence})")
}

fn denied(did: &Did) {
    assert_eq!((&*did.state, &did.rows[..]), ("00000", &["".to_owned()][..]), "NULL");
}

fn found(did: &Did, response: &str) {
    assert_eq!((&*did.state, &did.rows[..]), ("00000", &[response.to_owned()][..]));
}

#[test]
fn a_zombie_that_begins_after_the_next_attempt_committed_changes_nothing() {
    let shop = Shop::open();
    let (mut zombie, mut next) = (shop.session(), shop.session());
    denied(&next.ask(&witness(4)));
    assert!(attempt(&mut next, 5));
    assert!(!attempt(&mut zombie, 3));
    assert_eq!(shop.effects(), ["5"]);
}

#[test]
fn a_zombie_that_commits_while_the_next_attempt_runs_is_fenced() {
    let shop = Shop::open();
    let (mut zombie, mut next) = (shop.session(), shop.session());
    denied(&next.ask(&witness(4)));
    assert!(!attempt(&mut zombie, 3), "although the next attempt has not begun");
    assert!(attempt(&mut next, 5));
    assert_eq!(shop.effects(), ["5"]);
}

#[test]
fn a_zombie_inside_its_transaction_is_waited_for() {
    let shop = Shop::open();
    let (mut zombie, mut next) = (shop.session(), shop.session());
    assert!(run(&mut zombie, 3));
    next.must("SET lock_timeout = '100ms'");
    assert_eq!(next.ask(&witness(4)).state, "55P03", "unknown");
    next.must("SET lock_timeout = 0");
    next.send(&witness(4));
    zombie.must("COMMIT");
    found(&next.receive(), "\\x03");
    assert!(!attempt(&mut next, 5), "it is done");
    assert_eq!(shop.effects(), ["3"]);
}

#[test]
fn a_transaction_that_is_rolled_back_did_not_happen() {
    let shop = Shop::open();
    let (mut zombie, mut next) = (shop.session(), shop.session());
    assert!(run(&mut zombie, 3));
    next.send(&witness(4));
    zombie.must("ROLLBACK");
    denied(&next.receive());
    assert!(!attempt(&mut zombie, 3));
    assert!(attempt(&mut next, 5));
    assert_eq!(shop.effects(), ["5"]);
}

#[test]
fn a_zombie_that_has_committed_is_found_by_the_witness() {
    let shop = Shop::open();
    let (mut zombie, mut next) = (shop.session(), shop.session());
    assert!(attempt(&mut zombie, 3));
    found(&next.ask(&witness(4)), "\\x03");
    assert_eq!(shop.effects(), ["3"]);
}

#[test]
fn a_zombie_after_a_release_is_refused_by_the_fence() {
    let shop = Shop::open();
    let (mut zombie, mut next) = (shop.session(), shop.session());
    // Attempt 5 asked, failed without an effect, and released; nothing else has the operation.
    denied(&next.ask(&witness(5)));
    assert!(!attempt(&mut zombie, 3));
    assert_eq!(shop.effects(), [""; 0]);
}

#[test]
fn a_witness_that_only_reads_lets_a_zombie_commit() {
    // The fault that the fence is for, put in by hand: the witness looks and fences nothing.
    let shop = Shop::open();
    let (mut zombie, mut next) = (shop.session(), shop.session());
    let read = format!("SELECT response FROM operation WHERE id = {OPERATION}");
    assert_eq!(next.must(&read).rows, [""; 0], "the scope is released");
    assert!(attempt(&mut zombie, 3));
    assert_eq!(shop.effects(), ["3"], "beside the effect of whoever claims the scope now");
}
