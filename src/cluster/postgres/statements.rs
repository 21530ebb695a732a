//! The statements of a store. Those of the hot path name one partition, so that they cost what they
//! would on a plain table; the others go through the table as a whole.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::cluster::postgres::schema::SchemaName;

/// What `held.rs` reads, in its order.
const COLUMNS: &str = "token, operation, attempt, generation, claimed_at, completed_at, \
    expires_at, lease_until, state, fingerprint, checkpoint, body, \"{schema}\".now()";

/// Whether the row is an orphan at the time of the statement.
const ORPHANED: &str = "(state = 2 OR (state = 0 AND lease_until <= \"{schema}\".now())) \
    AND expires_at > \"{schema}\".now()";

/// The row of an attempt that runs, so far as it was not superseded. A statement that waited for a
/// lock compares once more with what the row holds by then.
const CURRENT: &str = "digest = $1 AND token = $2 AND operation = $3 AND state = 0 \
    AND expires_at > \"{schema}\".now()";

/// The isolation at which every statement sees what was committed before it. An older snapshot
/// would not see a claim in an older generation that was committed since.
const READ_COMMITTED: &str =
    "pg_catalog.current_setting('transaction_isolation') = 'read committed'";

/// Those that go through the whole table.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) look: String,
    /// Whatever of the scope is past; whoever was late to end it is superseded by this.
    pub(crate) clear: String,
    pub(crate) take_over: String,
    pub(crate) resolve: String,
    pub(crate) release_orphan: String,
    pub(crate) unresolved: String,
    pub(crate) forget: String,
    pub(crate) forget_organization: String,
    /// The generations, the newest first.
    pub(crate) generations: String,
}

impl Statements {
    pub(crate) fn new(schema: &SchemaName) -> Statements {
        let sql = |text: &str| {
            schema.fill(&text.replace("{COLUMNS}", COLUMNS).replace("{ORPHANED}", ORPHANED))
        };
        Statements {
            look: sql("SELECT {COLUMNS} FROM \"{schema}\".claim \
                WHERE digest = $1 AND expires_at > \"{schema}\".now() \
                ORDER BY token DESC LIMIT 1"),
            clear: sql("DELETE FROM \"{schema}\".claim \
                WHERE digest = $1 AND expires_at <= \"{schema}\".now()"),
            take_over: sql("UPDATE \"{schema}\".claim SET \
                token = nextval('\"{schema}\".token'), attempt = attempt + 1, state = 0, \
                cause = state, lease_until = \"{schema}\".now() + $4, \
                expires_at = \"{schema}\".now() + $4 + $5 \
                WHERE digest = $1 AND token = $2 AND fingerprint = $3 AND {ORPHANED} \
                RETURNING {COLUMNS}, cause"),
            resolve: sql("UPDATE \"{schema}\".claim SET state = 3, checkpoint = NULL, \
                completed_at = \"{schema}\".now(), expires_at = \"{schema}\".now() + $3, body = $4 \
                WHERE digest = $1 AND token = $2 AND {ORPHANED} RETURNING {COLUMNS}"),
            release_orphan: sql("DELETE FROM \"{schema}\".claim \
                WHERE digest = $1 AND token = $2 AND {ORPHANED} RETURNING 1"),
            unresolved: sql("SELECT {COLUMNS}, scope FROM \"{schema}\".claim \
                WHERE {ORPHANED} AND token > $1 ORDER BY token LIMIT $2"),
            forget: sql("DELETE FROM \"{schema}\".claim WHERE digest = $1 AND state IN (1, 3) \
                RETURNING expires_at > \"{schema}\".now()"),
            // The encoded scope: the lengths of three fields, then the organization.
            forget_organization: sql("WITH gone AS (DELETE FROM \"{schema}\".claim \
                WHERE state IN (1, 3) AND substring(scope FROM 1 FOR 2) = $1 \
                AND substring(scope FROM 7 FOR $2) = $3 RETURNING expires_at) \
                SELECT count(*) FROM gone WHERE expires_at > \"{schema}\".now()"),
            generations: sql("SELECT generation, closed_at IS NULL \
                FROM \"{schema}\".generation ORDER BY generation DESC"),
        }
    }
}

/// Those that end or change an attempt: of the partition that its row lies in.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) generation: i32,
    pub(crate) complete: String,
    /// For a caller's transaction.
    pub(crate) complete_in: String,
    /// A completion of this attempt that was acknowledged, but not heard.
    pub(crate) completed: String,
    pub(crate) release: String,
    /// Ends a claim whose grant nobody got to see.
    pub(crate) abandon: String,
    pub(crate) give_up: String,
    pub(crate) renew: String,
    pub(crate) save_checkpoint: String,
}

impl Leaf {
    pub(crate) fn new(schema: &SchemaName, generation: i32) -> Leaf {
        let sql = |text: &str| {
            let text = text.replace("{CURRENT}", CURRENT).replace("{COLUMNS}", COLUMNS);
            schema.fill(&text.replace("{leaf}", &format!("\"{{schema}}\".claim_{generation}")))
        };
        let complete = "UPDATE {leaf} SET state = 1, checkpoint = NULL, \
            completed_at = \"{schema}\".now(), expires_at = \"{schema}\".now() + $4, body = $5 \
            WHERE {CURRENT}";
        let stamps = " RETURNING completed_at, expires_at, body IS NOT NULL";
        Leaf {
            generation,
            complete: sql(&format!("{complete}{stamps}")),
            complete_in: sql(&format!("{complete} AND {READ_COMMITTED}{stamps}")),
            completed: sql("SELECT completed_at, expires_at, body IS NOT NULL FROM {leaf} \
                WHERE digest = $1 AND token = $2 AND operation = $3 AND state = 1 \
                AND expires_at > \"{schema}\".now()"),
            release: sql("DELETE FROM {leaf} WHERE {CURRENT} RETURNING 1"),
            abandon: sql("DELETE FROM {leaf} WHERE digest = $1 AND operation = $2 AND state = 0"),
            give_up: sql("UPDATE {leaf} SET state = 2, expires_at = \"{schema}\".now() + $4 \
                WHERE {CURRENT} RETURNING 1"),
            renew: sql("UPDATE {leaf} SET lease_until = \"{schema}\".now() + $4, \
                expires_at = \"{schema}\".now() + $4 + $5 WHERE {CURRENT} RETURNING 1"),
            save_checkpoint: sql("UPDATE {leaf} SET checkpoint = $4 WHERE {CURRENT} RETURNING 1"),
        }
    }
}

/// Where claims go, as it was when it was read. One that is out of date is refused by the closed
/// generation, or misses a table that was dropped; it never lets two claims of a scope through.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) leaf: Arc<Leaf>,
    pub(crate) claim: String,
    /// For a caller's transaction.
    pub(crate) claim_in: String,
}

impl View {
    /// `older` are the closed generations, each of which is asked for the scope.
    pub(crate) fn new(schema: &SchemaName, open: i32, older: &[i32]) -> View {
        // A row counts here whether it is past or not: `clear` settles that under its lock.
        let mut guards = String::new();
        for generation in older {
            write!(
                guards,
                " AND NOT EXISTS \
                (SELECT FROM \"{{schema}}\".claim_{generation} WHERE digest = $1)"
            )
            .expect("a string takes all that is written");
        }
        let claim = |guard: &str| {
            schema.fill(&format!(
                "INSERT INTO \"{{schema}}\".claim_{open} (token, claimed_at, lease_until, \
                expires_at, generation, attempt, state, operation, fingerprint, digest, scope) \
                SELECT nextval('\"{{schema}}\".token'), \"{{schema}}\".now(), \
                \"{{schema}}\".now() + $5, \"{{schema}}\".now() + $5 + $6, {open}, 1, 0, \
                $3, $4, $1, $2 WHERE {guard}{guards} \
                ON CONFLICT DO NOTHING RETURNING token, claimed_at"
            ))
        };
        View {
            leaf: Arc::new(Leaf::new(schema, open)),
            claim: claim("true"),
            claim_in: claim(READ_COMMITTED),
        }
    }
}
