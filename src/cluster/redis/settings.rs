//! What the settings of the servers promise, read once.

use redis::Value;

use crate::cluster::redis::error::RedisError;
use crate::cluster::redis::link::{Link, UNEXPECTED, text};
use crate::http::backend::{Evicts, OrphansShow, Promises, Survives, TokensOrder};

/// What the options state, where they do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stated {
    pub(crate) survives: Option<Survives>,
    pub(crate) evicts: Option<Evicts>,
}

const NAMES: [&str; 4] = ["appendonly", "appendfsync", "maxmemory", "maxmemory-policy"];

/// What the store keeps: of several primaries, what the weakest does.
pub(crate) async fn promises(
    link: &Link,
    stated: Stated,
    response_bytes_max: u64,
) -> Result<Promises, RedisError> {
    for (_, info) in link.ask_primaries(info("server")).await? {
        supported(&text(info)?)?;
    }
    let mut survives = Survives::MachineLoss;
    let mut evicts = Evicts::Never;
    let mut config = redis::cmd("CONFIG");
    config.arg("GET").arg(&NAMES[..]);
    match link.ask_primaries(config).await {
        Ok(told) => {
            for (_, settings) in told {
                let [appendonly, appendfsync, maxmemory, policy] = values(settings)?;
                survives = survives.min(survives_of(&appendonly, &appendfsync));
                if maxmemory != "0" && policy != "noeviction" {
                    evicts = Evicts::UnderPressure;
                }
            }
        }
        // Not every user may read the settings; who may not is promised the least.
        Err(RedisError::Unavailable { source }) if is_forbidden(&*source) => {
            (survives, evicts) = (Survives::Nothing, Evicts::UnderPressure);
        }
        Err(error) => return Err(error),
    }
    if survives == Survives::MachineLoss && !every_replica_is_waited_for(link).await? {
        survives = Survives::PowerLoss;
    }
    Ok(Promises {
        orphans: OrphansShow::ByLease,
        tokens: TokensOrder::OneScope,
        survives: stated.survives.unwrap_or(survives),
        evicts: stated.evicts.unwrap_or(evicts),
        response_bytes_max,
    })
}

/// What a primary's own log survives. `MachineLoss` stands for a log that is no limit: where the
/// replicas are waited for, it is what they give.
fn survives_of(appendonly: &str, appendfsync: &str) -> Survives {
    match (appendonly, appendfsync) {
        ("yes", "always") => Survives::MachineLoss,
        ("yes", _) => Survives::ProcessDeath,
        _ => Survives::Nothing,
    }
}

/// Whether no replica can be promoted that lacks what was acknowledged.
async fn every_replica_is_waited_for(link: &Link) -> Result<bool, RedisError> {
    let Some(replicas) = link.replicas() else { return Ok(false) };
    for (_, told) in link.ask_primaries(info("replication")).await? {
        let told = text(told)?;
        let connected = line(&told, "connected_slaves").and_then(|number| number.parse().ok());
        if connected.is_none_or(|connected: u32| connected > replicas.wanted) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn info(section: &str) -> redis::Cmd {
    let mut info = redis::cmd("INFO");
    info.arg(section);
    info
}

/// `SET` with both `NX` and `GET`, and scripts that say what they do, came with Redis 7.0, from
/// which Valkey descends.
fn supported(server: &str) -> Result<(), RedisError> {
    let version = line(server, "redis_version").ok_or(UNEXPECTED)?;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= 7) {
        return Ok(());
    }
    Err(RedisError::Version { version: version.to_owned() })
}

/// The value of a `name:value` line.
fn line<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
}

/// The settings of [`NAMES`], in their order.
fn values(settings: Value) -> Result<[String; 4], RedisError> {
    let pairs: Vec<(Value, Value)> = match settings {
        Value::Map(pairs) => pairs,
        Value::Array(flat) => {
            let mut flat = flat.into_iter();
            std::iter::from_fn(|| flat.next().zip(flat.next())).collect()
        }
        _ => return Err(UNEXPECTED),
    };
    let mut found = [const { String::new() }; 4];
    for (name, value) in pairs {
        let name = text(name)?;
        if let Some(at) = NAMES.iter().position(|known| *known == name) {
            found[at] = text(value)?;
        }
    }
    Ok(found)
}

fn is_forbidden(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref::<redis::RedisError>();
    let code = error.and_then(redis::RedisError::code);
    // A renamed or disabled command is an unknown one.
    matches!(code, Some("NOPERM" | "ERR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_not_synced_at_every_write_survives_no_power_cut() {
        assert!(survives_of("yes", "everysec") < Survives::PowerLoss);
        assert!(survives_of("yes", "no") < Survives::PowerLoss);
        assert_eq!(survives_of("no", "always"), Survives::Nothing);
    }

    #[test]
    fn servers_before_7_0_are_refused() {
        assert!(supported("redis_version:7.0.15\r\n").is_ok());
        assert!(supported("server_name:valkey\r\nredis_version:7.2.4\r\n").is_ok());
        assert!(matches!(supported("redis_version:6.2.1\r\n"), Err(RedisError::Version { .. })));
        assert!(supported("").is_err());
    }
}
