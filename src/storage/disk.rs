//! The production storage: a real directory. The only home of `std::fs`, maps and their `unsafe`.

use std::any::Any;
use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::FallocateFlags;

use crate::storage::{Access, File, Storage};

/// ext2, ext3 and ext4 have one magic number; none of them copies on write.
const EXT4_MAGIC: i64 = 0xef53;

/// Zeros are written in pieces of one page: larger writes make larger folios in the page cache,
/// and later small writes into those are several times slower.
const FILL: [u8; 4096] = [0; 4096];

/// How records reach a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appends {
    /// By positioned system calls.
    Written,
    /// Through a map, where the file system lets that be safe.
    Mapped,
}

/// A directory on a file system.
#[derive(Debug)]
pub(crate) struct DiskStorage {
    dir: PathBuf,
    appends: Appends,
}

impl DiskStorage {
    /// The directory, which is created, readable by its owner alone, where it is missing.
    pub(crate) fn create(dir: &Path, appends: Appends) -> io::Result<DiskStorage> {
        if !dir.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            if let Some(parent) = dir.canonicalize()?.parent() {
                open_dir(parent)?.sync_all()?;
            }
        }
        Self::existing(dir, appends)
    }

    /// The directory, which must exist.
    pub(crate) fn existing(dir: &Path, appends: Appends) -> io::Result<DiskStorage> {
        fs::metadata(dir)?;
        // A mapped write without a block behind it is a signal. Only a file system that never
        // copies on write keeps the block that an allocated page has.
        let keeps_blocks = rustix::fs::statfs(dir)?.f_type == EXT4_MAGIC;
        let appends = if keeps_blocks { appends } else { Appends::Written };
        Ok(DiskStorage { dir: dir.to_owned(), appends })
    }

    fn file(&self, file: fs::File) -> Arc<dyn File> {
        Arc::new(DiskFile { file, appends: self.appends, window: OnceLock::new() })
    }

    fn options(access: Access) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write).mode(0o600);
        options
    }
}

#[expect(clippy::disallowed_methods, reason = "files live in storage/")]
fn open_dir(dir: &Path) -> io::Result<fs::File> {
    fs::File::open(dir)
}

#[expect(clippy::disallowed_methods, reason = "files live in storage/")]
impl Storage for DiskStorage {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut options = Self::options(Access::Write);
        let file = options.create(true).truncate(false).open(self.dir.join("LOCK"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let pid = format!("{:<10}\n", std::process::id());
        file.write_all_at(pid.as_bytes(), 0)?;
        Ok(Box::new(Locked { file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let file = Self::options(access).open(self.dir.join(name))?;
        if access == Access::ReadMapped {
            return Ok(Arc::new(MappedFile::new(&file)?));
        }
        Ok(self.file(file))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = Self::options(Access::Write).create_new(true).open(path)?;
        file.set_len(bytes)?;
        Ok(self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        open_dir(&self.dir)?.sync_all()
    }
}

/// The lock on a directory. It belongs to the open file, which a child process between fork and
/// exec holds too; closing it here alone would not free the directory.
struct Locked {
    file: fs::File,
}

impl Drop for Locked {
    fn drop(&mut self) {
        // A lock that cannot be freed by name goes with the last copy of the descriptor.
        self.file.unlock().ok();
    }
}

#[derive(Debug)]
struct DiskFile {
    file: fs::File,
    appends: Appends,
    window: OnceLock<Window>,
}

/// The part of a file that may be written through its map: every page of it has a block and is
/// present. It begins where the first allocation did and only grows.
#[derive(Debug)]
struct Window {
    map: memmap2::MmapRaw,
    start: u64,
    /// `Release` once the pages before it are present; `Acquire` where it is relied on.
    end: AtomicU64,
}

#[expect(unsafe_code, reason = "copying into a map")]
impl Window {
    fn open(file: &fs::File, start: u64) -> io::Result<Window> {
        let map = memmap2::MmapOptions::new().map_raw(file)?;
        Ok(Window { map, start, end: AtomicU64::new(start) })
    }

    /// Takes in pages that have blocks; they are made present at once, not one fault at a time.
    fn extend(&self, range: &Range<u64>) -> io::Result<()> {
        let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let start = usize::try_from(range.start & !4095).map_err(too_large)?;
        let end = usize::try_from(range.end).map_err(too_large)?;
        self.map.advise_range(memmap2::Advice::PopulateWrite, start, end - start)?;
        self.end.store(range.end, Ordering::Release);
        Ok(())
    }

    /// Copies `bytes` in; `false` where they do not lie in the window.
    fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let end = self.end.load(Ordering::Acquire);
        let inside = offset >= self.start && offset + bytes.len() as u64 <= end;
        let Ok(start) = usize::try_from(offset) else { return false };
        if !inside {
            return false;
        }
        // SAFETY: `start` lies before `end`, which `extend` checked against the map by advising it.
        let target = unsafe { self.map.as_mut_ptr().add(start) };
        // SAFETY: the target lies within the map, which lives as long as `self`; `bytes` is the
        // caller's own memory. One caller at a time writes a place (the lock of the log), and
        // readers take a place only after its record was published.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        true
    }
}

impl File for DiskFile {
    fn size(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.window.get().is_some_and(|window| window.write(offset, bytes)) {
            return Ok(());
        }
        self.file.write_all_at(bytes, offset)
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            // Ends on a page boundary, so that every later piece is a whole page.
            let len = (4096 - at % 4096).min(range.end - at);
            let piece = &FILL[..usize::try_from(len).map_or(FILL.len(), |len| len)];
            self.file.write_all_at(piece, at)?;
            at += len;
        }
        if self.appends == Appends::Mapped {
            // Where there is no map, or its pages cannot be made present, records are written.
            if self.window.get().is_none()
                && let Ok(window) = Window::open(&self.file, range.start)
            {
                self.window.set(window).ok();
            }
            if let Some(window) = self.window.get() {
                window.extend(&range).ok();
            }
        }
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, punch, range.start, range.end - range.start)?;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// A file behind a read-only map. The bytes may change under it while a record is being appended
/// or erased, so nothing is ever borrowed from the map: reads copy out, and the caller verifies
/// the copy.
#[derive(Debug)]
struct MappedFile {
    map: memmap2::MmapRaw,
}

impl MappedFile {
    fn new(file: &fs::File) -> io::Result<MappedFile> {
        memmap2::MmapOptions::new().map_raw_read_only(file).map(|map| MappedFile { map })
    }
}

#[expect(unsafe_code, reason = "copying out of a map")]
impl File for MappedFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.map.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.map.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: `start` is within the map, whose length was checked above.
        let source = unsafe { self.map.as_ptr().add(start) };
        // SAFETY: `source..source + out.len()` lies within the map, which lives as long as `self`;
        // `out` is the caller's own memory, so the two do not overlap. The file never shrinks
        // (`File`: its size never changes), and the copied bytes are verified before use.
        unsafe { std::ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn allocate(&self, _: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn discard(&self, _: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
