//! The conformance suite on the embedded store, and on stores with a fault put in by hand, each of
//! which a case finds.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use oncelog::conformance::{Harness, Report, run, run_one};
use oncelog::http::{
    Answer, AnyBackend, Backend, BackendPermit as _, Completed, Promises, StorePermit,
};
use oncelog::{Error, Fingerprint, ManualClock, Scope, Store, Token};
use tempfile::TempDir;

use crate::support::options;

/// Stores in scratch directories under a clock that is moved by hand.
struct Embedded {
    dirs: Mutex<Vec<TempDir>>,
    clock: ManualClock,
}

impl Embedded {
    fn new() -> Embedded {
        let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30));
        Embedded { dirs: Mutex::default(), clock }
    }

    const LEASE: Duration = Duration::from_secs(10);

    fn open(&self, ttl: Duration) -> Store {
        let dirs = self.dirs.lock().unwrap();
        let dir = dirs.last().unwrap().path();
        let options = options().ttl(ttl).lease(Self::LEASE).clock(self.clock.clone());
        options.open(dir).unwrap()
    }

    fn fresh(&self, ttl: Duration) -> Store {
        self.dirs.lock().unwrap().push(tempfile::tempdir().unwrap());
        self.open(ttl)
    }

    fn crash(&self, store: Store) -> Store {
        let ttl = store.ttl();
        store.close().unwrap();
        self.open(ttl)
    }
}

impl Harness for Embedded {
    type Backend = Store;

    async fn fresh(&self, ttl: Duration) -> Store {
        Embedded::fresh(self, ttl)
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn shortest_lease(&self) -> Duration {
        Self::LEASE
    }

    async fn crash(&self, store: Store) -> Store {
        Embedded::crash(self, store)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_conforms() {
    let report = run(&Embedded::new()).await;
    assert_eq!(report.failed, [], "{report}");
    assert_eq!(report.passed.len(), 21);
}

/// The embedded store behind [`AnyBackend`].
struct Boxed(Embedded, Mutex<Option<Store>>);

impl Harness for Boxed {
    type Backend = AnyBackend;

    async fn fresh(&self, ttl: Duration) -> AnyBackend {
        let store = self.0.fresh(ttl);
        *self.1.lock().unwrap() = Some(store.clone());
        AnyBackend::new(store)
    }

    async fn pass(&self, time: Duration) {
        self.0.clock.advance(time);
    }

    fn shortest_lease(&self) -> Duration {
        Embedded::LEASE
    }

    async fn crash(&self, _: AnyBackend) -> AnyBackend {
        let before = self.1.lock().unwrap().take().unwrap();
        let store = self.0.crash(before);
        *self.1.lock().unwrap() = Some(store.clone());
        AnyBackend::new(store)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boxed_store_conforms() {
    let report = run(&Boxed(Embedded::new(), Mutex::default())).await;
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
}

#[derive(Clone)]
struct Faulty {
    store: Store,
    fault: Fault,
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
            _ => Backend::claim(&self.store, scope, fingerprint, lease).await,
        }
    }

    async fn claim_after(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<StorePermit>, Error> {
        self.store.claim_after(scope, fingerprint, seen, lease).await
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
        self.store.take_over(scope, fingerprint, seen, lease).await
    }

    async fn complete(&self, permit: &StorePermit, parts: &[&[u8]]) -> Result<Completed, Error> {
        let lost = usize::from(self.fault == Fault::LosesTheLastPart && parts.len() > 1);
        // The cases send an empty last part; the one before it is what is missed.
        let kept = &parts[..parts.len() - 2 * lost];
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
        Backend::release(&self.store, permit).await
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

struct WithFault(Embedded, Fault);

impl Harness for WithFault {
    type Backend = Faulty;

    async fn fresh(&self, ttl: Duration) -> Faulty {
        Faulty { store: self.0.fresh(ttl), fault: self.1 }
    }

    async fn pass(&self, time: Duration) {
        self.0.clock.advance(time);
    }

    fn shortest_lease(&self) -> Duration {
        Embedded::LEASE
    }

    async fn crash(&self, faulty: Faulty) -> Faulty {
        let ttl = faulty.store.ttl();
        let store = self.0.crash(faulty.store);
        let store = match self.1 {
            Fault::ForgetsAtACrash => self.0.fresh(ttl),
            _ => store,
        };
        Faulty { store, fault: self.1 }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_is_found_by_the_case_that_it_is_for() {
    let faults = [
        (Fault::IgnoresFingerprints, "another_fingerprint_is_a_conflict_in_every_state"),
        (Fault::FreesOnGiveUp, "an_attempt_given_up_is_an_orphan_with_cause_failed"),
        (Fault::AcknowledgesTheSuperseded, "a_superseded_attempt_changes_nothing"),
        (Fault::JoinsFields, "the_fields_of_a_scope_never_run_into_each_other"),
        (Fault::LosesTheLastPart, "a_completed_operation_is_replayed_byte_for_byte"),
        (Fault::ForgetsAtACrash, "a_crash_keeps_what_was_acknowledged_and_orphans_what_was_open"),
        (Fault::RenewsNothing, "a_lease_that_is_over_makes_an_orphan_and_a_renewed_one_does_not"),
        (Fault::ReplacesAnyAttempt, "a_take_over_names_the_attempt_that_it_replaces"),
        (Fault::LosesCheckpoints, "the_newest_checkpoint_is_shown_to_the_next_attempt"),
    ];
    for (fault, case) in faults {
        let report: Report = run_one(&WithFault(Embedded::new(), fault), case).await;
        assert_eq!((report.failed.len(), report.failed[0].0), (1, case), "{fault:?}");
    }
}
