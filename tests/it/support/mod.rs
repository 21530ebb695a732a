//! What the tests share.

pub(crate) mod caller;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod history;
pub(crate) mod intercept;
pub(crate) mod model;
pub(crate) mod planted;
pub(crate) mod rng;
pub(crate) mod rows;
pub(crate) mod tree;
