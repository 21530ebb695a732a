//! The rules of the protocol, each of which the model can do without.
//!
//! The order of events on a disk is the protocol. A rule that is left out has to lead to a state
//! that breaks a promise; `main.rs` asks for that state by name.

use std::fmt;

/// One rule. Those of the log are in `recovery.rs` and `log.rs`, that of the clock in `clock.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// Whoever commits publishes, never the caller, who may be gone.
    CommitterPublishes,
    /// A segment is sealed once CHECKPOINT says so, whatever stands at its end.
    CheckpointSeals,
    /// A clean close leaves the tail unsealed.
    CloseSealsNothing,
    /// The claims that a roll carries are staged with its SEAL, nothing in between.
    CarryIsAtomic,
    /// A CLAIM whose token has ended is void.
    EndedClaimsAreVoid,
    /// Nothing in segment N + 1 is acknowledged, nor N called sealed, before N is synced.
    SyncInOrder,
    /// Every open begins an epoch of its own.
    EpochPerOpen,
    /// The new epoch is in both slots of CHECKPOINT before the first record.
    EpochInBothSlots,
    /// Recovery writes again, and syncs, what no promise covers.
    RewriteUnpromised,
    /// Recovery does the same to the header of a segment that CHECKPOINT does not name yet.
    RewriteHeaders,
    /// Recovery removes the segments behind the cut before it goes on.
    DiscardFirst,
    /// Recovery zeros what is behind the cut.
    ZeroTheCut,
    /// Recovery syncs the SEAL before the segment that follows it exists.
    SealBeforeNext,
    /// The carried claims are durable before CHECKPOINT calls the segment before them sealed.
    CarryBeforeCheckpoint,
    /// The new oldest segment is in both slots before a file is removed.
    OldestInBothSlots,
    /// CHECKPOINT names the new oldest segment before the old one is removed.
    CheckpointBeforeRemoval,
    /// A segment is past once its highest expiry is.
    HighestExpiryDecides,
    /// Operation ids come from a secret that is drawn at each open, and never stored.
    SecretPerOpen,
    /// A store that is adopted has its end in CHECKPOINT before it takes records.
    AdoptionIsPromised,
    /// CHECKPOINT promises no more than is left when a worthless tail is made anew.
    RemakingLowersPromise,
    /// A jump of the wall clock that the monotonic one does not confirm is held.
    HoldJumps,
    /// A clock that jumps again while it is held begins a hold anew.
    EveryJumpIsHeld,
    /// Store time goes on from the highest time on record.
    MarkIsKept,
    /// While a jump is held, an expiry counts from the latest time that could be true.
    ExpiryFromLatest,
}

/// Those that a model leaves out.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Without(pub(crate) Vec<Rule>);

impl Without {
    pub(crate) fn keeps(&self, rule: Rule) -> bool {
        !self.0.contains(&rule)
    }
}

impl fmt::Debug for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "without {:?}", self.0)
    }
}
