//! What runs inside of the server, each in one step: the scripts, as values.
//!
//! A script finds an attempt by its *name*, the first 32 bytes of the record, and reads no more of
//! a value than it needs. All but `reclaim` and `complete` run also where memory is short, since
//! they add nothing that grows with a response.

use std::sync::LazyLock;

/// One script. It is called by its digest, and sent whole where the server does not know it.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) code: &'static str,
    pub(crate) digest: String,
}

impl Script {
    fn new(code: &'static str) -> Script {
        Script { code, digest: redis::Script::new(code).get_hash().to_owned() }
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) complete: Script,
    /// The same for a server without memory, of a completion without its response.
    pub(crate) complete_lean: Script,
    pub(crate) replace: Script,
    pub(crate) renew: Script,
    pub(crate) give_up: Script,
    pub(crate) abandon: Script,
    pub(crate) reclaim: Script,
    pub(crate) take_over: Script,
    pub(crate) resolve: Script,
    pub(crate) release_orphan: Script,
    pub(crate) forget: Script,
    pub(crate) read: Script,
    pub(crate) read_open: Script,
}

macro_rules! script {
    ($flags:literal, $($file:literal),+) => {
        Script::new(concat!(
            "#!lua", $flags, "\n", $(include_str!(concat!("scripts/", $file, ".lua"))),+
        ))
    };
}

pub(crate) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    complete: script!("", "complete"),
    complete_lean: script!(" flags=allow-oom", "complete"),
    replace: script!(" flags=allow-oom", "replace"),
    renew: script!(" flags=allow-oom", "renew"),
    give_up: script!(" flags=allow-oom", "give_up"),
    abandon: script!(" flags=allow-oom", "abandon"),
    reclaim: script!("", "told", "reclaim"),
    take_over: script!(" flags=allow-oom", "orphan", "told", "take_over"),
    resolve: script!(" flags=allow-oom", "orphan", "told", "resolve"),
    release_orphan: script!(" flags=allow-oom", "orphan", "release_orphan"),
    forget: script!(" flags=allow-oom", "forget"),
    read: script!(" flags=no-writes", "told", "read"),
    read_open: script!(" flags=no-writes", "told", "read_open"),
});
