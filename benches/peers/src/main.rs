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

use clap::{Parser, ValueEnum};

use engines::{Kind, Result};

#[derive(Clone, Parser)]
#[command(about, max_term_width = 100)]
pub struct Arguments {
    /// Keys that are stored before a row is timed
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Rows to run: 1 to 14 or `webhooks`, with commas between them; all where not given
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Engines to run, with commas between them; all that are here where not given
    #[arg(long, value_delimiter = ',')]
    engines: Vec<Kind>,
    /// Alternating rounds: each engine once, and again
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long an engine runs in a round, in milliseconds
    #[arg(long, default_value_t = 2000)]
    round_ms: u64,
    /// The N of growth (row 10) and of opening (row 13), each up to 10 N; `--keys` where not given
    #[arg(long)]
    growth_keys: Option<u64>,
    /// 20,000 keys, one short round, growth from 2,000: whether everything works, in two minutes
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
        self.rows.is_empty() || rows.iter().any(|row| self.rows.iter().any(|asked| asked == row))
    }
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    if let Some(task) = &arguments.child {
        return child::run(task);
    }
    if arguments.quick {
        (arguments.keys, arguments.rounds, arguments.round_ms) = (20_000, 1, 150);
        arguments.growth_keys = Some(2_000);
    }
    for row in &arguments.rows {
        let known = rows::NAMES.contains(&row.as_str());
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
    rows::run(&rows::Bench { arguments, kinds, machine, workload: workload::Workload::new() })
}
