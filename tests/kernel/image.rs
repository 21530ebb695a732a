//! A file system of its own in a loop image, whose power can be cut.
//!
//! The cut is `FS_IOC_SHUTDOWN` without a flush of the journal: what was not synced is gone at the
//! next mount, and every call until then fails. What the device itself would tear is not shown.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file systems under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
}

/// Below this mkfs.xfs refuses.
pub(crate) const IMAGE_BYTES_MIN: u64 = 320 << 20;

/// A mounted image; unmounted and removed when dropped.
#[derive(Debug)]
pub(crate) struct Image {
    mount: PathBuf,
    file: PathBuf,
    mounted: bool,
    _scratch: tempfile::TempDir,
}

impl Image {
    pub(crate) fn new(kind: FileSystem, bytes: u64) -> Image {
        let scratch = scratch();
        let (file, mount) = (scratch.path().join("image"), scratch.path().join("mount"));
        File::create(&file).unwrap().set_len(bytes).unwrap();
        fs::create_dir(&mount).unwrap();
        let make = match kind {
            FileSystem::Ext4 => "mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0,nodiscard",
            FileSystem::Xfs => "mkfs.xfs -q -f -K",
        };
        run(make, &[&file]);
        let mut image = Image { mount, file, mounted: false, _scratch: scratch };
        image.mount();
        image
    }

    /// A directory in it for a store.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    /// The file that takes the room.
    pub(crate) fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// A file beside it, on another file system.
    pub(crate) fn log(&self) -> PathBuf {
        self.file.with_extension("log")
    }

    fn mount(&mut self) {
        run("mount -o loop,noatime", &[&self.file, &self.mount]);
        self.mounted = true;
    }

    /// Changes how it is mounted.
    pub(crate) fn remount_as(&self, options: &str) {
        run(&format!("mount -o remount,{options}"), &[&self.mount]);
    }

    /// Nothing that was not synced reaches the image any more, and every call on it fails.
    #[expect(unsafe_code, reason = "an ioctl that rustix does not wrap")]
    pub(crate) fn cut_power(&self) {
        /// `_IOR('X', 125, u32)`: the same number for ext4 and xfs.
        const FS_IOC_SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
        const NO_FLUSH_OF_THE_JOURNAL: u32 = 2;
        let root = File::open(&self.mount).unwrap();
        // SAFETY: the call reads one u32, which is what the setter holds.
        let call =
            unsafe { rustix::ioctl::Setter::<FS_IOC_SHUTDOWN, u32>::new(NO_FLUSH_OF_THE_JOURNAL) };
        // SAFETY: the descriptor is open, and the call changes no memory of this process.
        unsafe { rustix::ioctl::ioctl(root.as_fd(), call) }.expect("root can shut it down");
    }

    /// What the next boot does: the journal is replayed.
    pub(crate) fn boot(&mut self) {
        run("umount", &[&self.mount]);
        self.mounted = false;
        self.mount();
    }

    /// Takes all the room there is, but for so many bytes.
    pub(crate) fn fill(&self, but: u64) {
        let ballast = self.ballast();
        let file = File::options().create(true).append(true).open(ballast).unwrap();
        let mut taken = file.metadata().unwrap().len();
        // In smaller and smaller pieces, since each may need metadata of its own.
        for piece in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
            let room = |taken| {
                let flags = rustix::fs::FallocateFlags::empty();
                self.free_bytes() >= but + piece
                    && rustix::fs::fallocate(&file, flags, taken, piece).is_ok()
            };
            while room(taken) {
                taken += piece;
            }
        }
        file.sync_all().unwrap();
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mount).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a test that failed may still have files open.
            let status = Command::new("umount").arg("-l").arg(&self.mount).status();
            assert!(
                std::thread::panicking() || status.is_ok_and(|status| status.success()),
                "an image stays mounted at {}",
                self.mount.display()
            );
        }
    }
}

/// A directory in memory, where there is one: what is tested is never a disk.
pub(crate) fn scratch() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let place = if shared.is_dir() { shared } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
    tempfile::tempdir_in(place).unwrap()
}

/// Runs a tool that has to succeed.
pub(crate) fn run(command: &str, paths: &[&Path]) {
    let mut words = command.split(' ');
    let tool = words.next().expect("a command has a name");
    let output = Command::new(tool).args(words).args(paths).output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run {tool}: {error}; wants root, e2fsprogs, xfsprogs, mount and strace")
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {paths:?}: {}: {text}", output.status);
}
