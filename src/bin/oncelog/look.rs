//! The commands that only read: beside a running server, up to one point of its log.

use std::path::Path;
use std::time::{Duration, SystemTime};

use oncelog::storage::Owner;
use oncelog::{
    Entry, Error, Kept, OrphanCause, OrphanInfo, Scan, Scope, Status, Store, Stored, Token,
};

use crate::args::{Filter, ScopeArgs, State};
use crate::failure::{Failure, Outcome, of};
use crate::output::{Cell, Fields, Printer, Table, printable, seconds};
use crate::progress;
use crate::time;

pub(crate) fn scan(dir: &Path, ttl: Option<Duration>) -> Outcome<Scan> {
    let mut options = Store::options().progress(progress::shown());
    if let Some(ttl) = ttl {
        options = options.ttl(ttl);
    }
    options.scan_read_only(dir).map_err(of(dir))
}

fn owner_word(owner: Owner) -> &'static str {
    match owner {
        Owner::Alive => "open in a process",
        Owner::Gone => "open nowhere",
        _ => "unknown",
    }
}

fn upto(token: Option<Token>) -> Cell {
    token.map_or(Cell::Nothing, Cell::text)
}

pub(crate) fn stat(dir: &Path, printer: &mut Printer) -> Outcome {
    let options = Store::options().progress(progress::shown());
    let snapshot = options.open_read_only(dir).map_err(of(dir))?;
    let totals = snapshot.totals();
    let torn = totals.cut.map(|(segment, what)| format!("segment {segment}: {what}"));
    let fields = Fields::default()
        .with("directory", Cell::text(dir.display()))
        .with("owner", Cell::text(owner_word(snapshot.owner())))
        .with("responses", Cell::Count(totals.responses))
        .with("in_progress", Cell::Count(totals.in_flight))
        .with("orphans", Cell::Count(totals.orphans))
        .with("segments", Cell::Count(totals.segments))
        .with("quarantined_segments", Cell::Count(totals.quarantined_segments))
        .with("disk_bytes", Cell::Bytes(totals.disk_bytes))
        .with("free_bytes", Cell::Bytes(totals.free_bytes))
        .with("index_bytes", Cell::Bytes(totals.index_bytes))
        .with("oldest_at", Cell::time(totals.oldest_at))
        .with("newest_at", Cell::time(totals.newest_at))
        .with("opened_times", Cell::Count(totals.epoch))
        .with("unfinished_end", torn.map_or(Cell::Nothing, Cell::Text))
        .with("upto", upto(totals.upto));
    printer.fields(&fields)
}

fn state_word(status: &Status) -> &'static str {
    match status {
        Status::Completed(_) => "completed",
        Status::InProgress(_) => "in_progress",
        Status::Orphaned(_) => "orphaned",
    }
}

/// When it completed, or was claimed where it has not.
fn at(status: &Status) -> SystemTime {
    match status {
        Status::Completed(stored) => stored.completed_at(),
        Status::InProgress(running) => running.claimed_at(),
        Status::Orphaned(info) => info.claimed_at(),
    }
}

pub(crate) fn cause_word(cause: OrphanCause) -> &'static str {
    match cause {
        OrphanCause::Crash => "crash",
        OrphanCause::Dropped => "dropped",
        OrphanCause::LeaseLapsed => "lease_lapsed",
        OrphanCause::Failed => "failed",
        _ => "unknown",
    }
}

fn stored_fields(fields: Fields, stored: &Stored) -> Fields {
    let kept = match stored.kept() {
        Kept::Whole => "whole",
        Kept::Omitted => "omitted",
        Kept::TooLarge => "too_large",
        Kept::NoRoom => "no_room",
        _ => "unknown",
    };
    let bytes = stored.bytes().map_or(Cell::Nothing, |bytes| Cell::Bytes(bytes.len() as u64));
    fields
        .with("completed_at", Cell::Time(stored.completed_at()))
        .with("expires_at", Cell::Time(stored.expires_at()))
        .with("kept", Cell::text(kept))
        .with("response_bytes", bytes)
        .with("attempt", Cell::Count(stored.attempt().into()))
        .with("token", Cell::text(stored.token()))
        .with("operation", Cell::text(stored.operation()))
        .with("fingerprint", Cell::text(stored.fingerprint()))
}

pub(crate) fn orphan_fields(fields: Fields, info: &OrphanInfo) -> Fields {
    let checkpoint = info.checkpoint().map(|checkpoint| checkpoint.len() as u64);
    fields
        .with("claimed_at", Cell::Time(info.claimed_at()))
        .with("cause", Cell::text(cause_word(info.cause())))
        .with("checkpoint_bytes", checkpoint.map_or(Cell::Nothing, Cell::Bytes))
        .with("attempt", Cell::Count(info.attempt().into()))
        .with("token", Cell::text(info.token()))
        .with("operation", Cell::text(info.operation()))
        .with("fingerprint", Cell::text(info.fingerprint()))
}

/// All that is known of a scope that is not free.
pub(crate) fn fields(scope: Scope<'_>, status: &Status) -> Fields {
    let fields = Fields::default()
        .with("state", Cell::text(state_word(status)))
        .with("organization", Cell::text(scope.organization))
        .with("method", Cell::text(scope.method))
        .with("path", Cell::text(scope.path))
        .with("key", Cell::text(scope.key));
    match status {
        Status::Completed(stored) => stored_fields(fields, stored),
        Status::Orphaned(info) => orphan_fields(fields, info),
        Status::InProgress(running) => fields
            .with("claimed_at", Cell::Time(running.claimed_at()))
            .with("attempt", Cell::Count(running.attempt().into()))
            .with("token", Cell::text(running.token()))
            .with("operation", Cell::text(running.operation())),
    }
}

/// What is printed of one scope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Fields,
    /// The response alone.
    Response,
}

pub(crate) fn get(dir: &Path, scope: &ScopeArgs, shown: Shown, printer: &mut Printer) -> Outcome {
    let scope = scope.scope();
    let options = Store::options().progress(progress::shown());
    let snapshot = options.open_read_only(dir).map_err(of(dir))?;
    let Some(status) = snapshot.lookup(scope).map_err(of(dir))? else {
        return Err(Failure::NotFound("the scope is free".into()));
    };
    if shown == Shown::Fields {
        let upto = upto(snapshot.totals().upto);
        return printer.fields(&fields(scope, &status).with("upto", upto));
    }
    match &status {
        Status::Completed(stored) if stored.bytes().is_some() => {
            printer.raw(stored.bytes().unwrap_or_default())
        }
        _ => Err(Failure::NotFound("there is no response of this scope".into())),
    }
}

impl Filter {
    fn lets(&self, entry: &Entry) -> bool {
        let (status, at) = (entry.status(), at(entry.status()));
        let state = match status {
            Status::Completed(_) => State::Completed,
            Status::InProgress(_) => State::InProgress,
            Status::Orphaned(_) => State::Orphaned,
        };
        self.organization.as_deref().is_none_or(|name| name == entry.scope().organization)
            && self.state.is_none_or(|wanted| wanted == state)
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
    }
}

pub(crate) fn list(dir: &Path, filter: &Filter, printer: &mut Printer) -> Outcome {
    let scan = scan(dir, None)?;
    let mut table = Table::new(printer, &["state", "at", "organization", "request", "key"]);
    let (mut shown, mut damaged) = (0, 0_u64);
    for entry in scan.entries() {
        if filter.limit.is_some_and(|limit| shown >= limit) {
            break;
        }
        let entry = match entry {
            Ok(entry) if filter.lets(&entry) => entry,
            Ok(_) => continue,
            Err(error @ Error::Corrupt { .. }) => {
                eprintln!("oncelog: {error}");
                damaged += 1;
                continue;
            }
            Err(error) => return Err(of(dir)(error)),
        };
        let (scope, status) = (entry.scope(), entry.status());
        let row = || {
            let request = format!("{} {}", scope.method, scope.path);
            let organization = scope.organization.to_owned();
            let state = state_word(status).replace('_', " ");
            vec![state, seconds(at(status)), organization, request, scope.key.to_owned()]
        };
        table.row(row, || fields(scope, status))?;
        shown += 1;
    }
    table.end()?;
    printer.finish()?;
    note(shown, scan.upto());
    if damaged > 0 {
        return Err(Failure::Damaged(format!("{damaged} records could not be read")));
    }
    Ok(())
}

/// Beside the list, so that whoever reads that by program is not disturbed.
fn note(shown: u64, upto: Option<Token>) {
    let upto = upto.map_or("an empty log".to_owned(), |token| format!("token {token}"));
    eprintln!("{shown} shown, as of {upto}");
}

pub(crate) fn unresolved(dir: &Path, printer: &mut Printer) -> Outcome {
    let scan = scan(dir, None)?;
    let orphans = scan.unresolved();
    // The rest is for programs, and in what get and the questions show.
    let heads = &["claimed", "cause", "organization", "request", "key"];
    let mut table = Table::new(printer, heads);
    for info in &orphans {
        let scope = info.scope();
        let row = || {
            vec![
                seconds(info.claimed_at()),
                cause_word(info.cause()).replace('_', " "),
                scope.organization.to_owned(),
                format!("{} {}", scope.method, scope.path),
                scope.key.to_owned(),
            ]
        };
        table.row(row, || fields(scope, &Status::Orphaned(info.clone())))?;
    }
    table.end()?;
    printer.finish()?;
    note(orphans.len() as u64, scan.upto());
    Ok(())
}

pub(crate) fn verify(dir: &Path, printer: &mut Printer) -> Outcome {
    let begun = time::monotonic();
    let scan = scan(dir, None)?;
    let found = scan.verify().map_err(of(dir))?;
    for damage in &found.damage {
        let fields = Fields::default()
            .with("segment", Cell::Count(damage.segment))
            .with("offset", Cell::Count(damage.offset))
            .with("what", Cell::text(damage.what));
        if printer.is_human() {
            let (at, what) = (damage.offset, printable(damage.what));
            let place = match damage.segment {
                0 => format!("byte {at}"),
                segment => format!("segment {segment}, byte {at}"),
            };
            printer.line(&format!("damaged  {place}: {what}"))?;
        } else {
            printer.fields(&fields)?;
        }
    }
    let damaged = found.damage.len() as u64;
    let fields = Fields::default()
        .with("segments", Cell::Count(found.segments))
        .with("records", Cell::Count(found.records))
        .with("read_bytes", Cell::Bytes(found.bytes))
        .with("took", Cell::Span(time::monotonic() - begun))
        .with("damaged_places", Cell::Count(damaged))
        .with("upto", upto(scan.upto()));
    printer.fields(&fields)?;
    if damaged > 0 {
        return Err(Failure::Damaged(format!("{}: {damaged} damaged places", dir.display())));
    }
    Ok(())
}

pub(crate) fn check_clock(dir: &Path, ttl: Duration, printer: &mut Printer) -> Outcome {
    let check = scan(dir, Some(ttl))?.clock();
    let Some(recorded) = check.recorded else {
        let fields = Fields::default().with("clock", Cell::Time(check.clock));
        return printer.fields(&fields.with("verdict", Cell::text("nothing on record yet")));
    };
    let ahead = check.clock.duration_since(recorded).unwrap_or_default();
    let behind = recorded.duration_since(check.clock).unwrap_or_default();
    let some = |span: Duration| if span.is_zero() { Cell::Nothing } else { Cell::Span(span) };
    let is_behind = behind >= Duration::from_secs(1);
    let (verdict, advice) = if check.held {
        (
            "too far ahead",
            "An open would not believe it, and nothing would expire by it for an hour. If the \
             clock is right, call Store::accept_clock() once the server has the store open; else \
             set the clock before the server starts.",
        )
    } else if is_behind {
        (
            "behind",
            "Store time would stand still until the clock has caught up, and keep responses \
             longer by that. If the clock is wrong, set it.",
        )
    } else {
        ("followed", "An open would go on with the time of the clock.")
    };
    let fields = Fields::default()
        .with("recorded_at", Cell::Time(recorded))
        .with("clock", Cell::Time(check.clock))
        .with("ahead", some(ahead))
        .with("behind", some(behind))
        .with("longest_stop", Cell::Span(check.stop_max))
        .with("store_time", Cell::Time(check.store))
        .with("verdict", Cell::text(verdict));
    printer.fields(&fields)?;
    if printer.is_human() {
        printer.line("")?;
        printer.line(advice)?;
    }
    if check.held || is_behind { Err(Failure::Clock) } else { Ok(()) }
}
