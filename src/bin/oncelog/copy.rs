//! Backups, and stores made of them.

use std::path::Path;

use oncelog::Backup;

use crate::failure::{Failure, Outcome, of};
use crate::look::scan;
use crate::output::{Cell, Fields, Printer};

/// Whether a restored store shares the files of sealed segments with its backup.
pub(crate) enum Segments {
    Linked,
    Copied,
}

fn fields(made: &Backup, at: &Path) -> Fields {
    Fields::default()
        .with("directory", Cell::text(at.display()))
        .with("segments", Cell::Count(made.segments))
        .with("linked_segments", Cell::Count(made.linked))
        .with("copied_segments", Cell::Count(made.copied))
        .with("records", Cell::Count(made.records))
        .with("verified_bytes", Cell::Bytes(made.bytes))
        .with("open_claims", Cell::Count(made.open_claims))
        .with("upto", made.upto.map_or(Cell::Nothing, Cell::text))
}

pub(crate) fn backup(dir: &Path, to: &Path, printer: &mut Printer) -> Outcome {
    let made = scan(dir, None)?.backup(to).map_err(of(to))?;
    printer.fields(&fields(&made, to))
}

pub(crate) fn restore(
    backup: &Path,
    dir: &Path,
    segments: Segments,
    printer: &mut Printer,
) -> Outcome {
    let scan = scan(backup, None)?;
    let found = scan.verify().map_err(of(backup))?;
    if let Some(damage) = found.damage.first() {
        return Err(Failure::Damaged(format!(
            "{}: {} damaged places, the first in segment {} at byte {}: {}",
            backup.display(),
            found.damage.len(),
            damage.segment,
            damage.offset,
            damage.what
        )));
    }
    let made = match segments {
        Segments::Linked => scan.backup(dir),
        Segments::Copied => scan.copy(dir),
    };
    let made = made.map_err(of(dir))?;
    printer.fields(&fields(&made, dir))?;
    if printer.is_human() {
        printer.line(
            "\nThe caller's database can know more than this store: what ran since the backup\n\
             is not in it and is granted again. Tokens issued since are issued again.",
        )?;
    }
    Ok(())
}
