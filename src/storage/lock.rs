//! The lock on a directory: taken by one owner, asked about by anybody, and waited for.
//!
//! It is a lock of the kernel on the file `LOCK`, so it is free as soon as its owner is gone,
//! however that ends.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::clock::real_monotonic;
use crate::storage::Owner;

/// The lock, while it is held. It belongs to the open file, which a child process between fork and
/// exec holds too; closing it here alone would not free the directory.
pub(crate) struct Locked {
    file: fs::File,
}

impl Drop for Locked {
    fn drop(&mut self) {
        // A lock that cannot be freed by name goes with the last copy of the descriptor.
        self.file.unlock().ok();
    }
}

/// Locks the file at `path` for the caller alone, and where somebody else holds it waits for that
/// owner to go, for at most `patience` of real time.
pub(crate) fn take(file: fs::File, path: &Path, patience: Duration) -> io::Result<Locked> {
    let give_up_at = real_monotonic().saturating_add(patience);
    let mut departure = None;
    loop {
        match take_alone(&file) {
            Ok(()) => break,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(error) => {
                let left = give_up_at.saturating_sub(real_monotonic());
                match &mut departure {
                    _ if left.is_zero() => return Err(error),
                    // The owner may have gone before the watch began: that is seen at the next
                    // look, before the first wait.
                    None => departure = Some(Departure::watch(path)),
                    Some(departure) => departure.wait(left)?,
                }
            }
        }
    }
    let pid = format!("{:<10}\n", std::process::id());
    file.write_all_at(pid.as_bytes(), 0)?;
    Ok(Locked { file })
}

/// Tells whether somebody has locked the file. It is held for a moment, together with everybody
/// else who asks; whoever wants it alone sees to it that this does not stand in the way.
pub(crate) fn ask(file: &fs::File) -> io::Result<Owner> {
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| Owner::Gone),
        Err(fs::TryLockError::WouldBlock) => Ok(Owner::Alive),
        // A file system without locks cannot tell.
        Err(fs::TryLockError::Error(error))
            if error.kind() == io::ErrorKind::Unsupported
                || error.raw_os_error() == Some(Errno::NOLCK.raw_os_error()) =>
        {
            Ok(Owner::Unknown)
        }
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Locks a file against every owner. Who only asks whether there is one holds it, together with
/// others who ask, for a moment: that is no owner, and is waited for.
fn take_alone(file: &fs::File) -> io::Result<()> {
    /// Asking takes two system calls; only a process that was stopped between them lasts longer.
    const TRIES: usize = 1000;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        match file.try_lock_shared() {
            Ok(()) => file.unlock()?,
            Err(fs::TryLockError::WouldBlock) => break,
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        std::thread::yield_now();
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// How the end of an owner is noticed: by the kernel's word that somebody closed the file, and
/// where there is no such word, by looking again.
struct Departure {
    closings: Option<OwnedFd>,
    /// Until the next look. The word of the kernel comes an instant before the lock of a process
    /// that died is free, so the looks after it are close together.
    pause: Duration,
}

impl Departure {
    const PAUSE_MIN: Duration = Duration::from_millis(1);
    const PAUSE_MAX: Duration = Duration::from_millis(100);

    fn watch(path: &Path) -> Departure {
        let closings = || {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let closings = inotify::init(flags)?;
            inotify::add_watch(&closings, path, inotify::WatchFlags::CLOSE_WRITE)?;
            Ok::<_, Errno>(closings)
        };
        // A user may have so many watches, and some file systems have none; the looks are enough.
        Departure { closings: closings().ok(), pause: Self::PAUSE_MIN }
    }

    /// Returns when it is time to look again, `left` from now at the latest.
    fn wait(&mut self, left: Duration) -> io::Result<()> {
        let pause = Timespec::try_from(self.pause.min(left)).expect("a pause is short");
        self.pause = (self.pause * 2).min(Self::PAUSE_MAX);
        let mut sources: Vec<_> =
            self.closings.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut sources, Some(&pause)) {
            Ok(0) | Err(Errno::INTR) => return Ok(()),
            Ok(_) => self.pause = Self::PAUSE_MIN,
            Err(error) => return Err(error.into()),
        }
        let mut events = [0; 512];
        while let Some(closings) = &self.closings
            && rustix::io::read(closings, &mut events[..]).is_ok_and(|bytes| bytes > 0)
        {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_the_owner_closes_its_file_and_not_at_the_next_look() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let owner = fs::File::create(&path).unwrap();
        let mut departure = Departure::watch(&path);
        departure.pause = Duration::from_secs(3_600);
        drop(owner);
        departure.wait(Duration::from_secs(3_600)).unwrap();
        assert_eq!(departure.pause, Departure::PAUSE_MIN, "the kernel's word, so look soon");
        departure.wait(Duration::from_secs(3_600)).unwrap();
        assert_eq!(departure.pause, 2 * Departure::PAUSE_MIN, "the word was taken");
    }
}
