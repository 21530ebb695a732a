//! What every store of claims has to keep, as cases that any [`Backend`] can be run against.
//!
//! A case reads what the store promises and tests what is left. Each is a claim of its name;
//! [`run`] runs them all, and [`run_administer`] those of a store that operators can ask.
//!
//! ```
//! use oncelog::conformance::{Harness, run};
//! use oncelog::{ManualClock, Store};
//! use std::time::{Duration, SystemTime};
//!
//! struct Embedded { dirs: std::sync::Mutex<Vec<tempfile::TempDir>>, clock: ManualClock }
//!
//! impl Embedded {
//!     fn open(&self, dir: &std::path::Path, ttl: Duration) -> Store {
//!         let options = Store::options().ttl(ttl).lease(self.shortest_lease());
//!         options.segment_bytes(1 << 20).clock(self.clock.clone()).open(dir).unwrap()
//!     }
//! }
//!
//! impl Harness for Embedded {
//!     type Backend = Store;
//!     async fn fresh(&self, ttl: Duration) -> Store {
//!         let dir = tempfile::tempdir().unwrap();
//!         let store = self.open(dir.path(), ttl);
//!         self.dirs.lock().unwrap().push(dir);
//!         store
//!     }
//!     async fn pass(&self, time: Duration) {
//!         self.clock.advance(time);
//!     }
//!     fn shortest_lease(&self) -> Duration {
//!         Duration::from_secs(10)
//!     }
//!     async fn crash(&self, store: Store) -> Store {
//!         let ttl = store.ttl();
//!         store.close().unwrap();
//!         let dir = self.dirs.lock().unwrap().last().unwrap().path().to_owned();
//!         self.open(&dir, ttl)
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let clock = ManualClock::at(SystemTime::now());
//! let report = run(&Embedded { dirs: Default::default(), clock }).await;
//! assert_eq!(report.failed, []);
//! # });
//! ```

pub(crate) mod case;

pub(crate) mod claims;
pub(crate) mod operators;
pub(crate) mod orphans;
pub(crate) mod time;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use crate::conformance::case::{Case, SOON, TTL};
use crate::http::backend::{Administer, Backend};

/// What the suite needs of a store's surroundings.
pub trait Harness: Send + Sync {
    /// The store under test.
    type Backend: Backend;

    /// A fresh, empty store that keeps responses for `ttl`, which is at least a minute. Where the
    /// store has one lease for all claims, it is [`Harness::shortest_lease`].
    fn fresh(&self, ttl: Duration) -> impl Future<Output = Self::Backend> + Send;

    /// Lets time pass for the leases and the expiry of the newest store.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// The lease that the cases claim with.
    fn shortest_lease(&self) -> Duration;

    /// The process that uses this store dies, and another one opens it.
    fn crash(&self, backend: Self::Backend) -> impl Future<Output = Self::Backend> + Send;
}

/// How the cases went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The names of the cases that held.
    pub passed: Vec<&'static str>,
    /// The names of those that did not, and what was seen.
    pub failed: Vec<(&'static str, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.passed {
            writeln!(f, "ok {name}")?;
        }
        for (name, seen) in &self.failed {
            writeln!(f, "FAILED {name}: {seen}")?;
        }
        Ok(())
    }
}

/// Runs the named cases that are wanted, each on a fresh store.
macro_rules! run_those {
    ($harness:ident, $wanted:expr, [$($group:ident::$case:ident),* $(,)?]) => {{
        let mut report = Report::default();
        $(
            let name = stringify!($case);
            if $wanted(name) {
                let case = Case { harness: $harness, store: $harness.fresh(TTL).await };
                match timeout(4 * SOON, $group::$case(case)).await {
                    Ok(Ok(())) => report.passed.push(name),
                    Ok(Err(seen)) => report.failed.push((name, seen)),
                    Err(_) => report.failed.push((name, "it did not end".into())),
                }
            }
        )*
        report
    }};
}

/// Runs every case of [`Backend`], each on a fresh store.
pub async fn run<H: Harness>(harness: &H) -> Report {
    run_claims(harness, |_| true).await
}

/// Runs the case of [`Backend`] with this name.
pub async fn run_one<H: Harness>(harness: &H, name: &str) -> Report {
    run_claims(harness, |case| case == name).await
}

/// Runs every case of [`Administer`], each on a fresh store.
pub async fn run_administer<H: Harness<Backend: Administer>>(harness: &H) -> Report {
    run_operators(harness, |_| true).await
}

/// Runs the case of [`Administer`] with this name.
pub async fn run_one_administer<H: Harness<Backend: Administer>>(
    harness: &H,
    name: &str,
) -> Report {
    run_operators(harness, |case| case == name).await
}

async fn run_claims<H: Harness>(harness: &H, wanted: impl Fn(&str) -> bool) -> Report {
    run_those!(
        harness,
        wanted,
        [
            claims::one_of_many_callers_is_granted,
            claims::a_completed_operation_is_replayed_byte_for_byte,
            claims::another_fingerprint_is_a_conflict_in_every_state,
            claims::the_fields_of_a_scope_never_run_into_each_other,
            claims::a_release_frees_the_scope_for_another_operation,
            orphans::an_attempt_given_up_is_an_orphan_with_cause_failed,
            orphans::a_dropped_permit_leaves_an_orphan_never_a_free_scope,
            orphans::a_take_over_is_the_next_attempt_of_the_same_operation,
            orphans::one_of_many_take_overs_is_granted,
            orphans::a_take_over_names_the_attempt_that_it_replaces,
            orphans::a_superseded_attempt_changes_nothing,
            orphans::the_newest_checkpoint_is_shown_to_the_next_attempt,
            claims::a_completion_may_be_asked_for_again,
            claims::a_completion_lets_every_waiting_caller_go_on,
            claims::a_release_lets_one_waiting_caller_run,
            claims::a_claim_whose_future_is_dropped_is_not_left_behind,
            time::a_lease_that_is_over_makes_an_orphan_and_a_renewed_one_does_not,
            orphans::a_lapsed_attempt_that_nobody_took_over_still_completes,
            time::a_response_is_absent_from_its_expiry_on,
            time::a_crash_keeps_what_was_acknowledged_and_orphans_what_was_open,
            time::tokens_increase_and_operation_ids_never_come_twice,
        ]
    )
}

async fn run_operators<H: Harness<Backend: Administer>>(
    harness: &H,
    wanted: impl Fn(&str) -> bool,
) -> Report {
    run_those!(
        harness,
        wanted,
        [
            operators::what_a_scope_holds_is_told_and_never_claimed,
            operators::orphans_are_listed_in_the_order_of_their_tokens,
            operators::a_resolved_orphan_is_replayed,
            operators::an_attempt_that_an_operator_resolved_completes_no_more,
            operators::an_orphan_that_an_operator_released_is_free_and_its_attempt_changes_nothing,
            operators::only_the_orphaned_attempt_that_is_named_is_settled,
            operators::what_is_forgotten_is_free_and_an_open_claim_is_kept,
            operators::an_organization_is_forgotten_and_no_other,
        ]
    )
}
