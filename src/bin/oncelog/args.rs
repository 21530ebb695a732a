//! The arguments of the tool, and all that it says about itself.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args as Arguments, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use oncelog::{Scope, Token};

use crate::time;

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done; nothing wrong
  1  the system refused something: I/O, no room
  2  the arguments are wrong
  3  not found: the scope is free, or is no orphan
  4  damage found
  5  another process has the store open, and the command would change it
  6  no store there, or one of a newer format
  7  not confirmed
  8  check-clock: an open would not follow the clock

A reader that goes away (list | head) is no error.

What only reads works beside a running server and never waits for it: stat,
get, list, unresolved, verify, backup, check-clock. Each shows the store up to
one point of its log, which it names. A claim whose permit was dropped or whose
lease lapsed in that server is shown as in progress: the files do not say it.
What changes a store opens it: resolve, release, forget, forget-organization.";

/// Looks at an idempotency store, ends what is stuck in it, checks it and copies it.
#[derive(Parser)]
#[command(name = "oncelog", version, after_help = EXIT_CODES, max_term_width = 80)]
pub(crate) struct Args {
    /// Print for programs: one JSON object, or one a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// What a store holds and takes
    Stat {
        /// The directory of the store
        dir: PathBuf,
    },
    /// What one scope holds
    Get {
        /// The directory of the store
        dir: PathBuf,
        #[command(flatten)]
        scope: ScopeArgs,
        /// Write the stored response, byte for byte, and nothing else
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Every scope that is not free, in the order of the log
    ///
    /// First claims without an outcome, then completed operations. It takes the same memory
    /// however many there are.
    List {
        /// The directory of the store
        dir: PathBuf,
        #[command(flatten)]
        filter: Filter,
    },
    /// The claims whose outcome is unknown, oldest first
    Unresolved {
        /// The directory of the store
        dir: PathBuf,
    },
    /// End an orphan that did happen, with its response
    ///
    /// Every retry gets that response from then on. The bytes are stored as they are. A store of
    /// the HTTP layer keeps responses in the layer's encoding: let the server resolve its orphans,
    /// by its witness or its admin router.
    Resolve {
        #[command(flatten)]
        orphan: OrphanArgs,
        #[command(flatten)]
        response: Response,
    },
    /// End an orphan that did not happen: the scope is free
    ///
    /// Safe only where nothing can commit that attempt any more: a retry runs the operation again.
    Release {
        #[command(flatten)]
        orphan: OrphanArgs,
    },
    /// Erase what is stored of a scope, from the disk too
    Forget {
        /// The directory of the store
        dir: PathBuf,
        #[command(flatten)]
        scope: ScopeArgs,
        #[command(flatten)]
        consent: Consent,
    },
    /// Erase all of an organization that has ended
    ///
    /// It is overwritten on the disk. Claims without an outcome are kept.
    ForgetOrganization {
        /// The directory of the store
        dir: PathBuf,
        /// The organization, exact bytes
        organization: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Read and check every live byte of a store
    Verify {
        /// The directory of the store
        dir: PathBuf,
    },
    /// Copy a store to a new or empty directory
    ///
    /// The copy is verified, and gets its name when all is durable in it. Sealed segments are
    /// hard-linked where the file system allows that: to keep the backup safe from a broken disk,
    /// copy it to another machine.
    Backup {
        /// The directory of the store
        dir: PathBuf,
        /// The directory of the backup
        to: PathBuf,
    },
    /// Make a store of a backup in a new or empty directory
    ///
    /// The backup is verified first, and so is what was copied. The directory gets its name when
    /// all is durable in it; a restore that was interrupted leaves one with .tmp behind its name,
    /// to be removed.
    Restore {
        /// The directory of the backup
        backup: PathBuf,
        /// The directory of the store to be
        dir: PathBuf,
        /// Hard-link sealed segments: quicker, but what is erased in the store is then erased in
        /// the backup too
        #[arg(long)]
        link: bool,
    },
    /// What an open would make of this machine's clock
    CheckClock {
        /// The directory of the store
        dir: PathBuf,
        /// How long the server keeps responses
        #[arg(long, default_value = "30d", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// How fast claims and completions are on this disk
    ///
    /// In a scratch directory, which is removed.
    Bench(Work),
    /// Completions for a shell
    ///
    /// oncelog completions bash > /etc/bash_completion.d/oncelog
    Completions {
        /// The shell
        shell: Shell,
    },
    /// The manual page: oncelog man | man -l -
    Man {
        /// The page of this command
        command: Option<String>,
    },
}

/// The identity of one logical write: four fields, exact bytes.
#[derive(Arguments)]
pub(crate) struct ScopeArgs {
    /// The organization; '' where there is but one tenant
    organization: String,
    /// The method, such as POST
    method: String,
    /// The path of the request
    path: String,
    /// The idempotency key
    key: String,
}

impl ScopeArgs {
    pub(crate) fn scope(&self) -> Scope<'_> {
        let ScopeArgs { organization, method, path, key } = self;
        Scope { organization, method, path, key }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Completed,
    InProgress,
    Orphaned,
}

#[derive(Arguments)]
pub(crate) struct Filter {
    /// Only this organization
    #[arg(long, short)]
    pub(crate) organization: Option<String>,
    /// Only this state
    #[arg(long, short, value_enum)]
    pub(crate) state: Option<State>,
    /// Only what completed, or was claimed if it has not, at this time or later: RFC 3339, or a
    /// duration ago such as 2h
    #[arg(long, value_parser = time::parse)]
    pub(crate) since: Option<SystemTime>,
    /// The same, before this time
    #[arg(long, value_parser = time::parse)]
    pub(crate) until: Option<SystemTime>,
    /// So many at most
    #[arg(long, short)]
    pub(crate) limit: Option<u64>,
}

/// Whether, and how, a store may be changed.
#[derive(Arguments)]
pub(crate) struct Consent {
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// How long the server keeps responses: what an open of the store goes by
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Duration,
}

#[derive(Arguments)]
pub(crate) struct OrphanArgs {
    /// The directory of the store
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
    /// Only if this is still the token of its last attempt, as unresolved shows it
    #[arg(long)]
    pub(crate) token: Option<Token>,
    #[command(flatten)]
    pub(crate) consent: Consent,
}

#[derive(Arguments)]
#[command(group = ArgGroup::new("source").required(true))]
pub(crate) struct Response {
    /// The response
    #[arg(long, group = "source", value_name = "TEXT")]
    pub(crate) response: Option<String>,
    /// Read the response from standard input
    #[arg(long, group = "source", requires = "yes")]
    pub(crate) response_stdin: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Synced,
    Buffered,
}

#[derive(Arguments)]
pub(crate) struct Work {
    /// The scratch directory is made in this one, and removed
    #[arg(long = "in", value_name = "DIR", default_value = ".")]
    pub(crate) parent: PathBuf,
    /// Stop after so many seconds
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Stop after so many keys, if that is sooner
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: Option<u64>,
    /// So many callers at once
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) threads: u64,
    /// When a claim and a completion are acknowledged
    #[arg(long, value_enum, default_value = "synced")]
    pub(crate) durability: Mode,
    /// The size of each response
    #[arg(long, default_value = "512", value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub(crate) response_bytes: u32,
}
