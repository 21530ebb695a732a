//! What all services of one layer share: its settings, and the state behind its bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Uri;
use http::request::Parts;

use crate::http::backend::Backend;
use crate::http::crowd::Crowd;
use crate::http::observe;
use crate::http::organization::Organization;
use crate::http::policy::{Policy, Rules};
use crate::http::problem::{Code, Problem};
use crate::http::tasks::Tasks;
use crate::http::waiters::{Bounds, Places};

pub(crate) struct Config<B> {
    pub(crate) backend: B,
    pub(crate) organization: Organization,
    pub(crate) policy: Policy,
    pub(crate) policy_for: Option<Arc<PolicyFor>>,
    pub(crate) original_uri: Option<Arc<OriginalUri>>,
    pub(crate) bounds: Bounds,
}

pub(crate) type PolicyFor = dyn Fn(&Parts) -> Option<Policy> + Send + Sync;
pub(crate) type OriginalUri = dyn Fn(&Parts) -> Option<Uri> + Send + Sync;

/// The settings of one layer, and what it shares with its clones.
pub(crate) struct Shared<B> {
    pub(crate) config: Config<B>,
    pub(crate) state: Arc<State>,
}

/// What the services of one layer share.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) crowd: Crowd,
    pub(crate) places: Arc<Places>,
    pub(crate) tasks: Tasks,
    /// That the server is misconfigured is logged once.
    misconfigured: AtomicBool,
}

impl State {
    /// The server cannot tell whose request this is, which it should have been built to.
    pub(crate) fn misconfigured(&self) -> Problem {
        // Only whoever sets it first logs; nothing else hangs on it.
        if !self.misconfigured.swap(true, Ordering::Relaxed) {
            tracing::error!(
                target: observe::TARGET,
                "a request with a key has no organization or principal: is the layer that \
                 authenticates outside of this one?"
            );
        }
        Problem::new(Code::Misconfigured)
    }
}

impl<B: Backend> Config<B> {
    /// The path of the request line.
    pub(crate) fn path(&self, parts: &Parts) -> String {
        if let Some(find) = &self.original_uri
            && let Some(uri) = find(parts)
        {
            return uri.path().to_owned();
        }
        #[cfg(feature = "axum")]
        if let Some(original) = parts.extensions.get::<axum::extract::OriginalUri>() {
            return original.0.path().to_owned();
        }
        parts.uri.path().to_owned()
    }

    /// The policy of this request alone; `None` is that of the layer.
    pub(crate) fn own_policy(&self, parts: &Parts) -> Option<Policy> {
        self.policy_for.as_ref().and_then(|choose| choose(parts))
    }
}

impl<B> Config<B> {
    /// The policy of a request that may have its own.
    pub(crate) fn policy_of<'a>(&'a self, own: Option<&'a Policy>) -> &'a Policy {
        own.unwrap_or(&self.policy)
    }
}

/// What one request goes by. Cores that count the owners of one thing wait for each other, so that
/// there is one such count a request, and none of the layer's own policy.
pub(crate) struct Terms<B> {
    pub(crate) shared: Arc<Shared<B>>,
    pub(crate) own: Option<Policy>,
}

impl<B> Terms<B> {
    pub(crate) fn policy(&self) -> &Policy {
        self.shared.config.policy_of(self.own.as_ref())
    }

    pub(crate) fn rules(&self) -> &Rules {
        self.policy().rules()
    }

    pub(crate) fn config(&self) -> &Config<B> {
        &self.shared.config
    }

    pub(crate) fn state(&self) -> &State {
        &self.shared.state
    }
}

impl<B: Clone> Clone for Config<B> {
    fn clone(&self) -> Self {
        Config {
            backend: self.backend.clone(),
            organization: self.organization.clone(),
            policy: self.policy.clone(),
            policy_for: self.policy_for.clone(),
            original_uri: self.original_uri.clone(),
            bounds: self.bounds,
        }
    }
}
