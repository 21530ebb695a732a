//! What is in a segment, as its SEAL says it, a CLEAN so far, and its hint file again.

use crate::format::{DecodeError, Fields, Put};

/// Bytes of a summary.
pub(super) const SUMMARY_BYTES: usize = 46;

/// What is in a segment, told by its SEAL and, so far, by a CLEAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records, the SEAL not counted.
    pub records: u32,
    /// COMPLETE records.
    pub completes: u32,
    /// FORGET records.
    pub forgets: u32,
    /// The LSN of the first record, as a number.
    pub first_lsn: u64,
    /// The LSN of the last record before this one, as a number.
    pub last_lsn: u64,
    /// The lowest time of a record, in ms.
    pub time_ms_min: u64,
    /// The highest time of a record, in ms.
    pub time_ms_max: u64,
    /// The highest `expires_ms` of its COMPLETEs; 0 where there is none.
    pub expires_ms_max: u64,
}

pub(super) fn read(fields: &mut Fields<'_>) -> Result<Summary, DecodeError> {
    Ok(Summary {
        records: fields.u32()?,
        completes: fields.u32()?,
        forgets: fields.u32()?,
        first_lsn: fields.u64()?,
        last_lsn: fields.u64()?,
        time_ms_min: fields.u48()?,
        time_ms_max: fields.u48()?,
        expires_ms_max: fields.u48()?,
    })
}

pub(super) fn put(fields: &mut Put<'_>, summary: &Summary) {
    fields.u32(summary.records).u32(summary.completes).u32(summary.forgets);
    fields.u64(summary.first_lsn).u64(summary.last_lsn);
    fields.u48(summary.time_ms_min).u48(summary.time_ms_max).u48(summary.expires_ms_max);
}
