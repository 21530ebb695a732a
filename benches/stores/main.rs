//! What a request costs on each store, through the layer, all of them in one run.
//!
//! The stores take turns in rounds, so that noise hits all, and the median of the rounds counts.
//! Times are those of one caller alone; rates and CPU are those of 64 at once, the CPU that of this
//! process: the API and the bench's own requests, without the servers. The bounds take turns with
//! them: the same handler without the layer, and the least that a disk and a server take.
//!
//! Prints the tables of docs/stores.md. `ONCELOG_CHART` names a file for the chart. The servers are
//! started here, in scratch directories: wants root and Debian's redis-server and postgresql.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a bench measures the time, and a step of it that fails fails the bench"
)]

mod bounds;
#[path = "../peers/src/chart.rs"]
mod chart;
#[path = "../../tests/redis/cluster.rs"]
#[expect(dead_code, reason = "the tests need more of a cluster")]
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod drive;
#[path = "../../tests/postgres/server.rs"]
#[expect(dead_code, reason = "the tests need more of a server")]
mod postgres;
#[path = "../../tests/witness/programs.rs"]
mod programs;
#[path = "../../tests/redis/server.rs"]
#[expect(dead_code, reason = "the tests need more of a server")]
mod server;
mod servers;
mod stores;
mod table;

use std::time::Duration;

use crate::drive::{Keys, drive};
use crate::servers::Servers;
use crate::stores::Store;
use crate::table::{Row, Table};

const CALLERS: u64 = 64;

#[derive(Clone, Copy)]
struct Plan {
    rounds: usize,
    /// How long each of the four figures of a store is measured in a round.
    turn: Duration,
}

fn main() {
    let measured = Plan { rounds: 7, turn: Duration::from_millis(350) };
    let tried = Plan { rounds: 1, turn: Duration::from_millis(10) };
    let plan = if common::is_measured() { measured } else { tried };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let servers = Servers::start();
    // On a worker, as requests are: a wake from the thread of `main` costs more.
    let (table, servers) = runtime.block_on(runtime.spawn(measure(servers, plan))).unwrap();
    print!("{}", table.markdown(&servers.versions(&runtime), plan.rounds));
    if let Some(path) = std::env::var_os("ONCELOG_CHART") {
        std::fs::write(path, table.chart()).unwrap();
    }
}

async fn measure(servers: Servers, plan: Plan) -> (Table, Servers) {
    let stores = stores::open(&servers).await;
    let mut bounds = bounds::open(&servers).await;
    let bare = stores::api();
    let mut table = Table::new(&stores, &bounds);
    for round in 0..=plan.rounds {
        // The first round warms all up.
        let (turn, counts) = match round {
            0 => (plan.turn / 3, false),
            _ => (plan.turn, true),
        };
        for at in 0..stores.len() {
            let nth = if round % 2 == 0 { at } else { stores.len() - 1 - at };
            let row = requests(&stores[nth], turn).await;
            if counts {
                table.add(stores[nth].name, row);
            }
        }
        let without = drive(&bare, Keys::None, 1, turn).await;
        let rate = drive(&bare, Keys::None, CALLERS, turn).await;
        if counts {
            table.add(table::BARE, Row::half(&without, &rate));
        }
        for bound in &mut bounds {
            let times = bound.times(turn).await;
            if counts {
                table.add(bound.name(), Row::times(&times));
            }
        }
    }
    (table, servers)
}

/// What a store takes in one round.
async fn requests(store: &Store, turn: Duration) -> Row {
    let mut halves = Vec::new();
    for keys in [Keys::Fresh, Keys::Completed] {
        let alone = drive(&store.api, keys, 1, turn).await;
        let together = drive(&store.api, keys, CALLERS, turn).await;
        halves.push(Row::half(&alone, &together));
    }
    Row::both(halves[0], halves[1])
}
