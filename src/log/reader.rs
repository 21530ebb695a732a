//! Reads an unsealed segment from the front, and tells how it ends. Decides nothing.

use crate::format::DecodeError;
use crate::format::record::{Header, Identity, Kind, Record};
use crate::format::segment::DATA_START;
use crate::location::{Location, Lsn};

/// One good record.
pub(crate) struct Entry<'a> {
    pub(crate) offset: u64,
    pub(crate) header: Header,
    pub(crate) record: Record<'a>,
}

/// How the good records end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing but zeros follows.
    Blank,
    /// The last one is a SEAL.
    Sealed,
    /// Something follows that is not the next record.
    Bad(&'static str),
}

/// What a scan found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    pub(crate) end: End,
    /// The first byte behind the last good record.
    pub(crate) offset: u64,
    /// The last good record, where there is one.
    pub(crate) last: Option<(Lsn, Kind)>,
    /// The highest promise of a good record: all up to it is durable.
    pub(crate) promise: Lsn,
}

/// Reads the records of a whole segment; `first` is the LSN that its header names.
pub(crate) fn scan<'a>(
    bytes: &'a [u8],
    identity: Identity,
    first: Lsn,
    mut each: impl FnMut(Entry<'a>),
) -> Scan {
    let mut scan = Scan { end: End::Blank, offset: DATA_START, last: None, promise: Lsn::ZERO };
    loop {
        match next(bytes, identity, scan.offset) {
            Ok((header, record)) => {
                let expected = match scan.last {
                    None => header.lsn == first,
                    // Who wrote a CLEAN wrote no more: what goes on in its epoch was cut there.
                    Some((last, Kind::Clean)) => {
                        header.lsn.follows(last) && header.lsn.epoch() > last.epoch()
                    }
                    Some((last, _)) => header.lsn.follows(last),
                };
                if !expected {
                    return Scan { end: End::Bad("a record out of sequence"), ..scan };
                }
                each(Entry { offset: scan.offset, header, record });
                scan.promise = scan.promise.max(header.promise());
                scan.last = Some((header.lsn, header.kind));
                scan.offset += header.record_bytes() as u64;
                if header.kind == Kind::Seal {
                    return Scan { end: End::Sealed, ..scan };
                }
            }
            Err(DecodeError::Blank) if is_blank(bytes, scan.offset) => return scan,
            Err(error) => return Scan { end: End::Bad(error.what()), ..scan },
        }
    }
}

/// What the valid records behind a bad spot say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beyond {
    /// The highest promise among them.
    pub(crate) promise: Lsn,
    /// The lowest LSN among them.
    pub(crate) lowest: Option<Lsn>,
    /// What FORGETs among them name, and the hash that they give.
    pub(crate) forgotten: Vec<(u64, Location)>,
}

/// Looks at every place from `offset` on for records that verify, header and body. Those below
/// `least` say nothing: they are what an earlier cut has left.
pub(crate) fn look_ahead(
    bytes: &[u8],
    identity: Identity,
    offset: u64,
    least: Lsn,
    beyond: &mut Beyond,
) {
    let mut at = offset;
    while at + Location::GRANULE <= bytes.len() as u64 {
        match next(bytes, identity, at) {
            Ok((header, _)) if header.lsn < least => at += header.record_bytes() as u64,
            Ok((header, record)) => {
                if let Record::Forget { hash, segment, offset } = record {
                    let location = Location::checked(segment, offset);
                    beyond.forgotten.extend(location.map(|location| (hash, location)));
                }
                beyond.promise = beyond.promise.max(header.promise());
                beyond.lowest = Some(beyond.lowest.map_or(header.lsn, |low| low.min(header.lsn)));
                at += header.record_bytes() as u64;
            }
            Err(_) => at += Location::GRANULE,
        }
    }
}

/// Calls back with every record from `offset` on that verifies and has a higher LSN than the one
/// before it, whatever stands between them. Returns the first byte behind the last one.
pub(crate) fn salvage<'a>(
    bytes: &'a [u8],
    identity: Identity,
    mut offset: u64,
    mut least: Lsn,
    mut each: impl FnMut(Entry<'a>),
) -> u64 {
    let is_later = |least: Lsn| move |found: &Header| found.lsn >= least;
    while let Some((at, _)) = find_good(bytes, identity, offset, is_later(least)) {
        let Ok((header, record)) = next(bytes, identity, at) else { break };
        each(Entry { offset: at, header, record });
        (offset, least) = (at + header.record_bytes() as u64, header.lsn.next());
    }
    offset
}

/// The next place behind `offset` where a record verifies, and its header.
pub(crate) fn next_good(bytes: &[u8], identity: Identity, offset: u64) -> Option<(u64, Header)> {
    find_good(bytes, identity, offset + Location::GRANULE, |_| true)
}

/// The first place from `offset` on where a record verifies that is wanted, and its header.
pub(crate) fn find_good(
    bytes: &[u8],
    identity: Identity,
    offset: u64,
    is_wanted: impl Fn(&Header) -> bool,
) -> Option<(u64, Header)> {
    let granules = offset / Location::GRANULE..bytes.len() as u64 / Location::GRANULE;
    let mut places = granules.map(|granule| granule * Location::GRANULE);
    places.find_map(|at| {
        let (header, _) = next(bytes, identity, at).ok()?;
        is_wanted(&header).then_some((at, header))
    })
}

/// Whether all bytes from `offset` on are zeros.
fn is_blank(bytes: &[u8], offset: u64) -> bool {
    from(bytes, offset).iter().all(|&byte| byte == 0)
}

fn from(bytes: &[u8], offset: u64) -> &[u8] {
    usize::try_from(offset).ok().and_then(|start| bytes.get(start..)).unwrap_or(&[])
}

/// The record at a place, where header and body verify.
pub(crate) fn next(
    bytes: &[u8],
    identity: Identity,
    offset: u64,
) -> Result<(Header, Record<'_>), DecodeError> {
    let rest = from(bytes, offset);
    if rest.is_empty() {
        return Err(DecodeError::Blank);
    }
    let header = Header::decode(rest, identity, offset)?;
    Ok((header, header.decode_body(rest)?))
}
