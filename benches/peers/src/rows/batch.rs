//! Row 14: claims of many fresh scopes in one call, beside one call each.

use std::time::{Duration, Instant};

use oncelog::{Claim, Fingerprint, Store};

use super::{Bench, Lane, setup};
use crate::chart::{Better, Role};
use crate::engines::{Durability, Kind, Result};
use crate::workload::{Request, ensure};

const BATCH: u64 = 1_000;

pub fn run(bench: &Bench) -> Result<()> {
    if !bench.kinds.contains(&Kind::Oncelog) {
        return Ok(());
    }
    let mut table = bench
        .table("14-claim-many", "Claims of 1,000 fresh scopes")
        .note(
            "oncelog, 1 thread, into a store that was empty at first; claims alone, each completed \
             once its batch is timed. No peer here has such a call. Synced, the calls one by one \
             wait for a sync each; commits are those that `Stats::commit_batches` counted during \
             the calls.",
        )
        .reference("one call of claim_many")
        .chart("a claim, buffered", "us", Better::Lower)
        .chart("a claim, synced", "us", Better::Lower)
        .column("commits for 1,000 claims, synced", "", Better::Lower);
    let mut next = 0;
    let mut lanes = Vec::new();
    for durability in [Durability::Buffered, Durability::Synced] {
        lanes.push(Lane::open(bench, Kind::Oncelog, setup(durability, 0))?);
    }
    for round in 1..=bench.arguments.rounds {
        eprintln!("{}: round {round} of {}", table.title, bench.arguments.rounds);
        for many in [true, false] {
            let mut values = Vec::new();
            for lane in &lanes {
                let store = lane.engine.store().ok_or("no store of oncelog")?;
                let (claim_us, commits) = measure(bench, store, &mut next, many)?;
                values.push(claim_us);
                if lane.durability() == Durability::Synced {
                    values.push(commits);
                    // The roll of a segment, or the promise of a quiet log, is one more at times.
                    let one = (1.0..1.1).contains(&commits);
                    ensure(!many || one, || format!("{commits} commits for a batch"))?;
                }
            }
            let (name, role) = match many {
                true => ("one call of claim_many", Role::Ours),
                false => ("1,000 calls of claim", Role::Peer),
            };
            table.add_line(name, role, &values);
        }
    }
    bench.write(&table)?;
    lanes.into_iter().try_for_each(|lane| lane.engine.close())
}

/// The time of a claim in microseconds, over as many batches as fit into a round, and the commits
/// for a batch.
fn measure(bench: &Bench, store: &Store, next: &mut u64, many: bool) -> Result<(f64, f64)> {
    let limit = Duration::from_millis(bench.arguments.round_ms);
    let (mut took, mut count, mut commits) = (Duration::ZERO, 0, 0);
    let mut response = Vec::new();
    while took < limit {
        let mut requests: Vec<Request> = Vec::new();
        for nth in *next..*next + BATCH {
            let mut request = Request::default();
            bench.workload.request(nth, &mut request);
            requests.push(request);
        }
        let fingerprint = |request: &Request| Fingerprint::from_bytes(request.fingerprint);
        let pairs: Vec<_> = requests.iter().map(|one| (one.scope(), fingerprint(one))).collect();
        let before = store.stats().commit_batches;
        let start = Instant::now();
        let claims: Vec<_> = match many {
            true => store.claim_many(&pairs),
            false => pairs.iter().map(|&(scope, print)| store.claim(scope, print)).collect(),
        };
        took += start.elapsed();
        commits += store.stats().commit_batches - before;
        let mut ends = Vec::new();
        for (nth, claim) in (*next..).zip(claims) {
            let Claim::Granted(permit) = claim? else {
                return Err(format!("key {nth} is fresh, and was not granted").into());
            };
            bench.workload.response(nth, &mut response);
            // Staged one after the other, so that synced completions share their syncs.
            ends.push(permit.complete_async(&response));
        }
        store.sync()?;
        drop(ends);
        *next += BATCH;
        count += BATCH;
    }
    let batches = count as f64 / BATCH as f64;
    Ok((took.as_nanos() as f64 / 1e3 / count as f64, commits as f64 / batches))
}
