//! The conformance suite on PostgreSQL, and with faults put in by hand that it finds.

use std::sync::Arc;
use std::time::Duration;

use oncelog::cluster::{PostgresError, PostgresPermit, PostgresStore};
use oncelog::conformance::{Harness, run, run_administer, run_one};
use oncelog::http::{Answer, Backend, BackendPermit as _, Completed, Promises};
use oncelog::{Fingerprint, Scope, Token};

use crate::ground::Ground;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms() {
    let report = run(&Ground::new()).await;
    println!("{report}");
    assert_eq!(report.failed, [], "{report}");
    assert_eq!(report.passed.len(), 21);
    let report = run_administer(&Ground::new()).await;
    assert_eq!(report.failed, [], "{report}");
    assert_eq!(report.passed.len(), 8);
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    CompletesWithoutItsToken,
    DropsTooEarly,
    IgnoresTheFingerprint,
}

#[derive(Clone)]
struct Faulty {
    store: PostgresStore,
    server: Arc<Server>,
    schema: String,
    fault: Fault,
}

impl Backend for Faulty {
    type Permit = PostgresPermit;
    type Error = PostgresError;

    fn promises(&self) -> Promises {
        self.store.promises()
    }

    async fn claim(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Answer<PostgresPermit>, PostgresError> {
        if self.fault == Fault::IgnoresTheFingerprint {
            return self.store.claim(scope, Fingerprint::of(b""), lease).await;
        }
        self.store.claim(scope, fingerprint, lease).await
    }

    async fn claim_after(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<PostgresPermit>, PostgresError> {
        self.store.claim_after(scope, fingerprint, seen, lease).await
    }

    async fn take_over(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<PostgresPermit>, PostgresError> {
        self.store.take_over(scope, fingerprint, seen, lease).await
    }

    async fn complete(
        &self,
        permit: &PostgresPermit,
        parts: &[&[u8]],
    ) -> Result<Completed, PostgresError> {
        let schema = &self.schema;
        if self.fault == Fault::CompletesWithoutItsToken {
            // The statement of the store without what names the attempt.
            let bytes: String = parts.concat().iter().map(|byte| format!("{byte:02x}")).collect();
            self.server
                .sql(&format!(
                    "UPDATE {schema}.claim SET state = 1, completed_at = {schema}.now(), body = \
                     '\\x{bytes}', expires_at = {schema}.now() + '1 hour'::interval"
                ))
                .await;
            return self.store.complete(permit, parts).await.or_else(|_| {
                let (token, operation) = (permit.token(), permit.operation());
                let now = std::time::SystemTime::UNIX_EPOCH;
                let (completed_at, expires_at, attempt) = (now, now, 1);
                let response = None;
                Ok(Completed { response, completed_at, expires_at, token, operation, attempt })
            });
        }
        let completed = self.store.complete(permit, parts).await;
        if self.fault == Fault::DropsTooEarly {
            self.server
                .sql(&format!(
                    "SELECT {schema}.rotate(1); DROP TABLE {schema}.claim_1;
                     DELETE FROM {schema}.generation WHERE generation = 1"
                ))
                .await;
        }
        completed
    }

    async fn release(&self, permit: &PostgresPermit) -> Result<(), PostgresError> {
        self.store.release(permit).await
    }

    async fn give_up(&self, permit: &PostgresPermit) -> Result<(), PostgresError> {
        self.store.give_up(permit).await
    }

    fn give_up_soon(&self, permit: &PostgresPermit) {
        self.store.give_up_soon(permit);
    }

    async fn renew(&self, permit: &PostgresPermit, lease: Duration) -> Result<(), PostgresError> {
        self.store.renew(permit, lease).await
    }

    async fn save_checkpoint(
        &self,
        permit: &PostgresPermit,
        bytes: &[u8],
    ) -> Result<(), PostgresError> {
        self.store.save_checkpoint(permit, bytes).await
    }
}

struct WithFault(Ground, Fault);

impl WithFault {
    fn distort(&self, store: PostgresStore) -> Faulty {
        let (server, schema) = (Arc::clone(&self.0.server), self.0.schema());
        Faulty { store, server, schema, fault: self.1 }
    }
}

impl Harness for WithFault {
    type Backend = Faulty;

    async fn fresh(&self, ttl: Duration) -> Faulty {
        let store = self.0.fresh(ttl).await;
        self.distort(store)
    }

    async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }

    fn shortest_lease(&self) -> Duration {
        self.0.shortest_lease()
    }

    async fn crash(&self, faulty: Faulty) -> Faulty {
        let store = self.0.crash(faulty.store).await;
        self.distort(store)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_finds_each_fault_put_in_by_hand() {
    for (fault, case) in [
        (Fault::CompletesWithoutItsToken, "a_superseded_attempt_changes_nothing"),
        (Fault::DropsTooEarly, "a_completed_operation_is_replayed_byte_for_byte"),
        (Fault::IgnoresTheFingerprint, "another_fingerprint_is_a_conflict_in_every_state"),
    ] {
        let report = run_one(&WithFault(Ground::new(), fault), case).await;
        println!("{fault:?}: {report}");
        assert_eq!((report.failed.len(), report.failed[0].0), (1, case), "{fault:?}");
        assert_ne!(report.failed[0].1, "it did not end", "{fault:?}");
    }
}
