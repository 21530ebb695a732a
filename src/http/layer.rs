//! The layer: where claims live, whose they are, and the rules of each route.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::request::Parts;
use tower_layer::Layer;

use crate::http::backend::Backend;
use crate::http::organization::Organization;
use crate::http::orphans::Orphans;
use crate::http::policy::Policy;
use crate::http::service::Idempotency;
use crate::http::settings::{Config, Shared, State};
use crate::http::tasks::Drained;
use crate::http::waiters::Bounds;

/// A [`tower::Layer`](tower_layer::Layer) that lets clients retry writes: see the
/// [module's page](crate::http).
///
/// Clones share their bounds and their runs, so that one [`IdempotencyLayer::drain`] waits for all.
#[must_use = "a layer does nothing until it wraps a service"]
pub struct IdempotencyLayer<B> {
    config: Config<B>,
    state: Arc<State>,
}

impl<B: Backend> IdempotencyLayer<B> {
    /// A layer with the default policy. Where claims live, whose a request is, and what becomes of
    /// an operation whose outcome is unknown have no right default.
    pub fn new(backend: B, organization: Organization, orphans: Orphans) -> Self {
        let config = Config {
            backend,
            organization,
            policy: Policy::of_defaults(orphans),
            policy_for: None,
            original_uri: None,
            bounds: Bounds::default(),
        };
        IdempotencyLayer { config, state: Arc::default() }
    }

    /// The policy of every route for which [`IdempotencyLayer::policy_for`] has none.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.config.policy = policy;
        self
    }

    /// Chooses a policy by the head of the request; `None` is the one of
    /// [`IdempotencyLayer::policy`].
    pub fn policy_for(
        mut self,
        choose: impl Fn(&Parts) -> Option<Policy> + Send + Sync + 'static,
    ) -> Self {
        self.config.policy_for = Some(Arc::new(choose));
        self
    }

    /// Finds the address of the request line, where a router around this layer strips prefixes.
    /// With the feature `axum`, the one that axum keeps is found without this.
    pub fn original_uri(
        mut self,
        find: impl Fn(&Parts) -> Option<Uri> + Send + Sync + 'static,
    ) -> Self {
        self.config.original_uri = Some(Arc::new(find));
        self
    }

    /// How much may wait and run.
    pub fn bounds(mut self, bounds: Bounds) -> Self {
        self.config.bounds = bounds;
        self
    }

    /// Waits until every run has ended, those whose client hung up too, for at most `limit`. From
    /// the call on, what would run is answered `503`; replays go on.
    ///
    /// Call it after the server has stopped accepting, and before `Store::close`: what is left
    /// then is an orphan.
    pub async fn drain(&self, limit: Duration) -> Drained {
        self.state.tasks.drain(limit).await
    }

    /// Runs under way, those whose client hung up too.
    pub fn running(&self) -> u64 {
        self.state.tasks.running()
    }

    /// Requests that wait now for the run of another request with their key.
    pub fn waiting(&self) -> usize {
        self.state.places.waiting()
    }
}

impl<B: Clone> Clone for IdempotencyLayer<B> {
    fn clone(&self) -> Self {
        IdempotencyLayer { config: self.config.clone(), state: Arc::clone(&self.state) }
    }
}

impl<B> fmt::Debug for IdempotencyLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("policy", &self.config.policy)
            .field("bounds", &self.config.bounds)
            .finish_non_exhaustive()
    }
}

impl<B: Backend, S> Layer<S> for IdempotencyLayer<B> {
    type Service = Idempotency<B, S>;

    fn layer(&self, inner: S) -> Idempotency<B, S> {
        let (config, state) = (self.config.clone(), Arc::clone(&self.state));
        Idempotency::new(inner, Arc::new(Shared { config, state }))
    }
}
