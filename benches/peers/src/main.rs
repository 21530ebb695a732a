//! Runs the same workloads on oncelog and on its peers, and writes a table and a chart for each.

mod chart;
mod child;
mod drive;
mod engines;
mod machine;
mod measure;
mod report;
mod rows;
mod workload;

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};

use engines::{Kind, Result};
use measure::Device;

#[derive(Clone, Parser)]
#[command(about, max_term_width = 100)]
pub struct Arguments {
    /// Keys that are stored before a row is timed
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Rows to run, with commas between them: 1 to 14, 16 or `webhooks`
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,5,6,7,8,12,14")]
    rows: Vec<String>,
    /// Engines to run, with commas between them; all that are here where not given
    #[arg(long, value_delimiter = ',')]
    engines: Vec<Kind>,
    /// Alternating rounds: each engine once, and again
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long an engine runs in a round, in milliseconds
    #[arg(long, default_value_t = 1000)]
    round_ms: u64,
    /// Rows 6 and 7 with one engine in memory at a time, all its rounds before the next engine's
    #[arg(long)]
    in_turn: bool,
    /// How long row 16 counts system calls, in seconds
    #[arg(long, default_value_t = 120)]
    idle_s: u64,
    /// The end of the names of tables and charts, for a run beside the usual one
    #[arg(long, default_value = "")]
    suffix: String,
    /// 20,000 keys, one short round, 5 s idle, and every row where none are named
    #[arg(long)]
    quick: bool,
    /// Where the engines keep their files while they are measured; a directory on a real disk
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data"))]
    dir: PathBuf,
    /// Where tables and charts go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bench"))]
    out: PathBuf,
    #[command(subcommand)]
    child: Option<child::Task>,
}

impl Arguments {
    fn asks_for(&self, rows: &[&str]) -> bool {
        rows.iter().any(|row| self.rows.iter().any(|asked| asked == row))
    }
}

fn main() -> Result<()> {
    let matches = Arguments::command().get_matches();
    let mut arguments = Arguments::from_arg_matches(&matches)?;
    if let Some(task) = &arguments.child {
        return child::run(task);
    }
    if arguments.quick {
        (arguments.keys, arguments.rounds, arguments.round_ms) = (20_000, 1, 150);
        arguments.idle_s = 5;
        if matches.value_source("rows") != Some(ValueSource::CommandLine) {
            arguments.rows = rows::NAMES.map(str::to_owned).to_vec();
        }
    }
    for row in &arguments.rows {
        let known = rows::NAMES.contains(&row.as_str()) || row == rows::WEBHOOKS;
        workload::ensure(known, || format!("no such row: {row}; there are {:?}", rows::NAMES))?;
    }
    let all = Kind::value_variants().iter().copied();
    let asked = |kind: &Kind| arguments.engines.is_empty() || arguments.engines.contains(kind);
    let kinds: Vec<Kind> = all.filter(asked).collect();
    for kind in &kinds {
        if let Some(why) = kind.missing() {
            eprintln!("{}: {why}", kind.name());
        }
    }
    std::fs::create_dir_all(&arguments.dir)?;
    let machine = machine::describe(&arguments.dir, &kinds)?;
    let kinds = kinds.into_iter().filter(|kind| kind.missing().is_none()).collect();
    let (device, workload) = (Device::below(&arguments.dir)?, workload::Workload::new());
    rows::run(&rows::Bench { arguments, kinds, machine, device, workload })
}
