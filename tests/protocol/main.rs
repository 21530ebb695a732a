//! The protocol of the log, checked exhaustively within small bounds: every order of events, every
//! crash between two of them, every subset of what was not synced.
//!
//! `disk.rs` is what a disk does, `log.rs` and `recovery.rs` are what `src/log/` and
//! `src/recovery/` do with it, `model.rs` puts them together and knows what was promised,
//! `clock.rs` is store time. `rules.rs` names the rules that keep the promises: the tests below
//! leave each of them out and ask for the state that breaks a promise.

mod clock;
mod disk;
mod log;
mod model;
mod recovery;
mod rules;

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use crate::clock::{Time, TimeBounds};
use crate::log::Durability::{self, Buffered, Synced};
use crate::model::{
    Bounds, ENDED, EXPIRY, ONE_GRANT, OPENS, OPERATIONS, Protocol, SETTLED, SURVIVES, TOKENS,
};
use crate::rules::{Rule, Without};

/// One scope, claimed up to twice.
const BASE: Bounds = Bounds {
    scopes: 1,
    claims: 2,
    rolls: 0,
    crashes: 0,
    failed_syncs: 0,
    ticks: 0,
    closes: 0,
    rotten_slots: 0,
    left: 0,
    restores: 0,
};
const ROLL_CRASH_CRASH: Bounds = Bounds { rolls: 1, crashes: 2, ..BASE };
const CLOSE_ROT: Bounds = Bounds { closes: 1, rotten_slots: 1, ..BASE };
const CRASHES_ROT: Bounds = Bounds { crashes: 2, rotten_slots: 1, ..BASE };
const FAILED_SYNC: Bounds = Bounds { failed_syncs: 1, crashes: 2, ..BASE };
const DROPS: Bounds = Bounds { ticks: 2, rolls: 1, crashes: 1, rotten_slots: 1, claims: 1, ..BASE };
const TWO_EXPIRIES: Bounds = Bounds { scopes: 2, ticks: 2, rolls: 1, ..BASE };
const LEAVES: Bounds = Bounds { left: 1, crashes: 1, rolls: 1, ..BASE };
const RESTORES: Bounds = Bounds { closes: 2, restores: 1, ..BASE };

/// Whether larger bounds are asked for.
fn is_wide() -> bool {
    std::env::var("ONCELOG_PROTOCOL").is_ok_and(|bounds| bounds == "wide")
}

/// Looks at every state within the bounds.
fn holds(name: &str, durability: Durability, most: Bounds, wide: Bounds) {
    let most = if is_wide() { wide } else { most };
    let model = Protocol { durability, most, without: Without::default() };
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    if let Some((promise, path)) = checker.discoveries().into_iter().next() {
        panic!("{name}, {durability:?}: not {promise:?} after {:?}", path.into_actions());
    }
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}, {durability:?}: {states} states, up to {depth} events");
}

/// The promises that break within the bounds without these rules.
fn broken(rules: &[Rule], durability: Durability, most: Bounds, end: HasDiscoveries) -> Broken {
    let model = Protocol { durability, most, without: Without(rules.to_vec()) };
    let checker = model.checker().finish_when(end).spawn_bfs().join();
    checker.discoveries().into_keys().collect()
}

type Broken = BTreeSet<&'static str>;

/// Without this rule, this promise breaks.
fn breaks(rule: Rule, durability: Durability, most: Bounds, promise: &'static str) {
    let end = HasDiscoveries::AnyOf(BTreeSet::from([promise]));
    let found = broken(&[rule], durability, most, end);
    assert!(found.contains(promise), "{rule:?} is not needed for {promise:?}: {found:?}");
}

#[test]
fn every_promise_is_kept_through_rolls_and_two_crashes() {
    let wide = Bounds { rolls: 2, ..ROLL_CRASH_CRASH };
    holds("rolls", Synced, ROLL_CRASH_CRASH, wide);
    holds("rolls", Buffered, ROLL_CRASH_CRASH, wide);
}

#[test]
fn every_promise_is_kept_for_two_scopes_and_three_claims() {
    let scopes = Bounds { scopes: 2, claims: 3, crashes: 1, ..BASE };
    let wide = Bounds { rolls: 1, ..scopes };
    holds("scopes", Synced, scopes, wide);
    holds("scopes", Buffered, scopes, wide);
}

#[test]
fn every_promise_is_kept_when_a_sync_fails() {
    let wide = Bounds { rolls: 1, ..FAILED_SYNC };
    holds("failed syncs", Synced, FAILED_SYNC, wide);
    holds("failed syncs", Buffered, FAILED_SYNC, wide);
}

#[test]
fn every_promise_is_kept_while_segments_expire() {
    let wide = Bounds { claims: 2, rolls: 2, rotten_slots: 0, ..DROPS };
    holds("drops", Synced, DROPS, wide);
    holds("drops", Buffered, DROPS, wide);
}

#[test]
fn every_promise_is_kept_through_closes_and_a_rotten_slot() {
    let closes = Bounds { crashes: 1, ..CLOSE_ROT };
    let wide = Bounds { rolls: 1, crashes: 2, ..closes };
    holds("closes", Synced, closes, wide);
    holds("closes", Buffered, closes, wide);
}

#[test]
fn every_promise_is_kept_for_callers_who_leave_and_copies_that_are_restored() {
    let wide = Bounds { crashes: 2, ..LEAVES };
    holds("leaves", Synced, LEAVES, wide);
    holds("restores", Synced, RESTORES, Bounds { rolls: 1, ..RESTORES });
    holds("restores", Buffered, RESTORES, Bounds { rolls: 1, ..RESTORES });
}

/// The caller's future is gone, so nobody opens its claim, and the scope is in progress for ever.
#[test]
fn a_claim_is_left_half_way_if_its_caller_publishes_it() {
    breaks(Rule::CommitterPublishes, Synced, LEAVES, SETTLED);
}

/// The SEAL is durable and the carry behind it is not: a scan that stops at the SEAL finds no open
/// claim, and its scope is granted again.
#[test]
fn a_scope_is_granted_twice_if_a_seal_alone_seals() {
    for durability in [Synced, Buffered] {
        breaks(Rule::CheckpointSeals, durability, ROLL_CRASH_CRASH, SURVIVES);
        breaks(Rule::CheckpointSeals, durability, ROLL_CRASH_CRASH, ONE_GRANT);
    }
}

/// The tail has the only copy of a claim that was open at the close, and nobody reads it again.
#[test]
fn a_scope_is_granted_twice_if_a_close_seals_the_tail() {
    for durability in [Synced, Buffered] {
        breaks(Rule::CloseSealsNothing, durability, CLOSE_ROT, ONE_GRANT);
    }
}

/// A commit comes between the SEAL and the carry: CHECKPOINT seals the segment with the claim, and
/// a crash comes before its copy.
#[test]
fn a_scope_is_granted_twice_if_the_carry_is_not_one_step_with_the_roll() {
    for durability in [Synced, Buffered] {
        breaks(Rule::CarryIsAtomic, durability, ROLL_CRASH_CRASH, ONE_GRANT);
    }
}

/// A RELEASE comes between the roll and a late copy of its claim. The atomic carry alone keeps that
/// from happening, so this rule shows only where that one is missing.
#[test]
fn a_claim_comes_back_if_a_copy_behind_its_end_counts() {
    let end = || HasDiscoveries::AnyOf(BTreeSet::from([ENDED]));
    let most = Bounds { claims: 1, ..ROLL_CRASH_CRASH };
    let late = broken(&[Rule::CarryIsAtomic], Buffered, most, end());
    assert!(!late.contains(ENDED), "{late:?}");
    let rules = [Rule::CarryIsAtomic, Rule::EndedClaimsAreVoid];
    assert!(broken(&rules, Buffered, most, end()).contains(ENDED));
}

/// CHECKPOINT calls a segment sealed whose records, SEAL and all, a power cut takes.
#[test]
fn a_power_cut_is_damage_if_the_next_segment_is_synced_first() {
    for durability in [Synced, Buffered] {
        breaks(Rule::SyncInOrder, durability, ROLL_CRASH_CRASH, OPENS);
    }
}

/// A power cut takes a claim that was granted (`Buffered`), or one that a dead process granted
/// before its end was made anew, and the counter goes on from what is left.
#[test]
fn a_token_comes_twice_if_an_open_begins_no_epoch() {
    for durability in [Synced, Buffered] {
        breaks(Rule::EpochPerOpen, durability, ROLL_CRASH_CRASH, TOKENS);
    }
}

/// The recovery dies behind its SEAL, and the one slot that names its epoch rots: the log is of an
/// epoch that never was.
#[test]
fn a_rotten_slot_is_damage_if_the_other_does_not_know_the_epoch() {
    for durability in [Synced, Buffered] {
        breaks(Rule::EpochInBothSlots, durability, CRASHES_ROT, OPENS);
    }
}

/// The page cache holds records, clean, that a failed sync never saved. A new process builds on
/// them, and the next power cut takes them from under what it promised.
#[test]
fn a_power_cut_is_damage_if_recovery_trusts_the_page_cache() {
    for durability in [Synced, Buffered] {
        breaks(Rule::RewriteUnpromised, durability, FAILED_SYNC, OPENS);
    }
}

/// The same for a header: in `Buffered` mode it is synced with the records behind it.
#[test]
fn a_power_cut_is_damage_if_recovery_trusts_a_header_in_the_page_cache() {
    let most = Bounds { rolls: 1, ..FAILED_SYNC };
    breaks(Rule::RewriteHeaders, Buffered, most, OPENS);
}

/// A crash behind the new SEAL, while the segment that followed the old end is still there: it does
/// not continue the one before it.
#[test]
fn a_crash_in_recovery_is_damage_if_what_is_behind_the_cut_stays() {
    breaks(Rule::DiscardFirst, Buffered, ROLL_CRASH_CRASH, OPENS);
}

/// The next segment is durable and promises a SEAL that a power cut took.
#[test]
fn a_crash_in_recovery_is_damage_if_the_seal_is_not_synced_first() {
    for durability in [Synced, Buffered] {
        breaks(Rule::SealBeforeNext, durability, ROLL_CRASH_CRASH, OPENS);
    }
}

/// CHECKPOINT calls the segment with the claim sealed, and a power cut takes the copy.
#[test]
fn a_scope_is_granted_twice_if_checkpoint_is_written_before_the_carry() {
    for durability in [Synced, Buffered] {
        breaks(Rule::CarryBeforeCheckpoint, durability, ROLL_CRASH_CRASH, SURVIVES);
        breaks(Rule::CarryBeforeCheckpoint, durability, ROLL_CRASH_CRASH, ONE_GRANT);
    }
}

/// The newer slot rots, and the older one asks for a segment that was removed.
#[test]
fn a_rotten_slot_is_damage_if_the_other_names_a_removed_segment() {
    for durability in [Synced, Buffered] {
        breaks(Rule::OldestInBothSlots, durability, DROPS, OPENS);
    }
}

/// A crash between the two: CHECKPOINT asks for a segment that is gone.
#[test]
fn a_crash_is_damage_if_a_segment_is_removed_before_checkpoint_says_so() {
    for durability in [Synced, Buffered] {
        breaks(Rule::CheckpointBeforeRemoval, durability, DROPS, OPENS);
    }
}

/// A response that lives shares its segment with one that is past.
#[test]
fn a_response_expires_early_if_a_segment_goes_by_its_lowest_expiry() {
    for durability in [Synced, Buffered] {
        breaks(Rule::HighestExpiryDecides, durability, TWO_EXPIRIES, EXPIRY);
    }
}

/// Two copies of one directory issue the same ids: the LSNs are the same, and so is the secret.
#[test]
fn an_operation_id_comes_twice_if_its_secret_is_stored() {
    for durability in [Synced, Buffered] {
        breaks(Rule::SecretPerOpen, durability, RESTORES, OPERATIONS);
    }
}

/// CHECKPOINT promises a record of the tail that was made anew without it.
#[test]
fn a_crash_in_recovery_is_damage_if_a_worthless_tail_stays_promised() {
    for durability in [Synced, Buffered] {
        breaks(Rule::RemakingLowersPromise, durability, ROLL_CRASH_CRASH, OPENS);
    }
}

/// What follows a cut is behind a SEAL, which ends every scan; what is adopted is promised by the
/// first record of the next epoch. Both rules guard against more than crashes: against damage, and
/// against what a later version may read.
#[test]
fn zeros_behind_a_cut_and_the_promise_of_an_adoption_are_not_needed_against_crashes() {
    for rule in [Rule::ZeroTheCut, Rule::AdoptionIsPromised, Rule::EndedClaimsAreVoid] {
        for most in [ROLL_CRASH_CRASH, Bounds { crashes: 1, ..CLOSE_ROT }] {
            let found = broken(&[rule], Synced, most, HasDiscoveries::AnyFailures);
            assert!(found.is_empty(), "{rule:?} is needed after all: {found:?}");
        }
    }
}

#[test]
fn store_time_keeps_its_promises_through_jumps_and_restarts() {
    let wide = TimeBounds { hours: 7, jumps: 3, restarts: 2 };
    let most = TimeBounds { hours: 5, jumps: 2, restarts: 1 };
    let most = if is_wide() { wide } else { most };
    let model = Time { most, without: Without::default() };
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    if let Some((promise, path)) = checker.discoveries().into_iter().next() {
        panic!("not {promise:?} after {:?}", path.into_actions());
    }
    println!("time: {} states", checker.unique_state_count());
}

/// A wall clock that is wrong for a moment expires what should live.
#[test]
fn a_response_expires_early_if_a_jump_is_believed() {
    time_breaks(Rule::HoldJumps, clock::EARLY);
}

/// A machine slept, and just before that is believed the clock is wrong for a moment.
#[test]
fn a_response_expires_early_if_a_jump_within_a_hold_is_not_held_itself() {
    time_breaks(Rule::EveryJumpIsHeld, clock::EARLY);
}

/// A wall clock that was set back is where the next process begins.
#[test]
fn store_time_goes_back_if_its_mark_is_not_kept() {
    time_breaks(Rule::MarkIsKept, clock::BACKWARDS);
}

/// A response that was completed while a jump was held expires too early once it is accepted.
#[test]
fn a_response_expires_early_if_its_time_counts_from_held_time() {
    time_breaks(Rule::ExpiryFromLatest, clock::EARLY);
}

fn time_breaks(rule: Rule, promise: &'static str) {
    let most = TimeBounds { hours: 5, jumps: 2, restarts: 1 };
    let model = Time { most, without: Without(vec![rule]) };
    let end = HasDiscoveries::AnyOf(BTreeSet::from([promise]));
    let checker = model.checker().finish_when(end).spawn_bfs().join();
    let found = checker.discoveries();
    assert!(found.contains_key(promise), "{rule:?} is not needed for {promise:?}");
}
