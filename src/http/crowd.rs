//! How many requests each organization has under way, against one bound, counted by many threads
//! that do not wait for each other.
//!
//! A thread counts in a stripe of its own, up to a quota that the stripe was given. All quotas of
//! an organization together are at most the bound; a stripe that has used its own takes more of
//! what nobody has, then of what others do not use. So a request is refused only where the bound
//! is reached.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::{Mutex, MutexGuard};

const STRIPES: usize = 16;
/// Organizations that a stripe keeps at least before it forgets those that have nothing under way.
const KEPT_MIN: usize = 1_024;

#[derive(Debug, Default)]
pub(crate) struct Crowd {
    stripes: [Stripe; STRIPES],
}

/// Apart in memory, so that no two cores write to one line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(
    // LOCK: crowd (several in the order of the stripes, otherwise a leaf)
    Mutex<Counts>,
);

#[derive(Debug, Default)]
struct Counts {
    organizations: HashMap<Arc<str>, Count>,
    /// Organizations at which those without requests are forgotten.
    kept: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    used: usize,
    quota: usize,
}

/// In which stripe a request is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted(usize);

impl Crowd {
    /// Counts one more, if there are fewer than `bound`.
    pub(crate) fn enter(&self, organization: &Arc<str>, bound: usize) -> Option<Counted> {
        let own = stripe();
        if let Some(count) = self.stripes[own].0.lock().organizations.get_mut(organization)
            && count.used < count.quota
        {
            count.used += 1;
            return Some(Counted(own));
        }
        self.enter_with_more(organization, bound, own)
    }

    /// One fewer.
    pub(crate) fn leave(&self, organization: &Arc<str>, counted: Counted) {
        let mut counts = self.stripes[counted.0].0.lock();
        let count = counts.organizations.get_mut(organization);
        count.expect("what is under way is not forgotten").used -= 1;
    }

    /// Gives the stripe a larger quota, if it can have one.
    #[cold]
    fn enter_with_more(
        &self,
        organization: &Arc<str>,
        bound: usize,
        own: usize,
    ) -> Option<Counted> {
        let mut all: Vec<MutexGuard<'_, Counts>> =
            self.stripes.iter().map(|stripe| stripe.0.lock()).collect();
        let quotas = all.iter().filter_map(|counts| counts.organizations.get(organization));
        let free = bound.saturating_sub(quotas.map(|count| count.quota).sum());
        let more = match free {
            0 => all.iter_mut().map(|counts| counts.unused(organization)).sum(),
            free => free.min((bound / (2 * STRIPES)).max(1)),
        };
        if more == 0 {
            return None;
        }
        let count = all[own].of(organization);
        count.quota += more;
        count.used += 1;
        Some(Counted(own))
    }
}

impl Counts {
    /// Takes back half of what an organization does not use here, and the last one whole.
    fn unused(&mut self, organization: &Arc<str>) -> usize {
        let Some(count) = self.organizations.get_mut(organization) else { return 0 };
        let back = (count.quota - count.used).div_ceil(2);
        count.quota -= back;
        back
    }

    /// The count of an organization, which is kept from now on.
    fn of(&mut self, organization: &Arc<str>) -> &mut Count {
        let is_new = !self.organizations.contains_key(organization);
        if is_new && self.organizations.len() >= self.kept.max(KEPT_MIN) {
            self.organizations.retain(|_, count| count.used > 0);
            self.kept = 2 * self.organizations.len();
        }
        self.organizations.entry(Arc::clone(organization)).or_default()
    }
}

/// The stripe of this thread.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.with(|own| {
        own.get().unwrap_or_else(|| {
            // Relaxed: any spread of the threads over the stripes will do.
            let next = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
            own.set(Some(next));
            next
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn organizations(crowd: &Crowd) -> usize {
        crowd.stripes.iter().map(|stripe| stripe.0.lock().organizations.len()).sum()
    }

    #[test]
    fn a_request_is_refused_where_the_bound_is_reached_and_only_there() {
        for bound in [1, 2, 15, 16, 17, 33, 1_000] {
            let (crowd, acme) = (Crowd::default(), Arc::from("acme"));
            let entered: Vec<_> = (0..bound).map(|_| crowd.enter(&acme, bound)).collect();
            assert!(entered.iter().all(Option::is_some), "{bound}");
            assert!(crowd.enter(&acme, bound).is_none(), "{bound}");
            assert!(crowd.enter(&Arc::from("globex"), bound).is_some(), "another organization");
            crowd.leave(&acme, entered[0].expect("it entered"));
            assert!(crowd.enter(&acme, bound).is_some(), "{bound}");
            assert!(crowd.enter(&acme, bound).is_none(), "{bound}");
        }
    }

    #[test]
    fn what_one_thread_does_not_use_another_gets() {
        let (crowd, acme) = (Crowd::default(), Arc::from("acme"));
        let enter_all = || {
            let entered: Vec<_> = std::iter::from_fn(|| crowd.enter(&acme, 100)).collect();
            assert_eq!(entered.len(), 100);
            entered
        };
        let leave = |entered: Vec<Counted>| {
            entered.into_iter().for_each(|counted| crowd.leave(&acme, counted));
        };
        leave(enter_all());
        for _ in 0..40 {
            // The quotas are where the last thread left them, and it gives its places back here.
            let entered = std::thread::scope(|threads| threads.spawn(enter_all).join());
            leave(entered.expect("the thread ends"));
        }
    }

    #[test]
    fn threads_at_once_never_pass_the_bound_and_leave_nothing_behind() {
        let (crowd, acme) = (Crowd::default(), Arc::from("acme"));
        let under_way = AtomicUsize::new(0);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..20_000 {
                        let Some(counted) = crowd.enter(&acme, 5) else { continue };
                        // Relaxed: the sum alone is looked at.
                        assert!(under_way.fetch_add(1, Ordering::Relaxed) < 5);
                        under_way.fetch_sub(1, Ordering::Relaxed);
                        crowd.leave(&acme, counted);
                    }
                });
            }
        });
        let entered = std::iter::from_fn(|| crowd.enter(&acme, 5)).count();
        assert_eq!(entered, 5, "all places are free again");
    }

    #[test]
    fn what_is_kept_of_organizations_that_have_gone_is_bounded() {
        let crowd = Crowd::default();
        let stays: Arc<str> = Arc::from("stays");
        let counted = crowd.enter(&stays, 10).expect("a place");
        for number in 0..10 * KEPT_MIN {
            let organization = Arc::from(number.to_string());
            let counted = crowd.enter(&organization, 10).expect("a place");
            crowd.leave(&organization, counted);
        }
        assert!(organizations(&crowd) <= KEPT_MIN);
        crowd.leave(&stays, counted);
        assert!(crowd.enter(&Arc::from("acme"), 0).is_none(), "there is no place at all");
        assert!(organizations(&crowd) <= KEPT_MIN);
    }
}
