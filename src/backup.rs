//! Copies a store, while it is used, to a directory that opens as that store.
//!
//! Segments are linked where the file system has links, and copied where not. SUPER is written
//! last, after the copy was checked: what an interrupted backup leaves never opens as a store, and
//! never as an empty one, since CHECKPOINT is there from the beginning.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Phase, Progress};
use crate::error::{Error, Result};
use crate::format::checkpoint::{self, Checkpoint};
use crate::format::segment::{DATA_START, SegmentHeader};
use crate::format::superblock::Superblock;
use crate::location::Lsn;
use crate::log::checkpoints;
use crate::log::cut::Cut;
use crate::log::segments::Segments;
use crate::log::walk::{Bad, UNPACED, read_readable, walk};
use crate::log::{hint_name, segment_name};
use crate::parallel::Threads;
use crate::recovery::quarantine::Quarantine;
use crate::recovery::view::{self, Indexed};
use crate::recovery::{self, Inspected, SUPER};
use crate::scope::{HashKey, Token};
use crate::storage::disk::{Appends, DiskStorage, LOCK};
use crate::storage::{Access, Storage};
use crate::sync::Mutex;
use crate::verify::{self, Subject};

/// What a backup begins with: CHECKPOINT, of zeros, without which its directory would be empty and
/// open as an empty store.
pub(crate) const MARK: &str = checkpoints::NAME;
pub(crate) const MARK_BYTES: u64 = checkpoint::FILE_BYTES as u64;

/// Bytes that are written at a time; a piece of zeros is left out.
const PIECE_BYTES: usize = 64 * 1024;

/// What [`Store::backup`](crate::Store::backup) made.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    /// Segments in it.
    pub segments: u64,
    /// Records in it, each of them verified.
    pub records: u64,
    /// Bytes read to verify it.
    pub bytes: u64,
    /// Segments that share their file with the store.
    pub linked: u64,
    /// Segments that were copied.
    pub copied: u64,
    /// Claims that were open: they are orphans in the backup.
    pub open_claims: u64,
    /// What happened up to here is in the backup, and nothing that happened later. `None` where the
    /// store has never held anything.
    pub upto: Option<Token>,
}

/// Where a backup goes.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) storage: &'a Arc<dyn Storage>,
    /// Its directory, where files can be linked into it.
    pub(crate) dir: Option<&'a Path>,
}

/// How the segments of a copy come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// Sealed segments share their file with the store, where the file system allows that.
    Linked,
    /// All bytes are copied.
    Copied,
}

/// What is backed up.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) segments: &'a Segments,
    pub(crate) hash_key: &'a HashKey,
    pub(crate) epoch: u64,
    /// Segments up to this one hold no open claim's only copy. Those behind it are copied, since
    /// an open reads them in full: nothing is to be erased in them later.
    pub(crate) sealed: u64,
}

/// Files that were copied, to be checked.
pub(crate) struct Copied {
    superblock: Superblock,
    checkpoint: Checkpoint,
    cut: Cut,
    found: Inspected,
    linked: u64,
    copied: u64,
}

/// Takes the target, so that nobody opens it before it is a store.
pub(crate) fn begin(target: Target<'_>) -> Result<Box<dyn std::any::Any + Send + Sync>> {
    // A directory that is not for a backup is left as it is: no lock in it.
    check_bare(&**target.storage)?;
    let locked = target.storage.lock().map_err(Error::io("lock the directory of a backup"))?;
    // Another backup may have been made here since.
    check_bare(&**target.storage)?;
    let marked = target.storage.create(MARK, MARK_BYTES);
    marked.and_then(|_| target.storage.sync_dir()).map_err(Error::io("begin a backup"))?;
    Ok(locked)
}

/// Holds nothing but what a backup begins with.
fn check_bare(storage: &dyn Storage) -> Result<()> {
    let is_bare = || -> io::Result<bool> {
        for name in storage.list()? {
            if name == LOCK {
                continue;
            }
            if name != MARK {
                return Ok(false);
            }
            let file = storage.open(MARK, Access::ReadPositioned)?;
            let mut bytes = vec![0; usize::try_from(file.size()?.min(MARK_BYTES)).unwrap_or(0)];
            file.read_at(0, &mut bytes)?;
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    if is_bare().map_err(Error::io("list the directory of a backup"))? {
        return Ok(());
    }
    Err(Error::Invalid { what: "the directory of a backup must be new or empty" })
}

/// Puts the files there, but for SUPER, and looks at them as an open would. No segment is dropped
/// and no record erased meanwhile.
pub(crate) fn copy(
    source: Source<'_>,
    target: Target<'_>,
    cut: Cut,
    tell: &dyn Fn(Progress),
) -> Result<Copied> {
    let superblock = recovery::read_super(source.storage)?;
    let (oldest, tail) = (source.segments.oldest(), cut.tail.segment);
    let headers = source.segments.live().into_iter().map(|segment| segment.header);
    let sealed: Vec<SegmentHeader> = headers.filter(|header| header.segment < tail).collect();
    let total = sealed.len() as u64 + 1;
    let (mut linked, mut copied) = (0, 0);
    for (header, done) in sealed.iter().zip(0..) {
        tell(Progress { phase: Phase::Copying, done, total });
        let is_sealed = header.segment <= source.sealed;
        if is_sealed && link(source, target, &segment_name(header.segment))? {
            linked += 1;
        } else {
            copy_segment(source, target, header, Lsn::HIGHEST)?;
            copied += 1;
        }
        copy_hints(source, target, &hint_name(header.segment))?;
    }
    let end = copy_segment(source, target, &cut.tail, cut.last)?;
    if end != cut.offset {
        let what = "the log ends elsewhere than it should";
        return Err(Error::Corrupt { segment: tail, offset: end, what });
    }
    tell(Progress { phase: Phase::Copying, done: total, total });
    let checkpoint = Checkpoint {
        generation: 0,
        oldest,
        sealed: source.sealed.min(tail - 1),
        tail,
        durable_lsn: cut.last,
        epoch: source.epoch,
        time_ms: cut.time_ms,
    };
    let second = Checkpoint { generation: 1, ..checkpoint };
    let slots = [checkpoint.encode(superblock.store), second.encode(superblock.store)].concat();
    // It also makes the names of what was linked and copied durable.
    recovery::replace(&**target.storage, checkpoints::NAME, &slots)?;
    let found = recovery::inspect(target.storage, superblock, second, tell)?;
    let wrong = |what| Error::Corrupt { segment: tail, offset: DATA_START, what };
    if found.open != cut.open {
        return Err(wrong("the backup does not hold the claims that were open"));
    }
    if found.last != cut.last {
        return Err(wrong("the backup does not end where it should"));
    }
    Ok(Copied { superblock, checkpoint: second, cut, found, linked, copied: copied + 1 })
}

/// Verifies what was copied, and makes it a store. What is linked may be erased meanwhile, by who
/// holds `erasing`.
pub(crate) fn finish(
    target: Target<'_>,
    copied: &Copied,
    erasing: &Mutex<()>,
    tell: &dyn Fn(Progress),
) -> Result<Backup> {
    let Copied { superblock, checkpoint, cut, found, .. } = copied;
    let subject = Subject {
        storage: &**target.storage,
        store: superblock.store,
        hash_key: &HashKey::new(&superblock.hash_key),
        segments: &found.segments,
        written: cut.last,
        checkpoint: *checkpoint,
        // No backup is made of a store that has one.
        quarantine: &Quarantine::default(),
        erasing,
        threads: Threads::One,
    };
    let verified = verify::verify_log(&subject, tell)?;
    if let Some(damage) = verified.damage.first() {
        let (segment, offset, what) = (damage.segment, damage.offset, damage.what);
        return Err(Error::Corrupt { segment, offset, what });
    }
    recovery::replace(&**target.storage, SUPER, &superblock.encode())?;
    if recovery::read_super(&**target.storage)? != *superblock {
        let what = "SUPER of the backup is not what was written";
        return Err(Error::Corrupt { segment: 0, offset: 0, what });
    }
    Ok(Backup {
        segments: verified.segments,
        records: verified.records,
        bytes: verified.bytes,
        linked: copied.linked,
        copied: copied.copied,
        open_claims: cut.open.len() as u64,
        upto: (cut.last != Lsn::ZERO).then(|| Token::new(cut.last.0)),
    })
}

/// So often a copy is begun again because of what an owner did meanwhile.
const ATTEMPTS: usize = 5;

/// Makes a store of what is in `storage` at `dir`, which is new or empty: under another name until
/// it is whole. An owner may append, roll, expire and erase meanwhile.
pub(crate) fn beside_an_owner(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    files: Files,
    tell: &dyn Fn(Progress),
) -> Result<Backup> {
    check_vacant(dir)?;
    let mut attempts = 1;
    loop {
        let draft = Arc::new(DiskStorage::draft(dir).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Invalid {
                what: "a directory of that name with .tmp behind it is there: another copy is \
                       being made, or one was interrupted; remove it then",
            },
            _ => Error::io("make the directory of a copy")(error),
        })?);
        let made = copy_view(storage, &draft, dir, files, tell);
        let Err(error) = made else { return made };
        // What it said of the store stays true if it cannot be removed.
        draft.discard().ok();
        // A segment that was dropped, or a record that was erased, between two looks at it.
        let passing = match &error {
            Error::Corrupt { .. } => true,
            Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        };
        if !passing || attempts == ATTEMPTS {
            return Err(error);
        }
        attempts += 1;
    }
}

fn check_vacant(dir: &Path) -> Result<()> {
    match DiskStorage::existing(dir, Appends::Written).and_then(|found| found.list()) {
        Ok(names) if names.is_empty() => Ok(()),
        Ok(_) => Err(Error::Invalid { what: "the directory of a copy must be new or empty" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("list the directory of a copy")(error)),
    }
}

/// One look, one copy of what it saw, and its name once it is verified.
fn copy_view(
    storage: &Arc<dyn Storage>,
    draft: &Arc<DiskStorage>,
    dir: &Path,
    files: Files,
    tell: &dyn Fn(Progress),
) -> Result<Backup> {
    let target: Arc<dyn Storage> = draft.clone();
    let linked_to = (files == Files::Linked).then(|| draft.dir());
    let target = Target { storage: &target, dir: linked_to };
    let _locked = begin(target)?;
    let invalid = |what| Error::Invalid { what };
    let view = view::view(storage, Indexed::No, tell)?;
    let view = view.ok_or_else(|| invalid("there is no store to copy any more"))?;
    if let Some(segment) = view.quarantine.first_live(view.segments.oldest(), view.time_ms) {
        let what = "it is in quarantine, and no copy would be whole";
        return Err(Error::Corrupt { segment, offset: 0, what });
    }
    let tail = view.tail.ok_or_else(|| invalid("the store has no segment yet; open it first"))?;
    let cut = Cut {
        tail: tail.0,
        offset: tail.1,
        last: view.last,
        time_ms: view.time_ms,
        open: view.open.iter().map(|open| open.facts.token).collect(),
    };
    let source = Source {
        storage: &**storage,
        segments: &view.segments,
        hash_key: &view.hash_key,
        epoch: view.checkpoint.epoch,
        sealed: view.checkpoint.sealed,
    };
    let copied = copy(source, target, cut, tell)?;
    let backup = finish(target, &copied, &Mutex::new(()), tell)?;
    draft.publish(dir).map_err(Error::io("give a copy its name"))?;
    Ok(backup)
}

fn link(source: Source<'_>, target: Target<'_>, name: &str) -> Result<bool> {
    let Some(dir) = target.dir else { return Ok(false) };
    source.storage.link(name, &dir.join(name)).map_err(Error::io("link a file into a backup"))
}

/// A hint file that is missing, or says less than its segment, is made again at the first open.
fn copy_hints(source: Source<'_>, target: Target<'_>, name: &str) -> Result<()> {
    let copied = || {
        if let Some(dir) = target.dir
            && source.storage.link(name, &dir.join(name))?
        {
            return Ok(());
        }
        let file = source.storage.open(name, Access::ReadPositioned)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
        file.read_at(0, &mut bytes)?;
        write(target, name, &bytes, bytes.len() as u64)
    };
    match copied() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        copied => copied.map_err(Error::io("copy a hint file into a backup")),
    }
}

/// Copies a segment up to its SEAL or the record `upto`, and tells where that ends.
fn copy_segment(
    source: Source<'_>,
    target: Target<'_>,
    header: &SegmentHeader,
    upto: Lsn,
) -> Result<u64> {
    let name = segment_name(header.segment);
    let file = source.storage.open(&name, Access::ReadPositioned);
    let file = file.map_err(Error::io("open a segment to copy it"))?;
    let len = usize::try_from(header.segment_bytes).expect("a segment is at most 64 MiB");
    let (mut bytes, unread) = read_readable(&*file, len, UNPACED)?;
    let walk = walk(&*file, header, &mut bytes, upto, source.hash_key, None);
    if let Some(&Bad { offset, what }) = unread.iter().chain(&walk.bad).next() {
        return Err(Error::Corrupt { segment: header.segment, offset, what });
    }
    bytes.truncate(usize::try_from(walk.end).expect("within the segment"));
    write(target, &name, &bytes, header.segment_bytes)
        .map_err(Error::io("copy a segment into a backup"))?;
    Ok(walk.end)
}

/// Writes a file of `file_bytes` that begins with `bytes`.
fn write(target: Target<'_>, name: &str, bytes: &[u8], file_bytes: u64) -> io::Result<()> {
    let file = target.storage.create(name, file_bytes)?;
    for (piece, at) in bytes.chunks(PIECE_BYTES).zip((0_u64..).step_by(PIECE_BYTES)) {
        if piece.iter().any(|&byte| byte != 0) {
            file.write_at(at, piece)?;
        }
    }
    file.sync()
}
