//! What an operator has to know now, in words: one code for each state that wants a person.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::Durability;
use crate::error::Error;
use crate::stats::{Recovery, Stats};

/// How soon somebody has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// Requests fail, or will for good.
    Critical,
    /// Something is wrong, and goes on being wrong.
    Warning,
    /// Nothing is wrong; it was chosen, or it is over.
    Notice,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        }
    }
}

/// One of them. Codes are stable.
struct Alarm {
    code: &'static str,
    severity: Severity,
    /// A sentence: what is the case.
    summary: String,
    /// A sentence: what to do.
    advice: &'static str,
}

/// Less head-room than the largest segment has is soon gone.
const HEADROOM_BYTES_LOW: u64 = 64 << 20;

/// Less than a new segment takes for its header, what it carries and the first claims in it is as
/// good as none: what refuses a claim leaves some bytes over, and never exactly 0.
const HEADROOM_BYTES_LEAST: u64 = 64 << 10;

/// What alarms are made of.
pub(crate) struct Subject<'a> {
    pub(crate) stats: &'a Stats,
    pub(crate) recovery: &'a Recovery,
    pub(crate) durability: Durability,
    /// Why the store takes no claims.
    pub(crate) trouble: Option<&'a Error>,
}

pub(crate) fn alarms(subject: &Subject<'_>) -> Vec<Value> {
    let mut alarms = Vec::new();
    alarms.extend(subject.trouble.map(trouble));
    alarms.extend(room(subject.stats));
    alarms.extend(data(subject.stats));
    alarms.extend(orphans(subject.stats.orphans));
    alarms.extend(circumstances(subject));
    let told = alarms.into_iter().map(|alarm| {
        json!({
            "code": alarm.code,
            "severity": alarm.severity.as_str(),
            "summary": alarm.summary,
            "advice": alarm.advice,
        })
    });
    told.collect()
}

fn trouble(error: &Error) -> Alarm {
    match error {
        Error::Closed => Alarm {
            code: "closed",
            severity: Severity::Critical,
            summary: "The store is closed: every claim is refused.".into(),
            advice: "The server is ending, or closed it by itself. Start it again.",
        },
        _ => Alarm {
            code: "poisoned",
            severity: Severity::Critical,
            summary: format!("A write or a sync failed: {error}."),
            advice: "Replays go on, new claims fail. Mend the disk, then restart the server.",
        },
    }
}

fn room(stats: &Stats) -> Option<Alarm> {
    let left = stats.headroom_bytes;
    let whole = stats.disk_bytes.saturating_add(left);
    if left < HEADROOM_BYTES_LEAST {
        return Some(Alarm {
            code: "full",
            severity: Severity::Critical,
            summary: "No room is left: new claims are refused. Replays and conflicts go on.".into(),
            advice: "Make room on the file system, or raise the disk budget.",
        });
    }
    (left < HEADROOM_BYTES_LOW || left < whole / 10).then(|| Alarm {
        code: "headroom_low",
        severity: Severity::Warning,
        summary: format!("Only {} MiB of room are left.", left.div_ceil(1 << 20)),
        advice: "Make room before it is used up: then new claims are refused.",
    })
}

fn data(stats: &Stats) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    if stats.damaged_records > 0 {
        alarms.push(Alarm {
            code: "damage",
            severity: Severity::Critical,
            summary: match stats.damaged_records {
                1 => "A damaged place was found.".into(),
                places => format!("{places} damaged places were found."),
            },
            advice: "Claims of those scopes fail, all others go on. Look at the disk; a backup may \
                     have what is lost.",
        });
    }
    if stats.quarantined_segments > 0 {
        alarms.push(Alarm {
            code: "quarantine",
            severity: Severity::Critical,
            summary: match stats.quarantined_segments {
                1 => "A segment is in quarantine.".into(),
                segments => format!("{segments} segments are in quarantine."),
            },
            advice: "A scope that may have been in them is refused until they expire, so that \
                     nothing runs twice. Restore a backup to end it sooner.",
        });
    }
    if stats.clock_held {
        alarms.push(Alarm {
            code: "clock_held",
            severity: Severity::Warning,
            summary: "The clock jumped forward, and nothing confirms it: nothing expires.".into(),
            advice: "Check the time of the machine. If it is right, accept it; if not, set it.",
        });
    }
    if stats.segments_without_expiry > 0 {
        alarms.push(Alarm {
            code: "no_expiry",
            severity: Severity::Warning,
            summary: format!("{} segments never expire.", stats.segments_without_expiry),
            advice: "Their responses tell no expiry, so they are kept. Report this.",
        });
    }
    alarms
}

fn orphans(count: u64) -> Option<Alarm> {
    let summary = match count {
        0 => return None,
        1 => "An attempt vanished, and nobody knows whether it had an effect.".into(),
        count => format!("{count} attempts vanished, and nobody knows whether they had effects."),
    };
    Some(Alarm {
        code: "orphans",
        severity: Severity::Warning,
        summary,
        advice: "Look where the effect would be, then resolve or release each of the orphans.",
    })
}

fn circumstances(subject: &Subject<'_>) -> Vec<Alarm> {
    let warnings = subject.recovery.warnings.iter().map(|warning| Alarm {
        code: "environment",
        severity: Severity::Warning,
        summary: format!("Where the store lives: {warning}."),
        advice: "The promises of the store need a local disk that only its owner may enter.",
    });
    let mut alarms: Vec<Alarm> = warnings.collect();
    if let Durability::Buffered { sync_every } = subject.durability {
        alarms.push(buffered(sync_every));
    }
    if subject.recovery.cut.is_some() {
        alarms.push(Alarm {
            code: "cut",
            severity: Severity::Notice,
            summary: format!(
                "The last start cut {} bytes of a torn end that nobody was promised.",
                subject.recovery.cut_bytes
            ),
            advice: "That is what a crash leaves. Nothing that was acknowledged is lost.",
        });
    }
    alarms
}

fn buffered(sync_every: Duration) -> Alarm {
    Alarm {
        code: "buffered",
        severity: Severity::Notice,
        summary: format!(
            "Writes are buffered: a power cut takes up to {} ms of acknowledged work.",
            sync_every.as_millis()
        ),
        advice: "A crash of the server takes nothing. Where that is too much, open it Synced.",
    }
}
