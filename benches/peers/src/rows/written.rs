//! Row 12: what filling a store wrote to the device, and what it keeps there.

use super::{Bench, Field};
use crate::chart::Better;
use crate::engines::Result;
use crate::measure::disk_bytes;

/// Fields that were just filled are what this row is about.
pub fn write(bench: &Bench, field: &Field) -> Result<()> {
    let mut table = bench
        .table("12-written", "Written to the device, and kept on disk")
        .note(format!(
            "{} fresh pairs into an empty store, buffered, 2 threads, one engine after the other; \
             one run, no rounds. All over the payload: scope, fingerprint and response, once.",
            bench.arguments.keys
        ))
        .note(
            "Written is what the block device was written, the file system's journal included, \
             from a quiet device until the engine was synced, had nothing left to do, and the file \
             system was synced. Ahead are the zeros that oncelog's thread writes before the log \
             gets there, so that a sync has no metadata to write: they are in the first figure \
             unless they were written over before they reached the device. Kept are the blocks of \
             the files.",
        )
        .note("Rows 3 and 4 have the same for synced pairs.")
        .chart("written", "times the payload", Better::Lower)
        .column("of it zeros ahead, at most", "times the payload", Better::Lower)
        .chart("kept", "times the payload", Better::Lower);
    for lane in &field.lanes {
        let on_disk = lane.keeps() && lane.kind != crate::engines::Kind::Map;
        let Some(filled) = lane.filled.filter(|_| on_disk) else { continue };
        let kept = disk_bytes(lane.dir())? as f64;
        let over = |bytes: f64| bytes / filled.payload;
        table.add(lane.kind, &[over(filled.device), over(filled.prepared), over(kept)]);
    }
    bench.write(&table)
}
