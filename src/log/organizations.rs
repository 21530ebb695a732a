//! How many claims of each organization are open, where that is bounded.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::scope;

/// Counted under the lock of the log, where claims begin and end.
#[derive(Debug)]
pub(crate) struct Organizations {
    max: u32,
    open: HashMap<Box<str>, u32>,
}

impl Organizations {
    pub(crate) fn new(max: u32) -> Organizations {
        Organizations { max, open: HashMap::new() }
    }

    /// Whether one more claim of this encoded scope's organization may be open.
    pub(crate) fn check(&self, scope: &[u8]) -> Result<()> {
        let open = self.open.get(organization(scope)).copied().unwrap_or(0);
        if open >= self.max {
            return Err(Error::Full { what: "the open claims of the organization" });
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, scope: &[u8]) {
        let organization = organization(scope);
        match self.open.get_mut(organization) {
            Some(open) => *open += 1,
            None => {
                self.open.insert(organization.into(), 1);
            }
        }
    }

    pub(crate) fn remove(&mut self, scope: &[u8]) {
        let organization = organization(scope);
        if let Some(open) = self.open.get_mut(organization) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(organization);
            }
        }
    }
}

fn organization(scope: &[u8]) -> &str {
    scope::decode(scope).expect("an open claim has a sound scope").organization
}
