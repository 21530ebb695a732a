//! The store as a backend of the layer.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::postgres::claims::{Told, Wanted};
use crate::cluster::postgres::error::PostgresError;
use crate::cluster::postgres::permit::PostgresPermit;
use crate::cluster::postgres::store::PostgresStore;
use crate::http::backend::{Backend, Completed, Promises};
use crate::scope::{Fingerprint, Scope, Token};

impl Backend for PostgresStore {
    type Permit = PostgresPermit;
    type Error = PostgresError;

    fn promises(&self) -> Promises {
        self.shared.promises
    }

    async fn claim(&self, scope: Scope<'_>, fingerprint: Fingerprint, lease: Duration) -> Told {
        self.shared.claim(Wanted::new(scope, fingerprint, lease)?).await
    }

    async fn claim_after(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Told {
        self.shared.claim_after(Wanted::new(scope, fingerprint, lease)?, seen).await
    }

    async fn take_over(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Told {
        self.shared.take_over(Wanted::new(scope, fingerprint, lease)?, seen).await
    }

    async fn complete(
        &self,
        permit: &PostgresPermit,
        parts: &[&[u8]],
    ) -> Result<Completed, PostgresError> {
        self.shared.complete(permit, parts).await
    }

    async fn release(&self, permit: &PostgresPermit) -> Result<(), PostgresError> {
        self.shared.release(permit).await
    }

    async fn give_up(&self, permit: &PostgresPermit) -> Result<(), PostgresError> {
        self.shared.give_up(permit).await
    }

    fn give_up_soon(&self, permit: &PostgresPermit) {
        let (shared, permit) = (Arc::clone(&self.shared), permit.clone());
        self.shared.runtime.spawn(async move { shared.give_up(&permit).await });
    }

    async fn renew(&self, permit: &PostgresPermit, lease: Duration) -> Result<(), PostgresError> {
        self.shared.renew(permit, lease).await
    }

    async fn save_checkpoint(
        &self,
        permit: &PostgresPermit,
        checkpoint: &[u8],
    ) -> Result<(), PostgresError> {
        self.shared.save_checkpoint(permit, checkpoint).await
    }
}
