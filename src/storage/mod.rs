//! The seam between the engine and a directory of files. Knows nothing of records.
//!
//! Production is `disk.rs`; tests put a simulated disk behind the same two traits. What the engine
//! relies on is stated per method; what it never relies on: that unsynced bytes survive, that they
//! survive in order, or that a created, renamed or removed name is durable before
//! [`Storage::sync_dir`].

pub(crate) mod lock;
pub(crate) mod media;

pub(crate) mod disk;

use std::any::Any;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::warning::Warning;

/// How a file will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads of any range, in any order; a map may serve them.
    ReadMapped,
    /// Reads by positioned system calls, so that a device error is an `io::Error`, never a signal.
    ReadPositioned,
    /// Reads and writes.
    Write,
}

/// Whether somebody has a directory for itself, as far as can be told from outside.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process that lives has the store open.
    Alive,
    /// Nobody has: the store was closed, or its process died.
    Gone,
    /// The lock may not be read, or the file system has none.
    Unknown,
}

/// One directory that belongs to one store.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Takes the directory for the caller alone until the guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` where somebody, in this process or another, holds it.
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>>;

    /// The same, and where somebody holds the directory waits until they are gone, for at most
    /// `patience` of real time. A storage that cannot wait does not.
    ///
    /// # Errors
    /// As [`Storage::lock`].
    fn lock_within(&self, patience: Duration) -> io::Result<Box<dyn Any + Send + Sync>> {
        let _ = patience;
        self.lock()
    }

    /// Tells whether somebody has locked the directory. Takes it from nobody and changes nothing.
    ///
    /// # Errors
    /// Whatever the directory answers.
    fn owner(&self) -> io::Result<Owner> {
        Ok(Owner::Unknown)
    }

    /// What stands in the way of the promises of a store here: the kind of file system, rights of
    /// others.
    ///
    /// # Errors
    /// Whatever the directory answers.
    fn warnings(&self) -> io::Result<Vec<Warning>> {
        Ok(Vec::new())
    }

    /// The names of all files, in no order.
    ///
    /// # Errors
    /// Whatever the directory answers.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file that exists.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;

    /// Creates a file of `bytes` zeros, replacing one of the same name. Neither name nor size is
    /// durable before [`File::sync`] and [`Storage::sync_dir`].
    ///
    /// # Errors
    /// `StorageFull` where there is no room.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>>;

    /// Renames a file over another, atomically. Durable after [`Storage::sync_dir`].
    ///
    /// # Errors
    /// Whatever the directory answers.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Open handles and maps of it go on reading. Durable after
    /// [`Storage::sync_dir`].
    ///
    /// # Errors
    /// `NotFound` where there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file of this directory a second name, at `to`, where nothing is; for backups.
    /// `false` where that cannot be done, such as on another file system: the file is then copied.
    /// Durable once the directory of `to` is synced.
    ///
    /// # Errors
    /// `NotFound` where there is no such file; whatever the directories answer.
    fn link(&self, name: &str, to: &Path) -> io::Result<bool> {
        let _ = (name, to);
        Ok(false)
    }

    /// Bytes that files here can still take; `u64::MAX` where there is no bound.
    ///
    /// # Errors
    /// Whatever the file system answers.
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    /// Makes every create, rename and remove before it durable.
    ///
    /// # Errors
    /// Whatever the directory answers; the changes are then in doubt.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file. Its size never changes after [`Storage::create`].
pub trait File: fmt::Debug + Send + Sync + 'static {
    /// The size in bytes.
    ///
    /// # Errors
    /// Whatever the file answers.
    fn size(&self) -> io::Result<u64>;

    /// Fills `out` from `offset` on. Sees every write that has returned, synced or not.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends first.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, within the size. A process that dies afterwards loses
    /// none of them; a power cut may lose any 512-byte sectors of them until [`File::sync`].
    ///
    /// # Errors
    /// Any error leaves the range in doubt.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Gives `range`, which was never written, real blocks that read as zeros, so that later
    /// writes there cannot fail for room and their sync has no metadata to write.
    ///
    /// # Errors
    /// `StorageFull` where there is no room; what was written before is unharmed.
    fn allocate(&self, range: Range<u64>) -> io::Result<()>;

    /// Gets ready for writes from `offset` on, within what was allocated, so that the next of them
    /// need no system call. Best effort.
    fn ready(&self, offset: u64) {
        let _ = offset;
    }

    /// Says that `range` is going to be read from front to back, so that the device can begin. Best
    /// effort.
    fn will_read(&self, range: Range<u64>) {
        let _ = range;
    }

    /// Gives the blocks of `range` back; it reads as zeros afterwards. Best effort.
    ///
    /// # Errors
    /// Whatever the file answers; the bytes are then as they were.
    fn discard(&self, range: Range<u64>) -> io::Result<()>;

    /// Makes every write before it durable (`fdatasync`).
    ///
    /// # Errors
    /// After an error nothing written since the last success can be trusted, whatever a later
    /// sync says.
    fn sync(&self) -> io::Result<()>;
}
