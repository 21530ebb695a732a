//! Webhooks: real bodies, under their delivery ids, with every fifth delivery sent again.

use std::path::Path;

use oncelog::Fingerprint;
use serde_json::Value;

use super::{Bench, Lane, losses, named, setup};
use crate::chart::Better;
use crate::drive::{Run, Until, Worker};
use crate::engines::{Durability, Outcome, Result};
use crate::measure::quantile_us;
use crate::workload::{Workload, ensure, mix};

/// Where `fetch-webhooks.sh` puts the package.
const FILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/webhooks/package/api.github.com/index.json");
/// Every so many deliveries one is sent again.
const RETRIED: u64 = 5;

struct Delivery {
    path: String,
    body: Vec<u8>,
}

pub fn run(bench: &Bench) -> Result<()> {
    ensure(Path::new(FILE).exists(), || "webhooks: not fetched, see fetch-webhooks.sh".into())?;
    let deliveries = read()?;
    let bytes: usize = deliveries.iter().map(|delivery| delivery.body.len()).sum();
    let mut table = bench
        .table("20-webhooks", "Deliveries of webhooks, buffered, 1 thread")
        .note(format!(
            "{} bodies of @octokit/webhooks-examples, {:.1} KiB each on average, over and over \
             under new delivery ids. Every fifth delivery is sent again and must get the first \
             response. The fingerprint of the body is taken for everybody alike, and included.",
            deliveries.len(),
            bytes as f64 / deliveries.len() as f64 / 1024.0,
        ))
        .note(losses(bench))
        .chart("deliveries, retries included", "1/s", Better::Higher)
        .column("p99.9", "us", Better::Lower);
    let mut lanes = Vec::new();
    let kinds = bench.kinds.iter().filter(|kind| {
        (!kind.is_bound() || kind.name().contains("map")) && !kind.name().contains("committer")
    });
    for &kind in kinds {
        lanes.push((Lane::open(bench, kind, setup(Durability::Buffered, 2_000_000))?, 0));
    }
    for round in 1..=bench.arguments.rounds {
        eprintln!("{}: round {round} of {}", table.title, bench.arguments.rounds);
        for (lane, next) in &mut lanes {
            let mut run = replay(bench, lane, &deliveries, *next)?;
            *next += run.operations;
            table.add(lane.kind, &[run.per_second(), quantile_us(&mut run.times, 0.999)]);
            lane.engine.sync().map_err(named(lane.kind))?;
        }
    }
    bench.write(&table)?;
    lanes.into_iter().try_for_each(|(lane, _)| lane.engine.close().map_err(named(lane.kind)))
}

fn read() -> Result<Vec<Delivery>> {
    let events: Vec<Value> = serde_json::from_slice(&std::fs::read(FILE)?)?;
    let mut deliveries = Vec::new();
    for event in &events {
        let name = event["name"].as_str().ok_or("an event without a name")?;
        for example in event["examples"].as_array().ok_or("an event without examples")? {
            let body = serde_json::to_vec(example)?;
            deliveries.push(Delivery { path: format!("/webhooks/{name}"), body });
        }
    }
    ensure(!deliveries.is_empty(), || "the package has no examples".to_owned())?;
    Ok(deliveries)
}

fn replay(bench: &Bench, lane: &mut Lane, deliveries: &[Delivery], from: u64) -> Result<Run> {
    let until = Until::Time(std::time::Duration::from_millis(bench.arguments.round_ms));
    lane.run_until(bench, 1, until, |worker, operation| {
        // Numbers that divide by six are the fifth delivery before them, again.
        let operation = from + operation;
        let (turn, step) = (operation / (RETRIED + 1), operation % (RETRIED + 1));
        let again = step == RETRIED;
        let nth = turn * RETRIED + if again { RETRIED - 1 } else { step };
        // A round may begin with a retry; its delivery was the last of the round before.
        deliver(worker, &deliveries[nth as usize % deliveries.len()], nth, again)
    })
}

fn deliver(worker: &mut Worker<'_>, delivery: &Delivery, nth: u64, again: bool) -> Result<()> {
    let (high, low) = (mix(nth), mix(!nth));
    worker.request.set("9f3c2d1e-github", &delivery.path, format_args!("{high:016x}-{low:016x}"));
    worker.request.fingerprint = Fingerprint::of(&delivery.body).to_bytes();
    worker.request.now_ms = worker.workload.now_ms();
    let mut response = Vec::new();
    respond(worker.workload, nth, &mut response);
    match worker.claim_request(&response)? {
        Outcome::Granted(_) if !again => Ok(()),
        Outcome::Replay if again => {
            ensure(worker.replayed() == response, || format!("delivery {nth} has another response"))
        }
        other => Err(format!("delivery {nth}, again: {again}, was {}", other.name()).into()),
    }
}

/// What a receiver says: short, and different for each.
fn respond(workload: &Workload, nth: u64, response: &mut Vec<u8>) {
    workload.text_response(nth, 120, (mix(nth) % 65_536) as usize, response);
}
