//! What all services of one layer share: its settings, and the state behind its bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Uri;
use http::request::Parts;

use crate::http::backend::Backend;
use crate::http::observe;
use crate::http::organization::Organization;
use crate::http::policy::Policy;
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

/// What the services of one layer share.
#[derive(Debug, Default)]
pub(crate) struct State {
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

    pub(crate) fn policy(&self, parts: &Parts) -> Policy {
        let own = self.policy_for.as_ref().and_then(|choose| choose(parts));
        own.unwrap_or_else(|| self.policy.clone())
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
