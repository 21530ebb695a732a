//! Whose request it is: what an outer, authenticating layer says, never the client's bare word.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;

type Of = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// Finds the organization of a request. `None` although the request has a key is a mistake of the
/// server: the handler does not run, and the answer is `500`, code `idempotency_misconfigured`.
///
/// ```
/// use oncelog::http::Organization;
///
/// #[derive(Clone)]
/// struct Account { organization: String }
///
/// // An outer layer authenticates and inserts an `Account`.
/// let organization = Organization::of_extension(|account: &Account| account.organization.clone());
/// ```
#[derive(Clone)]
pub struct Organization(Arc<Of>);

impl Organization {
    /// Read by a function of the request's head.
    pub fn of(of: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Organization {
        Organization(Arc::new(of))
    }

    /// Read from what an outer layer put into the extensions of the request.
    pub fn of_extension<T: Send + Sync + 'static>(
        read: impl Fn(&T) -> String + Send + Sync + 'static,
    ) -> Organization {
        Organization::of(move |parts| parts.extensions.get::<T>().map(&read))
    }

    /// All callers are one organization: for a server that has one tenant.
    pub fn single() -> Organization {
        Organization::of(|_| Some(String::new()))
    }

    pub(crate) fn find(&self, parts: &Parts) -> Option<String> {
        (self.0)(parts)
    }
}

impl fmt::Debug for Organization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Organization")
    }
}
