//! A simulated disk behind a test: every call goes through, but for those that the test takes.

use std::any::Any;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncelog::storage::{Access, File, Owner, Storage};

use crate::support::disk::SimDisk;

/// What a test does with the calls on their way to the disk; those that it leaves out go through.
pub(crate) trait Intercept: fmt::Debug + Send + Sync + 'static {
    fn open(&self, disk: &SimDisk, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        disk.open(name, access)
    }

    fn link(&self, disk: &SimDisk, name: &str, to: &Path) -> io::Result<bool> {
        disk.link(name, to)
    }

    fn read(&self, target: Target<'_>, offset: u64, out: &mut [u8]) -> io::Result<()> {
        target.file.read_at(offset, out)
    }

    fn write(&self, target: Target<'_>, offset: u64, bytes: &[u8]) -> io::Result<()> {
        target.file.write_at(offset, bytes)
    }

    fn allocate(&self, target: Target<'_>, range: Range<u64>) -> io::Result<()> {
        target.file.allocate(range)
    }

    fn sync(&self, target: Target<'_>) -> io::Result<()> {
        target.file.sync()
    }
}

/// The file that a call is on its way to.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The name that it was opened or created under.
    pub(crate) name: &'a str,
    pub(crate) file: &'a dyn File,
}

/// Refuses to open one file, so many times.
#[derive(Debug)]
pub(crate) struct Refusing {
    pub(crate) name: String,
    pub(crate) access: Access,
    pub(crate) with: io::ErrorKind,
    pub(crate) left: AtomicU64,
}

impl Intercept for Refusing {
    fn open(&self, disk: &SimDisk, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let is_it = name == self.name && access == self.access;
        let take = |left: u64| left.checked_sub(1);
        if is_it && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            return Err(self.with.into());
        }
        disk.open(name, access)
    }
}

/// The disk that a store is opened on.
#[derive(Debug)]
pub(crate) struct Intercepted<T> {
    disk: SimDisk,
    pub(crate) by: Arc<T>,
}

impl<T> Clone for Intercepted<T> {
    fn clone(&self) -> Intercepted<T> {
        Intercepted { disk: self.disk.clone(), by: Arc::clone(&self.by) }
    }
}

impl<T: Intercept> Intercepted<T> {
    pub(crate) fn new(disk: &SimDisk, by: T) -> Intercepted<T> {
        Intercepted { disk: disk.clone(), by: Arc::new(by) }
    }

    fn file(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(InterceptedFile { name: name.to_owned(), file, by: Arc::clone(&self.by) })
    }
}

impl<T: Intercept> Storage for Intercepted<T> {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.disk.lock()
    }

    fn owner(&self) -> io::Result<Owner> {
        self.disk.owner()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        Ok(self.file(name, self.by.open(&self.disk, name, access)?))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        Ok(self.file(name, self.disk.create(name, bytes)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn link(&self, name: &str, to: &Path) -> io::Result<bool> {
        self.by.link(&self.disk, name, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

#[derive(Debug)]
struct InterceptedFile<T> {
    name: String,
    file: Arc<dyn File>,
    by: Arc<T>,
}

impl<T> InterceptedFile<T> {
    fn target(&self) -> Target<'_> {
        Target { name: &self.name, file: &*self.file }
    }
}

impl<T: Intercept> File for InterceptedFile<T> {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.by.read(self.target(), offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.by.write(self.target(), offset, bytes)
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.by.allocate(self.target(), range)
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.file.discard(range)
    }

    fn sync(&self) -> io::Result<()> {
        self.by.sync(self.target())
    }
}
