//! How fast a store claims and completes on this machine's disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use oncelog::{Claim, Durability, Error, Fingerprint, Result, Scope, Store};

use crate::args::{Mode, Work};
use crate::failure::{Failure, Outcome, of};
use crate::histogram;
use crate::output::{Cell, Fields, Printer};
use crate::progress::Bar;
use crate::time;

/// What one caller, or all of them, did.
struct Done {
    pairs: u64,
    claims: Histogram<u64>,
    completions: Histogram<u64>,
}

pub(crate) fn bench(work: &Work, printer: &mut Printer) -> Outcome {
    let mine = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let scratch = tempfile::Builder::new()
        .prefix("oncelog-bench-")
        .permissions(mine)
        .tempdir_in(&work.parent);
    let scratch = scratch.map_err(|source| {
        Failure::Usage(format!("no scratch directory in {}: {source}", work.parent.display()))
    })?;
    let dir = scratch.path();
    let durability = match work.durability {
        Mode::Synced => Durability::Synced,
        Mode::Buffered => Durability::Buffered { sync_every: Duration::from_millis(100) },
    };
    let store = Store::options().durability(durability).open(dir).map_err(of(dir))?;
    for warning in &store.recovery().warnings {
        eprintln!("oncelog: {warning}");
    }
    let (done, took) = run(&store, work).map_err(of(dir))?;
    let stats = store.stats();
    store.close().map_err(of(dir))?;
    report(&done, took, work, stats.commit_batches, stats.appended_bytes, printer)?;
    remove(scratch, &work.parent)
}

fn remove(scratch: tempfile::TempDir, parent: &Path) -> Outcome {
    scratch.close().map_err(|source| {
        let context = "remove the scratch directory";
        Failure::Store(parent.to_owned(), Error::Io { context, source: source.into() })
    })
}

fn run(store: &Store, work: &Work) -> Result<(Done, Duration)> {
    let begun = time::monotonic();
    let until = begun + Duration::from_secs(work.seconds);
    let taken = AtomicU64::new(0);
    let results: Vec<Result<Done>> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..work.threads)
            .map(|caller| {
                let (store, taken) = (store, &taken);
                scope.spawn(move || call(store, work, taken, until, (caller == 0).then(Bar::new)))
            })
            .collect();
        let joined = callers.into_iter().map(|caller| caller.join());
        joined.map(|done| done.expect("a caller returns its errors")).collect()
    });
    let took = time::monotonic() - begun;
    let mut all = Done { pairs: 0, claims: histogram::new(), completions: histogram::new() };
    for done in results {
        let done = done?;
        all.pairs += done.pairs;
        all.claims += done.claims;
        all.completions += done.completions;
    }
    Ok((all, took))
}

/// One caller: a key after the other until the time or the keys are over.
fn call(
    store: &Store,
    work: &Work,
    taken: &AtomicU64,
    until: Duration,
    mut bar: Option<Bar>,
) -> Result<Done> {
    let mut done = Done { pairs: 0, claims: histogram::new(), completions: histogram::new() };
    let response = vec![b'x'; usize::try_from(work.response_bytes).expect("at most 1 MiB")];
    let (keys, begun) = (work.keys.unwrap_or(u64::MAX), time::monotonic());
    loop {
        // Relaxed: each number is taken once, and orders nothing.
        let number = taken.fetch_add(1, Ordering::Relaxed);
        let now = time::monotonic();
        if number >= keys || now >= until {
            return Ok(done);
        }
        if let Some(bar) = &mut bar
            && done.pairs.is_multiple_of(64)
        {
            let elapsed = u64::try_from((now - begun).as_millis()).unwrap_or(u64::MAX);
            bar.tell("running", elapsed, work.seconds * 1000);
        }
        let key = format!("bench-{number:016}");
        let path = "/v1/bench/contacts";
        let scope = Scope { organization: "bench", method: "POST", path, key: &key };
        let begun = time::monotonic();
        let Claim::Granted(permit) = store.claim(scope, Fingerprint::of(key.as_bytes()))? else {
            return Err(Error::Invalid { what: "a fresh key was not granted" });
        };
        let claimed = time::monotonic();
        permit.complete(&response)?;
        histogram::add(&mut done.claims, claimed - begun);
        histogram::add(&mut done.completions, time::monotonic() - claimed);
        done.pairs += 1;
    }
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

fn at(histogram: &Histogram<u64>, quantile: f64) -> Duration {
    Duration::from_nanos(histogram.value_at_quantile(quantile))
}

fn report(
    done: &Done,
    took: Duration,
    work: &Work,
    batches: u64,
    appended: u64,
    printer: &mut Printer,
) -> Outcome {
    let mode = match work.durability {
        Mode::Synced => "synced",
        Mode::Buffered => "buffered",
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown without its fractions")]
    let rate = done.pairs as f64 / took.as_secs_f64();
    let mut fields = Fields::default()
        .with("durability", Cell::text(mode))
        .with("threads", Cell::Count(work.threads))
        .with("response_bytes", Cell::Bytes(work.response_bytes.into()))
        .with("pairs", Cell::Count(done.pairs))
        .with("took", Cell::Span(took))
        .with("rate", Cell::PerSecond(rate))
        .with("syncs", Cell::Count(batches))
        .with("appended_bytes", Cell::Bytes(appended));
    let claim = ["claim_p50", "claim_p90", "claim_p99", "claim_p999"];
    let complete = ["complete_p50", "complete_p90", "complete_p99", "complete_p999"];
    if !printer.is_human() {
        for (names, histogram) in [(claim, &done.claims), (complete, &done.completions)] {
            for (name, (_, quantile)) in names.into_iter().zip(QUANTILES) {
                fields = fields.with(name, Cell::Latency(at(histogram, quantile)));
            }
        }
        fields = fields.with("claim_max", Cell::Latency(at(&done.claims, 1.0)));
        fields = fields.with("complete_max", Cell::Latency(at(&done.completions, 1.0)));
        return printer.fields(&fields);
    }
    printer.fields(&fields)?;
    let heads = QUANTILES.map(|(head, _)| format!("{head:>9}")).concat();
    printer.line(&format!("\n{:10}{heads}{:>9}", "", "max"))?;
    for (name, histogram) in [("claim", &done.claims), ("complete", &done.completions)] {
        let cell = |took: Duration| format!("{:>9}", time::latency(took));
        let cells = QUANTILES.map(|(_, quantile)| cell(at(histogram, quantile))).concat();
        printer.line(&format!("{name:10}{cells}{}", cell(at(histogram, 1.0))))?;
    }
    for (name, histogram) in [("claims", &done.claims), ("completions", &done.completions)] {
        printer.line(&format!("\n{name}"))?;
        histogram::bars(histogram).iter().try_for_each(|bar| printer.line(bar))?;
    }
    Ok(())
}
