//! The conformance suite on the embedded store, and on stores with a fault put in by hand: one for
//! every case, which finds it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use oncelog::conformance::{Harness, Report, run, run_one};
use oncelog::http::{
    Answer, AnyBackend, Backend, BackendPermit as _, Completed, Promises, StorePermit,
};
use oncelog::{Error, Fingerprint, Scope, Store, Token};

use crate::ground::Ground;

/// The default of the store.
const LEASE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_conforms() {
    let report = run(&Ground::new()).await;
    assert_eq!(report.failed, [], "{report}");
    assert_eq!(report.passed.len(), 21);
}

/// The embedded store behind [`AnyBackend`].
struct Boxed(Ground, Mutex<Option<Store>>);

impl Harness for Boxed {
    type Backend = AnyBackend;

    async fn fresh(&self, ttl: Duration) -> AnyBackend {
        let store = self.0.fresh(ttl).await;
        *self.1.lock().unwrap() = Some(store.clone());
        AnyBackend::new(store)
    }

    async fn pass(&self, time: Duration) {
        self.0.clock.advance(time);
    }

    fn shortest_lease(&self) -> Duration {
        self.0.shortest_lease()
    }

    async fn crash(&self, _: AnyBackend) -> AnyBackend {
        let before = self.1.lock().unwrap().take().unwrap();
        let store = self.0.crash(before).await;
        *self.1.lock().unwrap() = Some(store.clone());
        AnyBackend::new(store)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boxed_store_conforms() {
    let report = run(&Boxed(Ground::new(), Mutex::default())).await;
    assert_eq!(report.failed, [], "{report}");
}

/// What a faulty store does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    IgnoresFingerprints,
    FreesOnGiveUp,
    AcknowledgesTheSuperseded,
    JoinsFields,
    LosesTheLastPart,
    ForgetsAtACrash,
    RenewsNothing,
    ReplacesAnyAttempt,
    LosesCheckpoints,
    GrantsWhatRuns,
    ReleasesNothing,
    OrphansOnRelease,
    FreesTheDropped,
    TakesOverAsAnotherOperation,
    GrantsEveryTakeOver,
    CompletesOnlyOnce,
    GrantsToWhoWaited,
    FinishesDroppedClaims,
    RefusesTheLapsed,
    ReplaysTheExpired,
}

#[derive(Clone)]
struct Faulty {
    store: Store,
    fault: Fault,
    /// What was replayed, by key.
    replayed: Arc<Mutex<HashMap<String, Completed>>>,
    completed: Arc<Mutex<HashSet<Token>>>,
    elsewhere: Arc<AtomicU64>,
}

impl Faulty {
    fn new(store: Store, fault: Fault) -> Faulty {
        let (replayed, completed, elsewhere) = Default::default();
        Faulty { store, fault, replayed, completed, elsewhere }
    }

    /// A grant where there should be none: of a scope that nobody else knows.
    async fn grant_elsewhere(&self, scope: Scope<'_>) -> Result<Answer<StorePermit>, Error> {
        let key = format!("{}#{}", scope.key, self.elsewhere.fetch_add(1, Ordering::Relaxed));
        let scope = Scope { key: &key, ..scope };
        Backend::claim(&self.store, scope, Fingerprint::of(b"body"), LEASE).await
    }

    /// Makes something else of a claim's answer.
    async fn distort(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        answer: Answer<StorePermit>,
    ) -> Result<Answer<StorePermit>, Error> {
        match (self.fault, answer) {
            (Fault::GrantsWhatRuns, Answer::InProgress(_)) => self.grant_elsewhere(scope).await,
            (Fault::FreesTheDropped, Answer::Orphaned(_)) => {
                self.store.orphan(scope)?.expect("it is one").release()?;
                Backend::claim(&self.store, scope, fingerprint, LEASE).await
            }
            (Fault::ReplaysTheExpired, answer) => {
                let mut replayed = self.replayed.lock().unwrap();
                if let Answer::Replay(completed) = &answer {
                    replayed.insert(scope.key.to_owned(), completed.clone());
                }
                Ok(replayed.get(scope.key).cloned().map_or(answer, Answer::Replay))
            }
            (_, answer) => Ok(answer),
        }
    }
}

impl Backend for Faulty {
    type Permit = StorePermit;
    type Error = Error;

    fn promises(&self) -> Promises {
        self.store.promises()
    }

    async fn claim(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Answer<StorePermit>, Error> {
        let joined = format!("{}{}{}{}", scope.organization, scope.method, scope.path, scope.key);
        match self.fault {
            Fault::IgnoresFingerprints => {
                Backend::claim(&self.store, scope, Fingerprint::of(b""), lease).await
            }
            Fault::JoinsFields => {
                let scope = Scope { organization: "", method: "-", path: "-", key: &joined };
                Backend::claim(&self.store, scope, fingerprint, lease).await
            }
            // A task of its own, which goes on when nobody waits for it any more.
            Fault::FinishesDroppedClaims => {
                let [organization, method, path, key] =
                    [scope.organization, scope.method, scope.path, scope.key].map(str::to_owned);
                let store = self.store.clone();
                let claim = tokio::spawn(async move {
                    let (organization, method) = (&*organization, &*method);
                    let scope = Scope { organization, method, path: &path, key: &key };
                    Backend::claim(&store, scope, fingerprint, lease).await
                });
                claim.await.unwrap()
            }
            _ => {
                let answer = Backend::claim(&self.store, scope, fingerprint, lease).await?;
                self.distort(scope, fingerprint, answer).await
            }
        }
    }

    async fn claim_after(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<StorePermit>, Error> {
        let answer = self.store.claim_after(scope, fingerprint, seen, lease).await?;
        match (self.fault, answer) {
            (Fault::GrantsToWhoWaited, Answer::Replay(_)) => self.grant_elsewhere(scope).await,
            (_, answer) => Ok(answer),
        }
    }

    async fn take_over(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<StorePermit>, Error> {
        let current = self.store.orphan(scope)?.map(|orphan| orphan.info().token());
        let seen = match self.fault {
            Fault::ReplacesAnyAttempt => current.unwrap_or(seen),
            _ => seen,
        };
        if self.fault == Fault::TakesOverAsAnotherOperation {
            self.store.orphan(scope)?.expect("it is one").release()?;
            return Backend::claim(&self.store, scope, fingerprint, lease).await;
        }
        let answer = self.store.take_over(scope, fingerprint, seen, lease).await?;
        match (self.fault, answer) {
            (Fault::GrantsEveryTakeOver, Answer::InProgress(_)) => {
                self.grant_elsewhere(scope).await
            }
            (_, answer) => Ok(answer),
        }
    }

    async fn complete(&self, permit: &StorePermit, parts: &[&[u8]]) -> Result<Completed, Error> {
        let lost = usize::from(self.fault == Fault::LosesTheLastPart && parts.len() > 1);
        // The cases send an empty last part; the one before it is what is missed.
        let kept = &parts[..parts.len() - 2 * lost];
        let again = !self.completed.lock().unwrap().insert(permit.token());
        let refused = match self.fault {
            Fault::CompletesOnlyOnce => again,
            Fault::RefusesTheLapsed => {
                self.store.unresolved()?.iter().any(|orphan| orphan.token() == permit.token())
            }
            _ => false,
        };
        if refused {
            return Err(Error::Superseded);
        }
        let completed = self.store.complete(permit, kept).await;
        match completed {
            Err(Error::Superseded) if self.fault == Fault::AcknowledgesTheSuperseded => {
                let now = SystemTime::UNIX_EPOCH;
                let (token, operation) = (permit.token(), permit.operation());
                let attempt = permit.attempt();
                let response = None;
                let (completed_at, expires_at) = (now, now);
                Ok(Completed { response, completed_at, expires_at, token, operation, attempt })
            }
            completed => completed,
        }
    }

    async fn release(&self, permit: &StorePermit) -> Result<(), Error> {
        match self.fault {
            Fault::ReleasesNothing => Ok(()),
            Fault::OrphansOnRelease => Backend::give_up(&self.store, permit).await,
            _ => Backend::release(&self.store, permit).await,
        }
    }

    async fn give_up(&self, permit: &StorePermit) -> Result<(), Error> {
        match self.fault {
            Fault::FreesOnGiveUp => Backend::release(&self.store, permit).await,
            _ => Backend::give_up(&self.store, permit).await,
        }
    }

    fn give_up_soon(&self, permit: &StorePermit) {
        self.store.give_up_soon(permit);
    }

    async fn renew(&self, permit: &StorePermit, lease: Duration) -> Result<(), Error> {
        match self.fault {
            Fault::RenewsNothing => Ok(()),
            _ => Backend::renew(&self.store, permit, lease).await,
        }
    }

    async fn save_checkpoint(&self, permit: &StorePermit, bytes: &[u8]) -> Result<(), Error> {
        let bytes = if self.fault == Fault::LosesCheckpoints { &bytes[..0] } else { bytes };
        self.store.save_checkpoint(permit, bytes).await
    }
}

struct WithFault(Ground, Fault);

impl Harness for WithFault {
    type Backend = Faulty;

    async fn fresh(&self, ttl: Duration) -> Faulty {
        Faulty::new(self.0.fresh(ttl).await, self.1)
    }

    async fn pass(&self, time: Duration) {
        self.0.clock.advance(time);
    }

    fn shortest_lease(&self) -> Duration {
        self.0.shortest_lease()
    }

    async fn crash(&self, faulty: Faulty) -> Faulty {
        let ttl = faulty.store.ttl();
        let store = self.0.crash(faulty.store).await;
        let store = match self.1 {
            Fault::ForgetsAtACrash => self.0.fresh(ttl).await,
            _ => store,
        };
        Faulty::new(store, self.1)
    }
}

/// Every case beside a fault that it is for.
const FAULTS: [(Fault, &str); 21] = [
    (Fault::GrantsWhatRuns, "one_of_many_callers_is_granted"),
    (Fault::LosesTheLastPart, "a_completed_operation_is_replayed_byte_for_byte"),
    (Fault::IgnoresFingerprints, "another_fingerprint_is_a_conflict_in_every_state"),
    (Fault::JoinsFields, "the_fields_of_a_scope_never_run_into_each_other"),
    (Fault::ReleasesNothing, "a_release_frees_the_scope_for_another_operation"),
    (Fault::FreesOnGiveUp, "an_attempt_given_up_is_an_orphan_with_cause_failed"),
    (Fault::FreesTheDropped, "a_dropped_permit_leaves_an_orphan_never_a_free_scope"),
    (Fault::TakesOverAsAnotherOperation, "a_take_over_is_the_next_attempt_of_the_same_operation"),
    (Fault::GrantsEveryTakeOver, "one_of_many_take_overs_is_granted"),
    (Fault::ReplacesAnyAttempt, "a_take_over_names_the_attempt_that_it_replaces"),
    (Fault::AcknowledgesTheSuperseded, "a_superseded_attempt_changes_nothing"),
    (Fault::LosesCheckpoints, "the_newest_checkpoint_is_shown_to_the_next_attempt"),
    (Fault::CompletesOnlyOnce, "a_completion_may_be_asked_for_again"),
    (Fault::GrantsToWhoWaited, "a_completion_lets_every_waiting_caller_go_on"),
    (Fault::OrphansOnRelease, "a_release_lets_one_waiting_caller_run"),
    (Fault::FinishesDroppedClaims, "a_claim_whose_future_is_dropped_is_not_left_behind"),
    (Fault::RenewsNothing, "a_lease_that_is_over_makes_an_orphan_and_a_renewed_one_does_not"),
    (Fault::RefusesTheLapsed, "a_lapsed_attempt_that_nobody_took_over_still_completes"),
    (Fault::ReplaysTheExpired, "a_response_is_absent_from_its_expiry_on"),
    (Fault::ForgetsAtACrash, "a_crash_keeps_what_was_acknowledged_and_orphans_what_was_open"),
    // A store that begins anew begins its tokens anew.
    (Fault::ForgetsAtACrash, "tokens_increase_and_operation_ids_never_come_twice"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_finds_the_fault_that_it_is_for() {
    let healthy = run(&Ground::new()).await;
    assert_eq!(healthy.passed, FAULTS.map(|(_, case)| case), "each case has a fault");
    for (fault, case) in FAULTS {
        let report: Report = run_one(&WithFault(Ground::new(), fault), case).await;
        println!("{fault:?}: {report}");
        assert_eq!((report.failed.len(), report.failed[0].0), (1, case), "{fault:?}");
        assert_ne!(report.failed[0].1, "it did not end", "{fault:?}");
    }
}
