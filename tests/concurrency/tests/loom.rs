//! Every schedule of what the engine shares in its smallest parts.
#![cfg(loom)]

use oncelog_concurrency::models;

#[test]
fn a_future_is_told_of_its_outcome_or_woken_by_it() {
    models::a_future_is_told_or_woken();
}

#[test]
fn a_grant_whose_future_went_away_is_released_by_exactly_one() {
    models::an_abandoned_grant_is_released_once();
}

#[test]
fn a_signal_wakes_a_thread_and_a_task_whenever_they_came() {
    models::a_signal_wakes_a_thread_and_a_task();
}

#[test]
fn store_time_never_goes_back() {
    models::store_time_never_goes_back();
}

#[test]
fn a_jump_of_the_wall_clock_is_held_for_every_reader() {
    models::a_jump_is_held_for_every_reader();
}

#[test]
fn an_accepted_jump_is_seen_by_whoever_is_told_of_it() {
    models::an_accepted_jump_is_seen_by_whoever_is_told();
}

#[test]
#[should_panic(expected = "never told")]
fn a_ticket_that_looks_and_tells_without_one_lock_is_found() {
    models::a_ticket_without_its_lock_is_found();
}
