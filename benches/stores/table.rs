//! The tables and the chart of docs/stores.md.

use std::fmt::Write as _;

use oncelog::http::{Evicts, OrphansShow, Promises, Survives, TokensOrder};

use crate::bounds::Bound;
use crate::chart::{Bar, Better, Panel, Role, number, render};
use crate::common::{Latencies, median};
use crate::drive::Driven;
use crate::stores::Store;

pub(crate) const BARE: &str = "*the handler without the layer*";
const COLUMNS: usize = 8;
const RATE: usize = 2;

/// Of a fresh key, then of a replay: p50 and p99 in us of one caller, requests a second and CPU in
/// us a request of many. NaN where there is none.
#[derive(Clone, Copy)]
pub(crate) struct Row([f64; COLUMNS]);

impl Row {
    pub(crate) fn times(times: &Latencies) -> Row {
        let mut row = [f64::NAN; COLUMNS];
        row[..2].copy_from_slice(&[500, 990].map(|share| us(times.quantile(share))));
        Row(row)
    }

    /// The figures of one kind of request, as those of a fresh key.
    pub(crate) fn half(alone: &Driven, together: &Driven) -> Row {
        let Row(mut row) = Row::times(&alone.latencies);
        let requests = together.latencies.count() as f64;
        row[RATE] = requests / together.took.as_secs_f64();
        row[RATE + 1] = us(together.cpu) / requests;
        Row(row)
    }

    pub(crate) fn both(fresh: Row, replay: Row) -> Row {
        let Row(mut row) = fresh;
        row[COLUMNS / 2..].copy_from_slice(&replay.0[..COLUMNS / 2]);
        Row(row)
    }
}

fn us(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

struct Line {
    name: &'static str,
    role: Role,
    rounds: Vec<Row>,
}

impl Line {
    fn median(&self, column: usize) -> f64 {
        median(self.rounds.iter().map(|row| row.0[column]).collect())
    }
}

pub(crate) struct Table {
    promises: Vec<(&'static str, Promises)>,
    lines: Vec<Line>,
}

impl Table {
    pub(crate) fn new(stores: &[Store], bounds: &[Bound]) -> Table {
        let line = |name, role| Line { name, role, rounds: Vec::new() };
        let role = |name: &str| if name.starts_with("embedded") { Role::Ours } else { Role::Peer };
        let stores_first = stores.iter().map(|store| line(store.name, role(store.name)));
        let lines = stores_first
            .chain([line(BARE, Role::Bound)])
            .chain(bounds.iter().map(|bound| line(bound.name(), Role::Bound)));
        let promises = stores.iter().map(|store| (store.name, store.promises)).collect();
        Table { promises, lines: lines.collect() }
    }

    pub(crate) fn add(&mut self, name: &str, row: Row) {
        let line = self.lines.iter_mut().find(|line| line.name == name);
        line.expect("every name has its line").rounds.push(row);
    }

    pub(crate) fn markdown(&self, versions: &str, rounds: usize) -> String {
        let mut text =
            "| | a fresh key: p50, us | p99, us | requests/s | CPU, us | a replay: p50, us \
                        | p99, us | requests/s | CPU, us |\n|---|"
                .to_owned();
        text += &"---:|".repeat(COLUMNS);
        for line in &self.lines {
            write!(text, "\n| {} |", line.name).expect("to a string");
            for column in 0..COLUMNS {
                let value = line.median(column);
                let shown = if value.is_nan() { "-".to_owned() } else { number(value) };
                write!(text, " {shown} |").expect("to a string");
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let rounds =
            if rounds == 1 { "One round".into() } else { format!("Medians of {rounds} rounds") };
        write!(text, "\n\n{rounds}; {cores} cores, {versions}.\n\n").expect("to a string");
        text + &self.promises()
    }

    /// What each store says of itself.
    fn promises(&self) -> String {
        let mut text =
            "| | survives | a dead process is known | tokens are ordered in | may evict | \
                        largest response |\n|---|---|---|---|---|---:|\n"
                .to_owned();
        for (name, promises) in &self.promises {
            let survives = match promises.survives {
                Survives::Nothing => "nothing",
                Survives::ProcessDeath => "the death of the process",
                Survives::PowerLoss => "a power cut",
                Survives::MachineLoss => "the loss of a machine",
            };
            let orphans = match promises.orphans {
                OrphansShow::AtOnce => "when the store opens",
                OrphansShow::ByLease => "when the lease is over",
            };
            let tokens = match promises.tokens {
                TokensOrder::WholeStore => "the whole store",
                TokensOrder::OneScope => "one scope",
            };
            let evicts = match promises.evicts {
                Evicts::Never => "never",
                Evicts::UnderPressure => "when memory is short",
            };
            let largest = promises.response_bytes_max >> 20;
            writeln!(
                text,
                "| {name} | {survives} | {orphans} | {tokens} | {evicts} | {largest} MiB |"
            )
            .expect("to a string");
        }
        text
    }

    /// Of a fresh key: how long it takes, and how many go through.
    pub(crate) fn chart(&self) -> String {
        let panel = |axis: &str, better, column| {
            let bars = self.lines.iter().map(|line| (line, line.median(column)));
            // Beside what no store is asked, the rates of the stores are hard to tell apart.
            let bars = bars.filter(|(line, value)| {
                !value.is_nan() && (column != RATE || line.role != Role::Bound)
            });
            let bars = bars.map(|(line, value)| Bar {
                // As much as there is room for.
                name: line.name.replace(['`', '*'], "").replace("Redis Cluster", "Cluster"),
                role: line.role,
                value,
            });
            Panel { axis: axis.to_owned(), better, bars: bars.collect() }
        };
        let panels = [
            panel("p50 of one caller, us", Better::Lower, 0),
            panel("requests of 64 callers, 1/s", Better::Higher, RATE),
        ];
        render("A request with a fresh key, by store", &panels)
    }
}
