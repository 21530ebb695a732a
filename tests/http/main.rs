//! The HTTP layer on the embedded store: what the layer does on every store, and what only this one
//! can show.
#![expect(clippy::unwrap_used, reason = "a step of a test that fails fails the test")]

mod ground;
#[path = "../layer/mod.rs"]
mod layer;

mod conformance;
mod embedded;
mod operators;
mod told;
