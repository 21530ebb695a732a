//! The rows, in groups that share the stores they run on.

mod batch;
mod buffered;
mod expiry;
mod field;
mod growth;
mod idle;
mod opening;
mod synced;
mod webhooks;
mod written;

use std::time::Instant;

use tempfile::TempDir;

use crate::Arguments;
use crate::engines::{Durability, Error, Kind, Result, Setup};
use crate::measure::Device;
use crate::report::Table;
use crate::workload::Workload;

use field::{Field, Lane};

pub const NAMES: [&str; 15] =
    ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "16"];
/// Needs what `fetch-webhooks.sh` fetches, and is run by name only.
pub const WEBHOOKS: &str = "webhooks";

/// Everything that rows share.
pub struct Bench {
    pub arguments: Arguments,
    pub kinds: Vec<Kind>,
    pub machine: Vec<String>,
    pub device: Device,
    pub workload: Workload,
}

impl Bench {
    /// A table of this run.
    pub fn table(&self, id: &str, title: &str) -> Table {
        match self.arguments.suffix.as_str() {
            "" => Table::new(id, title),
            suffix => Table::new(&format!("{id}-{suffix}"), &format!("{title} ({suffix})")),
        }
    }

    /// The keys of the rows that go on to many times as many.
    pub fn first_keys(&self) -> u64 {
        if self.arguments.quick { self.arguments.keys / 10 } else { self.arguments.keys }
    }

    pub fn write(&self, table: &Table) -> Result<()> {
        table.write(&self.arguments.out, &self.machine)
    }
}

pub fn run(bench: &Bench) -> Result<()> {
    let start = Instant::now();
    let asks = |rows: &[&str]| bench.arguments.asks_for(rows);
    if bench.arguments.in_turn {
        buffered::read_in_turn(bench)?;
    } else {
        buffered_and_synced(bench)?;
    }
    if asks(&["9"]) {
        expiry::run(bench)?;
    }
    if asks(&["10", "11"]) {
        growth::run(bench)?;
    }
    if asks(&["13"]) {
        opening::run(bench)?;
    }
    if asks(&["14"]) {
        batch::run(bench)?;
    }
    if asks(&["16"]) {
        idle::run(bench)?;
    }
    if asks(&[WEBHOOKS]) {
        webhooks::run(bench)?;
    }
    eprintln!("done in {:.0?}", start.elapsed());
    Ok(())
}

/// The stores of the buffered rows, opened again for the synced ones. Filling them is row 12.
fn buffered_and_synced(bench: &Bench) -> Result<()> {
    let buffered = bench.arguments.asks_for(&["1", "2", "6", "7", "8"]);
    let synced = bench.arguments.asks_for(&["3", "4", "5"]);
    let filled = bench.arguments.asks_for(&["12"]);
    if !buffered && !synced && !filled {
        return Ok(());
    }
    let mut field = Field::filled(bench, &bench.kinds)?;
    if filled {
        written::write(bench, &field)?;
    }
    if buffered {
        buffered::run(bench, &mut field)?;
    }
    if synced {
        field.reopen_synced(bench)?;
        synced::run(bench, &mut field)?;
    }
    field.close()
}

pub fn setup(durability: Durability, reserve: u64) -> Setup {
    Setup { durability, dir: Default::default(), expires: false, reserve, clock: None }
}

/// A directory for one engine. Servers run as another user, who must get there.
pub fn scratch(bench: &Bench, kind: Kind) -> Result<TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let prefix = format!("{kind:?}-").to_lowercase();
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(&bench.arguments.dir)?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// Says of which engine an error is.
pub fn named(kind: Kind) -> impl Fn(Error) -> Error {
    move |error| format!("{}: {error}", kind.name()).into()
}

/// What acknowledged work a crash takes, for the rows without a sync for every write.
pub fn losses(bench: &Bench) -> String {
    let kinds = bench.kinds.iter().filter(|kind| !matches!(kind, Kind::Commit));
    let kinds = kinds.filter(|kind| !kind.name().contains("committer"));
    let losses: Vec<_> = kinds.map(|kind| format!("- {}: {}", kind.name(), kind.loses())).collect();
    format!("What a crash takes of what was acknowledged:\n\n{}", losses.join("\n"))
}
