//! The operators' cases of the suite on the embedded store, and on stores with a fault put in by
//! hand: one for every case, which finds it.

use std::time::Duration;

use oncelog::conformance::{Harness, run_administer, run_one_administer};
use oncelog::http::{
    Administer, Answer, Backend, BackendPermit as _, Completed, Holding, Promises, StorePermit,
    Unresolved,
};
use oncelog::{Error, Fingerprint, Scope, Store, Token};

use crate::ground::Ground;

/// What a faulty store does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    ClaimsWhatIsLookedUp,
    ListsWithoutOrder,
    ResolvesWithNothing,
    CompletesTheResolved,
    ReleasesNothing,
    SettlesAnyAttempt,
    ForgetsOrphans,
    ForgetsByPrefix,
}

#[derive(Clone)]
struct Faulty(Store, Fault);

impl Backend for Faulty {
    type Permit = StorePermit;
    type Error = Error;

    fn promises(&self) -> Promises {
        self.0.promises()
    }

    async fn claim(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Answer<StorePermit>, Error> {
        Backend::claim(&self.0, scope, fingerprint, lease).await
    }

    async fn claim_after(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<StorePermit>, Error> {
        self.0.claim_after(scope, fingerprint, seen, lease).await
    }

    async fn take_over(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<StorePermit>, Error> {
        self.0.take_over(scope, fingerprint, seen, lease).await
    }

    async fn complete(&self, permit: &StorePermit, parts: &[&[u8]]) -> Result<Completed, Error> {
        match self.0.complete(permit, parts).await {
            Err(Error::Superseded) if self.1 == Fault::CompletesTheResolved => {
                let (token, operation) = (permit.token(), permit.operation());
                let (completed_at, attempt) = (std::time::SystemTime::UNIX_EPOCH, permit.attempt());
                let (response, expires_at) = (None, completed_at);
                Ok(Completed { response, completed_at, expires_at, token, operation, attempt })
            }
            completed => completed,
        }
    }

    async fn release(&self, permit: &StorePermit) -> Result<(), Error> {
        self.0.release(permit).await
    }

    async fn give_up(&self, permit: &StorePermit) -> Result<(), Error> {
        self.0.give_up(permit).await
    }

    fn give_up_soon(&self, permit: &StorePermit) {
        self.0.give_up_soon(permit);
    }

    async fn renew(&self, permit: &StorePermit, lease: Duration) -> Result<(), Error> {
        Backend::renew(&self.0, permit, lease).await
    }

    async fn save_checkpoint(&self, permit: &StorePermit, bytes: &[u8]) -> Result<(), Error> {
        self.0.save_checkpoint(permit, bytes).await
    }
}

impl Faulty {
    /// The attempt that is settled, whatever was named.
    fn current(&self, scope: Scope<'_>, seen: Token) -> Result<Token, Error> {
        let current = self.0.orphan(scope)?.map(|orphan| orphan.info().token());
        let any = self.1 == Fault::SettlesAnyAttempt;
        Ok(current.filter(|_| any).unwrap_or(seen))
    }
}

impl Administer for Faulty {
    async fn look_up(&self, scope: Scope<'_>) -> Result<Option<Holding>, Error> {
        if self.1 == Fault::ClaimsWhatIsLookedUp {
            drop(self.0.claim(scope, Fingerprint::of(b"body"))?);
        }
        self.0.look_up(scope).await
    }

    async fn unresolved(
        &self,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Unresolved>, Error> {
        let mut orphans = Administer::unresolved(&self.0, after, limit).await?;
        if self.1 == Fault::ListsWithoutOrder {
            orphans.reverse();
        }
        Ok(orphans)
    }

    async fn resolve(
        &self,
        scope: Scope<'_>,
        seen: Token,
        response: &[u8],
    ) -> Result<Completed, Error> {
        let seen = self.current(scope, seen)?;
        if self.1 == Fault::ResolvesWithNothing {
            let completed = Administer::resolve(&self.0, scope, seen, b"").await?;
            return Ok(Completed { response: Some(response.to_vec().into()), ..completed });
        }
        Administer::resolve(&self.0, scope, seen, response).await
    }

    async fn forget(&self, scope: Scope<'_>) -> Result<bool, Error> {
        match self.0.orphan(scope)? {
            Some(orphan) if self.1 == Fault::ForgetsOrphans => orphan.release().map(|()| true),
            _ => Administer::forget(&self.0, scope).await,
        }
    }

    async fn forget_organization(&self, organization: &str) -> Result<u64, Error> {
        if self.1 == Fault::ForgetsByPrefix {
            Administer::forget_organization(&self.0, &format!("{organization}2")).await?;
        }
        Administer::forget_organization(&self.0, organization).await
    }

    async fn release_orphan(&self, scope: Scope<'_>, seen: Token) -> Result<(), Error> {
        if self.1 == Fault::ReleasesNothing {
            return Ok(());
        }
        let seen = self.current(scope, seen)?;
        Administer::release_orphan(&self.0, scope, seen).await
    }
}

struct WithFault(Ground, Fault);

impl Harness for WithFault {
    type Backend = Faulty;

    async fn fresh(&self, ttl: Duration) -> Faulty {
        Faulty(self.0.fresh(ttl).await, self.1)
    }

    async fn pass(&self, time: Duration) {
        self.0.pass(time).await;
    }

    fn shortest_lease(&self) -> Duration {
        self.0.shortest_lease()
    }

    async fn crash(&self, faulty: Faulty) -> Faulty {
        Faulty(self.0.crash(faulty.0).await, self.1)
    }
}

/// Every case beside a fault that it is for.
const FAULTS: [(Fault, &str); 8] = [
    (Fault::ClaimsWhatIsLookedUp, "what_a_scope_holds_is_told_and_never_claimed"),
    (Fault::ListsWithoutOrder, "orphans_are_listed_in_the_order_of_their_tokens"),
    (Fault::ResolvesWithNothing, "a_resolved_orphan_is_replayed"),
    (Fault::CompletesTheResolved, "an_attempt_that_an_operator_resolved_completes_no_more"),
    (
        Fault::ReleasesNothing,
        "an_orphan_that_an_operator_released_is_free_and_its_attempt_changes_nothing",
    ),
    (Fault::SettlesAnyAttempt, "only_the_orphaned_attempt_that_is_named_is_settled"),
    (Fault::ForgetsOrphans, "what_is_forgotten_is_free_and_an_open_claim_is_kept"),
    (Fault::ForgetsByPrefix, "an_organization_is_forgotten_and_no_other"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_conforms_for_operators_and_every_case_finds_its_fault() {
    let healthy = run_administer(&Ground::new()).await;
    assert_eq!(healthy.failed, [], "{healthy}");
    assert_eq!(healthy.passed, FAULTS.map(|(_, case)| case), "each case has a fault");
    for (fault, case) in FAULTS {
        let report = run_one_administer(&WithFault(Ground::new(), fault), case).await;
        println!("{fault:?}: {report}");
        assert_eq!((report.failed.len(), report.failed[0].0), (1, case), "{fault:?}");
        assert_ne!(report.failed[0].1, "it did not end", "{fault:?}");
    }
}
