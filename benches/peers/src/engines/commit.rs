//! Group commit: callers gather in a batch, one of them makes it durable, the next batch fills
//! meanwhile.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::Result;

pub struct Committer<T> {
    batch: Mutex<Batch<T>>,
    /// One for the batch that gathers and one for the batch that is made durable, by number.
    done: [Condvar; 2],
}

struct Batch<T> {
    gathered: T,
    number: u64,
    /// All batches below are durable.
    durable: u64,
    leading: bool,
    /// The first failure: nothing is acknowledged after it.
    failed: Option<Arc<str>>,
}

impl<T: Default> Committer<T> {
    pub fn new() -> Committer<T> {
        let batch =
            Batch { gathered: T::default(), number: 0, durable: 0, leading: false, failed: None };
        Committer { batch: Mutex::new(batch), done: [Condvar::new(), Condvar::new()] }
    }

    /// Returns when what `gather` added is durable: as the leader of its batch, or woken by it.
    pub fn commit(
        &self,
        gather: impl FnOnce(&mut T),
        write: impl Fn(&T) -> Result<()>,
    ) -> Result<()> {
        let mut batch = self.batch.lock();
        gather(&mut batch.gathered);
        let mine = batch.number;
        let [even, odd] = &self.done;
        let (own, next) = if mine.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        while batch.durable <= mine {
            if let Some(failed) = &batch.failed {
                return Err(failed.to_string().into());
            }
            if batch.leading {
                own.wait(&mut batch);
                continue;
            }
            let gathered = std::mem::take(&mut batch.gathered);
            (batch.leading, batch.number) = (true, mine + 1);
            drop(batch);
            let written = write(&gathered);
            batch = self.batch.lock();
            batch.leading = false;
            match written {
                Ok(()) => batch.durable = mine + 1,
                Err(error) => batch.failed = Some(error.to_string().into()),
            }
            own.notify_all();
            next.notify_one();
            if batch.failed.is_some() {
                next.notify_all();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Committer;

    #[test]
    fn a_failed_write_fails_its_callers_and_those_after() {
        let committer = Committer::<Vec<u8>>::new();
        assert!(committer.commit(|bytes| bytes.push(1), |_| Ok(())).is_ok());
        assert!(committer.commit(|bytes| bytes.push(1), |_| Err("full".into())).is_err());
        assert!(committer.commit(|bytes| bytes.push(1), |_| Ok(())).is_err());
    }
}
