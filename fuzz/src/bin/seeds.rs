//! Writes the seed corpora: `fuzz/corpus/TARGET/`, one file each, the same at every run.
//!
//! Seeds come from the stored fixture, whole files and single records, and from a small generator
//! for the targets whose input is a list of operations or edits.
#![expect(clippy::disallowed_methods, reason = "it writes files, and is no part of the store")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oncelog_fuzz::edit::EDIT_BYTES;
use oncelog_fuzz::mend::{RECORDS_START, header_verifies, place, quarantine_of, record_bytes};
use oncelog_fuzz::run::{CRASH_BYTES, OP_BYTES};

const FIELDS_START: usize = 16;
const RUNS: u64 = 48;

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixture = root.join("../tests/it/fixtures/v1");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(fixture)? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
    }
    let mut corpora = Corpora { root: root.join("corpus"), seeds: 0 };
    for (name, bytes) in &files {
        corpora.add_file(name, bytes)?;
    }
    // The fixture is sound, and has no such file.
    for count in 0..4 {
        let entries: Vec<u8> = (1..=count).flat_map(quarantine_entry).collect();
        corpora.add("quarantine_decode", &entries)?;
        corpora.add("quarantine_decode", &quarantine_of(&entries, *b"store-uuid-bytes"))?;
    }
    let mut bytes = Bytes(1);
    for run in 0..RUNS {
        let ops = bytes.ops(run % 60);
        let mode = [u8::from(run % 2 == 1)];
        corpora.add("operations", &[&mode[..], &ops].concat())?;
        let edits = (run % 4) as u8;
        let head = [mode[0], (run % 3) as u8, edits, run as u8, bytes.next(), 0];
        assert_eq!(head.len(), CRASH_BYTES);
        let edited = bytes.edits(edits);
        corpora.add("crash_recovery", &[&head[..], &edited, &ops].concat())?;
        let edited = bytes.edits(2);
        corpora.add("damaged_store", &[&mode[..], &edited, &bytes.ops(run % 60)].concat())?;
        let edits = (run % 8) as u8 + 1;
        corpora.add("open_directory", &bytes.edits(edits))?;
    }
    println!("{} seeds in {}", corpora.seeds, corpora.root.display());
    Ok(())
}

/// Segment, until when, epoch and kind: every second one is of a loss that nobody can name.
fn quarantine_entry(number: u64) -> Vec<u8> {
    let unnamed = number % 2;
    let fields = [number, unnamed * 1_700_000_000_000, number + 1, unnamed];
    fields.iter().flat_map(|field| field.to_le_bytes()).collect()
}

struct Corpora {
    root: PathBuf,
    seeds: usize,
}

impl Corpora {
    /// Names a seed by its number, so that a second run replaces the first.
    fn add(&mut self, target: &str, bytes: &[u8]) -> io::Result<()> {
        let dir = self.root.join(target);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("seed-{:04}", self.seeds)), bytes)?;
        self.seeds += 1;
        Ok(())
    }

    /// A file of the fixture as it is, and its fields where a target adds magic and version.
    fn add_file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let target = match name {
            "SUPER" => "superblock_decode",
            "CHECKPOINT" => "checkpoint_decode",
            name if name.ends_with(".idx") => "hint_decode",
            _ => "segment_header_decode",
        };
        self.add(target, &bytes[..bytes.len().min(RECORDS_START)])?;
        self.add(target, &bytes[FIELDS_START..bytes.len().min(RECORDS_START)])?;
        if name.ends_with(".seg") { self.add_records(bytes) } else { Ok(()) }
    }

    fn add_records(&mut self, segment: &[u8]) -> io::Result<()> {
        let whole = place(segment, 0);
        let mut at = RECORDS_START;
        let mut kinds = BTreeMap::new();
        while let Some(rest) = segment.get(at..at + 34).and(segment.get(at..)) {
            let offset = at as u64;
            if !header_verifies(rest, oncelog_fuzz::mend::Place { offset, ..whole }) {
                break;
            }
            let len = record_bytes(rest);
            kinds.entry(rest[8]).or_insert(&rest[..len]);
            at += len;
        }
        for record in kinds.values() {
            self.add("record_decode", record)?;
        }
        // Few records, so that a mutation of one is a large part of the input.
        let few = &segment[RECORDS_START..at.min(RECORDS_START + 4096)];
        self.add("segment_scan", &[&[0], few].concat())?;
        self.add("segment_scan", &[&[1], few].concat())
    }
}

/// A generator of bytes; xorshift, so that the seeds are the same everywhere.
struct Bytes(u64);

impl Bytes {
    fn next(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 24) as u8
    }

    /// Operations on few keys, so that a claim finds what an operation before it left.
    fn ops(&mut self, count: u64) -> Vec<u8> {
        let op = |bytes: &mut Bytes| -> [u8; OP_BYTES] {
            [bytes.next(), bytes.next() % 4, bytes.next(), bytes.next() % 32]
        };
        (0..count).flat_map(|_| op(self)).collect()
    }

    fn edits(&mut self, count: u8) -> Vec<u8> {
        (0..usize::from(count) * EDIT_BYTES).map(|_| self.next()).collect()
    }
}
