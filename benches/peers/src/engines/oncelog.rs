//! oncelog, with its defaults.

use oncelog::{Claim, Fingerprint, Status, Store};

use super::{Durability, Engine, Grant, Outcome, Result, SYNC_EVERY, Session, Setup};
use crate::measure::written_by_threads;
use crate::workload::{DAY_MS, Request, TTL_MS};

pub struct Oncelog(Store);

/// The thread that writes zeros ahead of the log, and nothing else.
const BLOCKS: &str = "oncelog-blocks";

impl Oncelog {
    pub fn open(setup: &Setup) -> Result<Oncelog> {
        let mut options = Store::options()
            .ttl(std::time::Duration::from_millis(TTL_MS))
            .bucket(std::time::Duration::from_millis(DAY_MS))
            .expected_keys(setup.reserve)
            .durability(match setup.durability {
                Durability::Buffered => oncelog::Durability::Buffered { sync_every: SYNC_EVERY },
                Durability::Synced => oncelog::Durability::Synced,
            });
        if let Some(clock) = &setup.clock {
            options = options.clock(clock.clone());
        }
        Ok(Oncelog(options.open(&setup.dir)?))
    }
}

impl Engine for Oncelog {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(&self.0))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.0.sync()?)
    }

    fn expire(&self, _: u64) -> Result<Option<u64>> {
        Ok(Some(self.0.expire()?.responses))
    }

    fn index_bytes(&self) -> Option<u64> {
        Some(self.0.stats().index_bytes)
    }

    /// What its thread passed to system calls. What callers write ahead for themselves, when the
    /// thread does not keep up, is not in it.
    fn prepared_bytes(&self) -> Result<Option<f64>> {
        Ok(Some(written_by_threads(BLOCKS)? as f64))
    }

    fn store(&self) -> Option<&Store> {
        Some(&self.0)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.0.close()?)
    }
}

impl Session for &Store {
    fn claim(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let fingerprint = Fingerprint::from_bytes(request.fingerprint);
        Ok(match Store::claim(self, request.scope(), fingerprint)? {
            Claim::Granted(permit) => Outcome::Granted(Grant::Permit(permit)),
            Claim::Replay(stored) => {
                out.clear();
                out.extend_from_slice(stored.bytes().ok_or("the response was not kept")?);
                Outcome::Replay
            }
            Claim::InProgress(_) => Outcome::InProgress,
            Claim::Conflict(_) => Outcome::Conflict,
            Claim::Orphaned(_) => return Err("an orphan, where nothing crashed".into()),
        })
    }

    fn complete(&mut self, _: &Request, grant: Grant, response: &[u8]) -> Result<()> {
        let Grant::Permit(permit) = grant else { return Err("not a grant of oncelog".into()) };
        permit.complete(response)?;
        Ok(())
    }

    fn replay(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        Session::claim(self, request, out)
    }

    fn lookup(&mut self, request: &Request) -> Result<bool> {
        Ok(matches!(Store::lookup(self, request.scope())?, Some(Status::Completed(_))))
    }
}
