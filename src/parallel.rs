//! Work on numbered pieces, on all cores, with the results in order.

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, thread};

/// On how many threads a piece of work is worth being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    All,
}

/// Does `work` for every number below `count`.
pub(crate) fn for_each<T: Send>(
    count: usize,
    threads: Threads,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let threads = match threads {
        Threads::One => 1,
        Threads::All => std::thread::available_parallelism().map_or(1, usize::from).min(count),
    };
    if threads <= 1 {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    // LOCK: results (a leaf)
    let done = Mutex::new(Vec::with_capacity(count));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    // Relaxed: the number alone is shared, and the scope's end orders the rest.
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let result = work(number);
                    done.lock().push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner();
    done.sort_unstable_by_key(|&(number, _)| number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for threads in [Threads::One, Threads::All] {
            assert_eq!(
                for_each(1000, threads, |n| n * n),
                (0..1000).map(|n| n * n).collect::<Vec<_>>()
            );
            assert!(for_each(0, threads, |n| n).is_empty());
        }
    }
}
