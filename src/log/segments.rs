//! The live set of segments, and the one function that reads a record back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::format::DecodeError;
use crate::format::record::{HEADER_BYTES, Header, Identity, Record, Summary};
use crate::location::Location;
use crate::log::segment_name;
use crate::storage::{Access, File, Storage};
use crate::sync::{Mutex, RwLock};

/// Maps stay far below the system's 65,530 a process, descriptors below the usual 1,024.
const MAPS_MAX: usize = 4096;
const DESCRIPTORS_MAX: usize = 256;

/// One segment that may be read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) identity: Identity,
    /// The size of its file.
    pub(crate) bytes: u64,
    // LOCK: segment file (a leaf)
    file: Mutex<Option<Arc<dyn File>>>,
}

impl Segment {
    pub(crate) fn new(number: u64, identity: Identity, bytes: u64) -> Segment {
        Segment { number, identity, bytes, file: Mutex::new(None) }
    }
}

/// The segments from the oldest to the tail, and what the sealed ones say of themselves.
#[derive(Debug)]
pub(crate) struct Segments {
    storage: Arc<dyn Storage>,
    access: Access,
    /// Segments below are gone for readers. `Release` when raised, `Acquire` in `oldest`.
    oldest: AtomicU64,
    // LOCK: segments
    live: RwLock<BTreeMap<u64, Arc<Segment>>>,
    // LOCK: summaries (a leaf)
    sealed: Mutex<BTreeMap<u64, Summary>>,
    // LOCK: open files (a leaf)
    opened: Mutex<VecDeque<u64>>,
}

impl Segments {
    pub(crate) fn new(storage: Arc<dyn Storage>, access: Access, oldest: u64) -> Segments {
        Segments {
            storage,
            access,
            oldest: AtomicU64::new(oldest),
            live: RwLock::default(),
            sealed: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    pub(crate) fn insert(&self, segment: Segment) {
        self.live.write().insert(segment.number, Arc::new(segment));
    }

    pub(crate) fn seal(&self, number: u64, summary: Summary) {
        self.sealed.lock().insert(number, summary);
    }

    /// Summaries of the sealed segments, oldest first.
    pub(crate) fn sealed(&self) -> Vec<(u64, Summary)> {
        self.sealed.lock().iter().map(|(&number, &summary)| (number, summary)).collect()
    }

    /// Segments below are gone.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest.load(Ordering::Acquire)
    }

    /// Makes every segment below `oldest` absent for readers.
    pub(crate) fn drop_below(&self, oldest: u64) {
        self.oldest.store(oldest, Ordering::Release);
        let mut live = self.live.write();
        *live = live.split_off(&oldest);
        drop(live);
        let mut sealed = self.sealed.lock();
        *sealed = sealed.split_off(&oldest);
    }

    /// How many there are, and the bytes of their files.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let live = self.live.read();
        (live.len() as u64, live.values().map(|segment| segment.bytes).sum())
    }

    /// Reads and verifies the record at `location`: `None` where its segment was dropped.
    pub(crate) fn read(&self, location: Location) -> Result<Option<Stored>> {
        let Some(segment) = self.live.read().get(&location.segment()).cloned() else {
            return Ok(None);
        };
        let file = match self.file(&segment) {
            Ok(file) => file,
            Err(_) if location.segment() < self.oldest() => return Ok(None),
            Err(error) => return Err(Error::io("open a segment")(error)),
        };
        read_record(&*file, &segment, location.offset()).map(Some)
    }

    fn file(&self, segment: &Segment) -> std::io::Result<Arc<dyn File>> {
        let mut slot = segment.file.lock();
        if let Some(file) = &*slot {
            return Ok(Arc::clone(file));
        }
        let file = self.storage.open(&segment_name(segment.number), self.access)?;
        *slot = Some(Arc::clone(&file));
        drop(slot);
        self.close_beyond_limit(segment.number);
        Ok(file)
    }

    fn close_beyond_limit(&self, opened: u64) {
        let limit = if self.access == Access::ReadMapped { MAPS_MAX } else { DESCRIPTORS_MAX };
        let closing = {
            let mut queue = self.opened.lock();
            queue.push_back(opened);
            if queue.len() > limit { queue.pop_front() } else { None }
        };
        if let Some(closing) = closing.and_then(|number| self.live.read().get(&number).cloned()) {
            *closing.file.lock() = None;
        }
    }
}

/// A record that verified, owned.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) header: Header,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    pub(crate) fn record(&self) -> std::result::Result<Record<'_>, DecodeError> {
        self.header.decode_body(&self.bytes)
    }
}

fn read_record(file: &dyn File, segment: &Segment, offset: u64) -> Result<Stored> {
    let damaged =
        |error: DecodeError| Error::Corrupt { segment: segment.number, offset, what: error.what() };
    let mut head = [0; HEADER_BYTES];
    file.read_at(offset, &mut head).map_err(Error::io("read a record"))?;
    let header = Header::decode(&head, segment.identity, offset).map_err(damaged)?;
    if offset + header.record_bytes() as u64 > segment.bytes {
        return Err(damaged(DecodeError::Damaged("a record beyond the end of its segment")));
    }
    let mut bytes = vec![0; header.record_bytes()];
    file.read_at(offset, &mut bytes).map_err(Error::io("read a record"))?;
    header.decode_body(&bytes).map_err(damaged)?;
    Ok(Stored { header, bytes })
}
