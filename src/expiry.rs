//! Which segments are past, and so may be unlinked. Errs late: a segment whose expiry is in doubt
//! is kept.

use crate::format::summary::Summary;

/// What [`Store::expire`](crate::Store::expire) dropped.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Segments unlinked.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Responses that were in them.
    pub responses: u64,
    /// Orphans that nobody resolved for a whole ttl.
    pub orphans: u64,
}

/// How many of the sealed segments, oldest first, are past at `now_ms`. Segments go strictly from
/// the oldest on, so that a record that ends another is never dropped before it.
pub(crate) fn due(sealed: &[(u64, Summary)], now_ms: u64, grace_ms: u64) -> usize {
    sealed.iter().take_while(|(_, summary)| is_past(summary, now_ms, grace_ms)).count()
}

fn is_past(summary: &Summary, now_ms: u64, grace_ms: u64) -> bool {
    match (summary.completes, summary.expires_ms_max) {
        (0, _) => true,
        // Responses without an expiry: what they are is in doubt.
        (_, 0) => false,
        (_, expires_ms) => now_ms >= expires_ms.saturating_add(grace_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(completes: u32, expires_ms_max: u64) -> Summary {
        Summary { completes, expires_ms_max, ..Summary::default() }
    }

    #[test]
    fn segments_are_dropped_oldest_first_and_only_past_their_grace() {
        let segments = [(1, sealed(5, 100)), (2, sealed(0, 0)), (3, sealed(1, 300))];
        assert_eq!(due(&segments, 109, 10), 0);
        assert_eq!(due(&segments, 110, 10), 2);
        assert_eq!(due(&segments, 310, 10), 3);
        let blocked = [(1, sealed(5, 500)), (2, sealed(5, 100))];
        assert_eq!(due(&blocked, 400, 10), 0, "a later segment never goes first");
    }

    #[test]
    fn a_segment_without_an_expiry_is_kept() {
        assert_eq!(due(&[(1, sealed(5, 0))], u64::MAX, 0), 0);
    }
}
