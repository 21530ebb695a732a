//! The production storage: a real directory. The only home of `std::fs`, maps and their `unsafe`.

use std::any::Any;
use std::fs::{self, OpenOptions};
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::storage::{Access, File, Owner, Storage, lock, media};
use crate::sync::Mutex;
use crate::warning::Warning;

/// ext2, ext3 and ext4 have one magic number; none of them copies on write.
const EXT4_MAGIC: i64 = 0xef53;

/// Where positioned writes follow, zeros are written in pieces of one page: larger writes make
/// larger folios in the page cache, and later small writes into those are several times slower.
/// Where a map follows, larger folios are cheaper to map and to sync.
const PAGE: u64 = 4096;
const FILL_MAPPED: u64 = 256 * 1024;
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// Windows are small, and there are two: each page that is mapped and dirty when the file is synced
/// costs an interrupt of every other core.
const WINDOW: u64 = 512 * 1024;
/// The second begins so much before the first ends: what is written lies in one of them whole.
const OVERLAP: u64 = 16 * 1024;
/// So many windows that were passed wait at most to be unmapped in the background.
const PASSED_MAX: usize = 8;
/// One that a write has to open itself, where none was ready.
const WINDOW_AT_ONCE: u64 = 32 * 1024;

/// The file that a lock is on. It may be in a directory that is no store.
pub(crate) const LOCK: &str = "LOCK";

/// What the owner of the store may do with its files and its directory; others may do nothing.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

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
            fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
            if fs::metadata(dir)?.permissions().mode() & DIR_MODE != DIR_MODE {
                fs::set_permissions(dir, fs::Permissions::from_mode(DIR_MODE))?;
            }
            sync_parent(dir)?;
        }
        Self::existing(dir, appends)
    }

    /// The same for a directory that must never be seen empty: where it is missing, it appears with
    /// a file of `bytes` zeros in it. It is made under another name first.
    #[expect(clippy::disallowed_methods, reason = "files live in storage/")]
    pub(crate) fn create_with(dir: &Path, name: &str, bytes: u64) -> io::Result<DiskStorage> {
        if dir.is_dir() {
            return Self::existing(dir, Appends::Written);
        }
        let mut draft = dir.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        draft.push(".tmp");
        let draft = Self::create(&dir.with_file_name(draft), Appends::Written)?;
        // What an earlier attempt left is this file at most; anything else is somebody's.
        if draft.list()?.iter().any(|found| found != name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        draft.create(name, bytes)?.sync()?;
        draft.sync_dir()?;
        fs::rename(&draft.dir, dir)?;
        sync_parent(dir)?;
        Self::existing(dir, Appends::Written)
    }

    /// A new directory beside `dir`, of its name with `.tmp` behind it, for what is to stand there
    /// once it is whole.
    pub(crate) fn draft(dir: &Path) -> io::Result<DiskStorage> {
        let mut draft = dir.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        draft.push(".tmp");
        let draft = dir.with_file_name(draft);
        fs::DirBuilder::new().mode(DIR_MODE).create(&draft)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(DIR_MODE))?;
        Self::existing(&draft, Appends::Written)
    }

    /// Gives this directory the name `dir`, durably, where an empty directory or none is.
    #[expect(clippy::disallowed_methods, reason = "files live in storage/")]
    pub(crate) fn publish(&self, dir: &Path) -> io::Result<()> {
        fs::rename(&self.dir, dir)?;
        sync_parent(dir)
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes this directory and all files in it.
    pub(crate) fn discard(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir)
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
        Arc::new(DiskFile { file, appends: self.appends, ahead: Mutex::default() })
    }

    fn options(access: Access) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write).mode(FILE_MODE);
        options
    }

    /// Opens a regular file. A symbolic link is not followed, since it may lead to a file that is
    /// not the store's; a FIFO or a device is refused, and without waiting for its other end.
    #[expect(clippy::disallowed_methods, reason = "files live in storage/")]
    fn open_regular(&self, name: &str, options: &mut OpenOptions) -> io::Result<fs::File> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = options.custom_flags(flags).open(self.dir.join(name));
        let foreign = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        match opened {
            Ok(file) if file.metadata()?.is_file() => Ok(file),
            Ok(_) => foreign(format!("{name} is not a regular file")),
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                foreign(format!("{name} is a symbolic link, which is not followed"))
            }
            Err(error) => Err(error),
        }
    }
}

/// Gives the owner back what an unusual umask took away, so that the next open succeeds.
fn give_owner(file: &fs::File) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & FILE_MODE == FILE_MODE {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))
}

/// Makes the name of a directory durable.
fn sync_parent(dir: &Path) -> io::Result<()> {
    match dir.canonicalize()?.parent() {
        Some(parent) => open_dir(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[expect(clippy::disallowed_methods, reason = "files live in storage/")]
fn open_dir(dir: &Path) -> io::Result<fs::File> {
    fs::File::open(dir)
}

#[expect(clippy::disallowed_methods, reason = "files live in storage/")]
impl Storage for DiskStorage {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.lock_within(Duration::ZERO)
    }

    fn lock_within(&self, patience: Duration) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut options = Self::options(Access::Write);
        let file = self.open_regular(LOCK, options.create(true).truncate(false))?;
        give_owner(&file)?;
        let locked = lock::take(file, &self.dir.join(LOCK), patience)?;
        Ok(Box::new(locked))
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
        let file = self.open_regular(name, &mut Self::options(access))?;
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
        give_owner(&file)?;
        file.set_len(bytes)?;
        Ok(self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn link(&self, name: &str, to: &Path) -> io::Result<bool> {
        use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
        match fs::hard_link(self.dir.join(name), to) {
            Ok(()) => Ok(true),
            // Another file system, one without links, or a file that has all it may have.
            Err(error) => match error.kind() {
                CrossesDevices | PermissionDenied | TooManyLinks | Unsupported => Ok(false),
                _ => Err(error),
            },
        }
    }

    fn owner(&self) -> io::Result<Owner> {
        let file = match self.open_regular(LOCK, OpenOptions::new().read(true)) {
            Ok(file) => file,
            // A directory that was copied without it, or one that was never opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owner::Gone),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Owner::Unknown);
            }
            Err(error) => return Err(error),
        };
        lock::ask(&file)
    }

    fn warnings(&self) -> io::Result<Vec<Warning>> {
        let mut warnings = media::warnings(rustix::fs::statfs(&self.dir)?.f_type);
        let mode = fs::metadata(&self.dir)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            warnings.push(Warning::OpenToOthers { mode });
        }
        Ok(warnings)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn sync_dir(&self) -> io::Result<()> {
        open_dir(&self.dir)?.sync_all()
    }
}

#[derive(Debug)]
struct DiskFile {
    file: fs::File,
    appends: Appends,
    // LOCK: window (a leaf)
    ahead: Mutex<Ahead>,
}

/// What was allocated ahead of the records, and the windows through which they get there.
#[derive(Debug, Default)]
struct Ahead {
    /// Here zeros were written, so that every page has a block.
    filled: Range<u64>,
    /// The one in use, and the one behind it.
    windows: [Option<Window>; 2],
    /// Those that the writes have passed: to unmap one interrupts every other core, which is not
    /// for whoever writes to wait for.
    passed: Vec<Window>,
    /// The system cannot map it, or not make its pages present.
    unmappable: bool,
}

impl Ahead {
    fn fill(&mut self, range: Range<u64>) {
        if self.filled.end == range.start && !self.filled.is_empty() {
            self.filled.end = range.end;
        } else {
            self.filled = range;
        }
    }

    /// Copies `bytes` through a window; `false` where there can be none.
    fn write(&mut self, file: &fs::File, offset: u64, bytes: &[u8]) -> bool {
        let end = offset + bytes.len() as u64;
        if self.unmappable || offset < self.filled.start || end > self.filled.end {
            return false;
        }
        if self.windows[0].as_ref().is_some_and(|window| window.write(offset, bytes)) {
            return true;
        }
        if self.passed.len() == PASSED_MAX {
            // Nobody makes the file ready.
            self.passed.clear();
        }
        self.passed.extend(self.windows[0].take());
        self.windows.swap(0, 1);
        if self.windows[0].as_ref().is_some_and(|window| window.write(offset, bytes)) {
            return true;
        }
        let start = offset & !(PAGE - 1);
        let window =
            Window::open(file, &(start..(start + WINDOW_AT_ONCE).max(end).min(self.filled.end)));
        self.unmappable = window.is_err();
        self.windows = [window.ok(), None];
        self.windows[0].as_ref().is_some_and(|window| window.write(offset, bytes))
    }

    /// Where a window is to be opened ahead of the writes, which have come to `offset`.
    fn next(&self, offset: u64) -> Option<Range<u64>> {
        let start = match &self.windows {
            _ if self.unmappable => return None,
            [_, Some(next)] if next.range.end > offset => return None,
            [Some(window), _] if window.range.contains(&offset) => {
                window.range.end.saturating_sub(OVERLAP) & !(PAGE - 1)
            }
            _ => offset & !(PAGE - 1),
        };
        let range = start.max(self.filled.start)..(start + WINDOW).min(self.filled.end);
        (!range.is_empty()).then_some(range)
    }
}

/// A part of a file that may be written through its map: every page of it has a block and is
/// present.
#[derive(Debug)]
struct Window {
    map: memmap2::MmapRaw,
    range: Range<u64>,
}

#[expect(unsafe_code, reason = "copying into a map")]
impl Window {
    /// Maps pages that have blocks; they are made present at once, not one fault at a time.
    fn open(file: &fs::File, range: &Range<u64>) -> io::Result<Window> {
        let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let range = range.start & !(PAGE - 1)..range.end;
        let len = usize::try_from(range.end - range.start).map_err(too_large)?;
        let map = memmap2::MmapOptions::new().offset(range.start).len(len).map_raw(file)?;
        map.advise(memmap2::Advice::PopulateWrite)?;
        Ok(Window { map, range })
    }

    /// Copies `bytes` in; `false` where they do not lie in the window.
    fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let inside = offset >= self.range.start && offset + bytes.len() as u64 <= self.range.end;
        let Some(start) = inside.then(|| usize::try_from(offset - self.range.start).ok()).flatten()
        else {
            return false;
        };
        // SAFETY: `start` lies within the map, which is as long as `range`.
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
        if self.appends == Appends::Mapped && self.ahead.lock().write(&self.file, offset, bytes) {
            return Ok(());
        }
        self.file.write_all_at(bytes, offset)
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let piece = if self.appends == Appends::Mapped { FILL_MAPPED } else { PAGE };
        let mut at = range.start;
        while at < range.end {
            // Ends on a boundary, so that every later piece is a whole one.
            let len = (piece - at % piece).min(range.end - at);
            let zeros = usize::try_from(len).map_or(&ZEROS[..], |len| &ZEROS[..len]);
            self.file.write_all_at(zeros, at)?;
            at += len;
        }
        if self.appends == Appends::Mapped {
            self.ahead.lock().fill(range);
        }
        Ok(())
    }

    fn will_read(&self, range: Range<u64>) {
        let len = NonZero::new(range.end - range.start);
        // Whoever reads it without that is only slower.
        rustix::fs::fadvise(&self.file, range.start, len, Advice::WillNeed).ok();
    }

    fn ready(&self, offset: u64) {
        if self.appends != Appends::Mapped {
            return;
        }
        // Without the lock, which whoever writes would wait for.
        let (range, passed) = {
            let mut ahead = self.ahead.lock();
            (ahead.next(offset), std::mem::take(&mut ahead.passed))
        };
        drop(passed);
        let Some(Ok(window)) = range.map(|range| Window::open(&self.file, &range)) else { return };
        let replaced = self.ahead.lock().windows[1].replace(window);
        drop(replaced);
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
