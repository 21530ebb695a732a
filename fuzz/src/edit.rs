//! Edits of the files of a store, each of seven bytes: what, which file, where (2), how (3).
//!
//! Damage flips, zeros, moves, cuts and removes; a forgery makes the checksums right afterwards.

use std::collections::BTreeMap;

use crate::mend::{Place, header_verifies, mend_file, mend_header, mend_record, place};
use crate::mend::{RECORDS_START, record_bytes};

/// The files of a store by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The length of an edit.
pub const EDIT_BYTES: usize = 7;

/// What was done to the files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Something was.
    pub damaged: bool,
    /// Checksums were mended, so that the files say something else.
    pub forged: bool,
    /// CHECKPOINT was touched: it may have gone back, and with it what is promised.
    pub checkpoint: bool,
}

/// Does one edit.
pub fn apply(files: &mut Files, edit: &[u8], done: &mut Done) {
    let names: Vec<String> = files.keys().cloned().collect();
    if names.is_empty() || edit.len() < EDIT_BYTES {
        return;
    }
    let name = &names[usize::from(edit[1]) % names.len()];
    let store = store_of(files);
    done.checkpoint |= name == "CHECKPOINT";
    let bytes = files.get_mut(name).expect("the name was just listed");
    if bytes.is_empty() {
        return;
    }
    done.damaged = true;
    let at = usize::from(u16::from_le_bytes([edit[2], edit[3]])) % bytes.len();
    let sector = at / 512 * 512..(at / 512 * 512 + 512).min(bytes.len());
    match edit[0] % 7 {
        0 => bytes[at] ^= edit[4].max(1),
        1 => bytes.truncate(at),
        2 => bytes[sector].fill(0),
        3 => drop(files.remove(name)),
        4 => {
            let from = usize::from(edit[4]) * 512 % bytes.len();
            let from = from..(from + sector.len()).min(bytes.len());
            bytes.copy_within(from, sector.start);
        }
        5 => {
            done.forged = true;
            forge_file(name, bytes, edit, store);
        }
        _ => {
            done.forged = true;
            forge_record(name, bytes, at, edit);
        }
    }
}

/// The uuid in SUPER, where there is one.
fn store_of(files: &Files) -> [u8; 16] {
    let found = files.get("SUPER").and_then(|bytes| bytes.get(16..32)?.try_into().ok());
    found.unwrap_or_default()
}

/// Changes a byte of the fields that begin a file, in both copies, and mends the checksums.
fn forge_file(name: &str, bytes: &mut [u8], edit: &[u8], store: [u8; 16]) {
    let field = 16 + usize::from(edit[2]) % 104;
    for start in [0, 4096] {
        if name.ends_with(".idx") && start == 4096 {
            let entry = start + usize::from(edit[2]);
            if let Some(byte) = bytes.get_mut(entry) {
                *byte ^= edit[5];
            }
        } else if let Some(byte) = bytes.get_mut(start + field) {
            *byte ^= edit[4];
        }
    }
    mend_file(name, bytes, store);
}

/// Changes a byte of the record that is the last to begin at or before `at`, and mends it.
fn forge_record(name: &str, bytes: &mut [u8], at: usize, edit: &[u8]) {
    if !name.ends_with(".seg") || bytes.len() < RECORDS_START + 34 {
        return;
    }
    let whole = place(bytes, 0);
    let decode = |bytes: &[u8], offset: usize| {
        let rest = bytes.get(offset..).unwrap_or_default();
        let place = Place { offset: offset as u64, ..whole };
        header_verifies(rest, place).then(|| (offset, record_bytes(rest)))
    };
    let mut found = None;
    let mut offset = RECORDS_START;
    while offset <= at.max(RECORDS_START)
        && let Some(record) = decode(bytes, offset)
    {
        found = Some(record);
        offset += record.1;
    }
    let Some((offset, len)) = found else { return };
    let rest = &mut bytes[offset..];
    let field =
        4 + usize::from(u16::from_le_bytes([edit[4], edit[5]])) % len.saturating_sub(4).min(120);
    if let Some(byte) = rest.get_mut(field) {
        *byte ^= edit[6].max(1);
    }
    let place = Place { offset: offset as u64, ..whole };
    mend_header(rest, place);
    mend_record(rest, record_bytes(rest), place);
}
