//! The commands that change a store, which they open for themselves.

use std::io::{IsTerminal, Read, Write, stderr, stdin};
use std::path::Path;
use std::time::Duration;

use oncelog::storage::Owner;
use oncelog::{Background, Create, Orphan, OrphanInfo, Scope, Status, Store};

use crate::args::{Consent, OrphanArgs, Response};
use crate::failure::{Failure, Outcome, of};
use crate::look::{cause_word, scan};
use crate::output::{Cell, Fields, Printer, printable, seconds};
use crate::progress;
use crate::time;

/// What is to be changed, as a person reads it.
fn named(scope: Scope<'_>) -> String {
    let Scope { organization, method, path, key } = scope;
    printable(&format!("{organization} {method} {path} {key}"))
}

/// Looks before anything is asked or opened: whether the store is there and free, and whether an
/// open with this ttl would throw something away. Returns the orphans.
fn look_first(dir: &Path, consent: &Consent) -> Outcome<Vec<OrphanInfo>> {
    let scan = scan(dir, Some(consent.ttl))?;
    if scan.owner() == Owner::Alive {
        return Err(Failure::Owned(dir.to_owned()));
    }
    let orphans = scan.unresolved();
    let age = |info: &OrphanInfo| time::now().duration_since(info.claimed_at()).unwrap_or_default();
    if let Some(oldest) = orphans.first().filter(|oldest| age(oldest) >= consent.ttl) {
        return Err(Failure::Usage(format!(
            "the claim of {} is {} old and would expire with a ttl of {}: name the ttl of the \
             server with --ttl",
            named(oldest.scope()),
            time::span(age(oldest)),
            time::span(consent.ttl)
        )));
    }
    Ok(orphans)
}

fn open(dir: &Path, ttl: Duration) -> Outcome<Store> {
    let options = Store::options().create(Create::Never).ttl(ttl).background(Background::Inline);
    options.progress(progress::shown()).open(dir).map_err(of(dir))
}

fn confirm(consent: &Consent, question: &str) -> Outcome {
    if consent.yes {
        return Ok(());
    }
    let refused = |why: &str| Err(Failure::NotConfirmed(why.to_owned()));
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return refused("nobody to ask: give --yes where this is meant");
    }
    eprint!("{question}\nType yes to go on: ");
    stderr().flush().map_err(Failure::Output)?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(Failure::Output)?;
    if answer.trim() == "yes" { Ok(()) } else { refused("nothing was changed") }
}

/// Finds the orphan, asks, and opens the store to end it.
fn orphan(args: &OrphanArgs, question: &str) -> Outcome<(Store, Orphan)> {
    let (dir, scope) = (&args.dir, args.scope.scope());
    let none = || Failure::NotFound(format!("{} is no orphan", named(scope)));
    let is_meant = |info: &OrphanInfo| match args.token {
        Some(token) if token != info.token() => Err(Failure::NotFound(format!(
            "its last attempt is {}, not {token}: somebody took it over",
            info.token()
        ))),
        _ => Ok(()),
    };
    let orphans = look_first(dir, &args.consent)?;
    let info = orphans.iter().find(|info| info.scope() == scope).ok_or_else(none)?;
    is_meant(info)?;
    let question = format!(
        "{}: claimed {}, attempt {}, {}, token {}, operation {}\n{question}",
        named(scope),
        seconds(info.claimed_at()),
        info.attempt(),
        cause_word(info.cause()).replace('_', " "),
        info.token(),
        info.operation()
    );
    confirm(&args.consent, &question)?;
    let store = open(dir, args.consent.ttl)?;
    let orphan = store.orphan(scope).map_err(of(dir))?.ok_or_else(none)?;
    is_meant(orphan.info())?;
    Ok((store, orphan))
}

pub(crate) fn resolve(args: &OrphanArgs, response: &Response, printer: &mut Printer) -> Outcome {
    let mut bytes = response.response.clone().unwrap_or_default().into_bytes();
    if response.response_stdin {
        stdin().read_to_end(&mut bytes).map_err(Failure::Output)?;
    }
    let question = format!(
        "It did happen, and every retry gets these {} bytes for {}.",
        bytes.len(),
        time::span(args.consent.ttl)
    );
    let (store, orphan) = orphan(args, &question)?;
    let dir = &args.dir;
    let stored = orphan.resolve(&bytes).map_err(of(dir))?;
    store.close().map_err(of(dir))?;
    printer.fields(&crate::look::fields(args.scope.scope(), &Status::Completed(stored)))
}

pub(crate) fn release(args: &OrphanArgs, printer: &mut Printer) -> Outcome {
    let question = "It did not happen and cannot happen any more: the scope is free, and a retry \
                    runs the operation again.";
    let (store, orphan) = orphan(args, question)?;
    let (dir, operation) = (&args.dir, orphan.info().operation());
    orphan.release().map_err(of(dir))?;
    store.close().map_err(of(dir))?;
    let scope = args.scope.scope();
    let fields = Fields::default()
        .with("released", Cell::text(operation))
        .with("organization", Cell::text(scope.organization))
        .with("method", Cell::text(scope.method))
        .with("path", Cell::text(scope.path))
        .with("key", Cell::text(scope.key));
    printer.fields(&fields)
}

pub(crate) fn forget(
    dir: &Path,
    scope: &crate::args::ScopeArgs,
    consent: &Consent,
    printer: &mut Printer,
) -> Outcome {
    let scope = scope.scope();
    look_first(dir, consent)?;
    let question = "What is stored of it is erased, and a retry runs the operation again.";
    confirm(consent, &format!("{}\n{question}", named(scope)))?;
    let store = open(dir, consent.ttl)?;
    let forgotten = store.forget(scope).map_err(of(dir))?;
    let found = store.lookup(scope).map_err(of(dir))?;
    store.close().map_err(of(dir))?;
    if !forgotten {
        let why = match found {
            Some(_) => "its claim is open: resolve or release it first",
            None => "the scope is free",
        };
        return Err(Failure::NotFound(why.to_owned()));
    }
    printer.fields(&Fields::default().with("forgotten", Cell::Count(1)))
}

pub(crate) fn forget_organization(
    dir: &Path,
    organization: &str,
    consent: &Consent,
    printer: &mut Printer,
) -> Outcome {
    let orphans = look_first(dir, consent)?;
    let open_claims = orphans.iter().filter(|info| info.organization() == organization).count();
    let question = format!(
        "Everything of {} that has ended is erased, and its retries run again. {open_claims} \
         claims of unknown outcome are kept.",
        printable(organization)
    );
    confirm(consent, &question)?;
    let store = open(dir, consent.ttl)?;
    let forgotten = store.forget_organization(organization).map_err(of(dir))?;
    store.close().map_err(of(dir))?;
    let fields = Fields::default()
        .with("forgotten", Cell::Count(forgotten))
        .with("open_claims_kept", Cell::Count(open_claims as u64));
    printer.fields(&fields)
}
