//! The way to the servers: connections that many calls share, the node that has a key, the time
//! limit of a round trip, and the wait for replicas in it.
//!
//! All calls about one scope go over one connection, in order. A call can be made twice by the
//! client library, when a connection breaks or a slot moves, so each must be repeatable.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{
    MultipleNodeRoutingInfo, Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr,
};
use redis::{Cmd, Pipeline, ServerErrorKind, Value};

use crate::clock::duration_ms;
use crate::cluster::redis::error::RedisError;
use crate::cluster::redis::script::Script;

/// The key of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) bytes: Vec<u8>,
}

/// How many replicas must have a write before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replicas {
    pub(crate) wanted: u32,
    pub(crate) within: Duration,
}

/// Whether a call waits for replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    ForReplicas,
    No,
}

/// What commands were answered.
pub(crate) struct Told {
    pub(crate) answers: Vec<Value>,
    /// Whether the replicas that were waited for have what was written.
    pub(crate) replicas: Result<(), RedisError>,
}

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    host: String,
    port: u16,
}

#[derive(Clone)]
enum Wire {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

pub(crate) struct Link {
    wires: Vec<Wire>,
    limit: Duration,
    replicas: Option<Replicas>,
}

/// Where the servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// What the client library takes.
    Single(String),
    /// The same of some nodes.
    Cluster(Vec<String>),
}

impl Address {
    /// Reads `redis://[user:password@]host:port[/db]` or
    /// `redis+cluster://[user:password@]host:port,host:port,...`.
    pub(crate) fn parse(url: &str) -> Result<Address, RedisError> {
        const INVALID: RedisError =
            RedisError::Invalid { what: "the address is no redis:// or redis+cluster:// URL" };
        if let Some(rest) = url.strip_prefix("redis+cluster://") {
            let (secret, hosts) = rest
                .rsplit_once('@')
                .map_or(("", rest), |(secret, hosts)| (&rest[..=secret.len()], hosts));
            let hosts = hosts.trim_end_matches('/');
            if hosts.is_empty() || hosts.contains('/') || hosts.split(',').any(str::is_empty) {
                return Err(INVALID);
            }
            let node = |host: &str| format!("redis://{secret}{host}");
            return Ok(Address::Cluster(hosts.split(',').map(node).collect()));
        }
        let rest = url.strip_prefix("redis://").filter(|rest| !rest.is_empty()).ok_or(INVALID)?;
        // The newer protocol tells at once when a connection is gone.
        let protocol = if rest.contains('?') { "" } else { "?protocol=resp3" };
        Ok(Address::Single(format!("redis://{rest}{protocol}")))
    }
}

impl Link {
    pub(crate) async fn open(
        address: &Address,
        connections: usize,
        limit: Duration,
        replicas: Option<Replicas>,
    ) -> Result<Link, RedisError> {
        let mut wires = Vec::with_capacity(connections);
        for _ in 0..connections {
            let wire = tokio::time::timeout(limit, Wire::open(address, limit)).await;
            wires.push(wire.map_err(|_| RedisError::TimedOut { limit })??);
        }
        Ok(Link { wires, limit, replicas })
    }

    pub(crate) fn replicas(&self) -> Option<Replicas> {
        self.replicas
    }

    /// Sends commands about one key, in order and in one round trip, and a wait for replicas where
    /// one is wanted.
    pub(crate) async fn pipeline(
        &self,
        key: &Key,
        mut commands: Pipeline,
        waits: Waits,
    ) -> Result<Told, RedisError> {
        let count = commands.len();
        let replicas = self.replicas.filter(|_| waits == Waits::ForReplicas);
        if let Some(replicas) = replicas {
            let within = duration_ms(replicas.within);
            commands.cmd("WAIT").arg(replicas.wanted).arg(within);
        }
        let mut wire = self.wire(key);
        let mut answers = self.timed(wire.pipeline(key, commands)).await?.into_iter();
        let told: Vec<Value> =
            answers.by_ref().take(count).map(succeeded).collect::<Result<_, RedisError>>()?;
        let replicas = match (replicas, answers.next()) {
            (None, _) => Ok(()),
            (Some(_), None) => return Err(UNEXPECTED),
            (Some(Replicas { wanted, .. }), Some(told)) => {
                let (acknowledged, wanted) = (integer(&succeeded(told)?)?, u64::from(wanted));
                let enough = acknowledged >= wanted;
                if enough { Ok(()) } else { Err(RedisError::Replicas { acknowledged, wanted }) }
            }
        };
        Ok(Told { answers: told, replicas })
    }

    /// Runs a script on one key.
    pub(crate) async fn script(
        &self,
        key: &Key,
        script: &Script,
        arguments: &[&[u8]],
        waits: Waits,
    ) -> Result<Value, RedisError> {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(1).arg(&key.bytes[..]);
            for argument in arguments {
                command.arg(*argument);
            }
            command
        };
        let told = self.run(key, command("EVALSHA", &script.digest), waits).await;
        match told {
            Err(error) if is_unknown_script(&error) => {
                self.run(key, command("EVAL", script.code), waits).await
            }
            told => told,
        }
    }

    async fn run(&self, key: &Key, command: Cmd, waits: Waits) -> Result<Value, RedisError> {
        if waits == Waits::ForReplicas && self.replicas.is_some() {
            let mut commands = Pipeline::with_capacity(2);
            commands.add_command(command);
            let mut told = self.pipeline(key, commands, waits).await?;
            told.replicas?;
            return told.answers.pop().ok_or(UNEXPECTED);
        }
        let mut wire = self.wire(key);
        self.timed(wire.command(key, command)).await.and_then(succeeded)
    }

    /// Asks every primary the same; `None` where there is one server alone.
    pub(crate) async fn ask_primaries(
        &self,
        command: Cmd,
    ) -> Result<Vec<(Option<Node>, Value)>, RedisError> {
        match &mut self.wires[0].clone() {
            Wire::Single(server) => {
                let answer = self.timed(server.send_packed_command(&command)).await?;
                Ok(vec![(None, succeeded(answer)?)])
            }
            Wire::Cluster(cluster) => {
                let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                let answers = self.timed(cluster.route_command(command, all)).await?;
                let Value::Map(answers) = succeeded(answers)? else { return Err(UNEXPECTED) };
                let answers = answers
                    .into_iter()
                    .map(|(node, answer)| Ok((Some(Node::of(node)?), succeeded(answer)?)));
                answers.collect()
            }
        }
    }

    /// Asks one of them.
    pub(crate) async fn ask(&self, node: Option<&Node>, command: Cmd) -> Result<Value, RedisError> {
        let answer = match (&mut self.wires[0].clone(), node) {
            (Wire::Single(server), _) => self.timed(server.send_packed_command(&command)).await?,
            (Wire::Cluster(cluster), None) => {
                let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::RandomPrimary);
                self.timed(cluster.route_command(command, any)).await?
            }
            (Wire::Cluster(cluster), Some(Node { host, port })) => {
                let node = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                let node = RoutingInfo::SingleNode(node);
                self.timed(cluster.route_command(command, node)).await?
            }
        };
        succeeded(answer)
    }

    fn wire(&self, key: &Key) -> Wire {
        let last = key.bytes.last().copied().unwrap_or_default();
        self.wires[usize::from(last) % self.wires.len()].clone()
    }

    async fn timed<T>(
        &self,
        asked: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, RedisError> {
        match tokio::time::timeout(self.limit, asked).await {
            Ok(told) => told.map_err(RedisError::of),
            Err(_) => Err(RedisError::TimedOut { limit: self.limit }),
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Link { wires, limit, replicas } = self;
        f.debug_struct("Link")
            .field("connections", &wires.len())
            .field("limit", limit)
            .field("replicas", replicas)
            .finish()
    }
}

impl Wire {
    async fn open(address: &Address, limit: Duration) -> Result<Wire, RedisError> {
        match address {
            Address::Single(url) => {
                // The limit of a round trip is kept around the whole of it.
                let config = ConnectionManagerConfig::new()
                    .set_response_timeout(None)
                    .set_connection_timeout(Some(limit))
                    .set_min_delay(Duration::from_millis(10))
                    .set_max_delay(Duration::from_millis(500));
                let client = redis::Client::open(&url[..]).map_err(RedisError::of)?;
                let server = ConnectionManager::new_with_config(client, config).await;
                server.map(Wire::Single).map_err(RedisError::of)
            }
            Address::Cluster(nodes) => {
                let nodes = nodes.iter().map(|node| &node[..]);
                let client = ClusterClientBuilder::new(nodes)
                    .use_protocol(redis::ProtocolVersion::RESP3)
                    .connection_timeout(limit)
                    .response_timeout(limit)
                    .overall_response_timeout(None)
                    .retries(12)
                    .min_retry_wait(10)
                    .max_retry_wait(200)
                    .build()
                    .map_err(RedisError::of)?;
                let cluster = client.get_async_connection().await;
                cluster.map(Wire::Cluster).map_err(RedisError::of)
            }
        }
    }

    async fn pipeline(&mut self, key: &Key, commands: Pipeline) -> redis::RedisResult<Vec<Value>> {
        let count = commands.len();
        match self {
            Wire::Single(server) => server.send_packed_commands(&commands, 0, count).await,
            Wire::Cluster(cluster) => cluster.route_pipeline(commands, 0, count, has(key)).await,
        }
    }

    async fn command(&mut self, key: &Key, command: Cmd) -> redis::RedisResult<Value> {
        match self {
            Wire::Single(server) => server.send_packed_command(&command).await,
            Wire::Cluster(cluster) => {
                cluster.route_command(command, RoutingInfo::SingleNode(has(key))).await
            }
        }
    }
}

/// The primary that has a key.
fn has(key: &Key) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::SpecificNode(Route::with_key(&key.bytes, SlotAddr::Master))
}

impl Node {
    fn of(name: Value) -> Result<Node, RedisError> {
        let name = text(name)?;
        let (host, port) = name.rsplit_once(':').ok_or(UNEXPECTED)?;
        let port = port.parse().map_err(|_| UNEXPECTED)?;
        Ok(Node { host: host.to_owned(), port })
    }
}

/// An answer that has another shape than the command's.
pub(crate) const UNEXPECTED: RedisError =
    RedisError::Corrupt { what: "the server's answer has another shape than the command's" };

fn is_unknown_script(error: &RedisError) -> bool {
    let RedisError::Unavailable { source } = error else { return false };
    let error = source.downcast_ref::<redis::RedisError>();
    error.is_some_and(|error| error.kind() == ServerErrorKind::NoScript.into())
}

fn succeeded(answer: Value) -> Result<Value, RedisError> {
    match answer {
        Value::ServerError(error) => Err(RedisError::of(error.into())),
        answer => Ok(answer),
    }
}

pub(crate) fn integer(answer: &Value) -> Result<u64, RedisError> {
    match answer {
        Value::Int(number) => u64::try_from(*number).map_err(|_| UNEXPECTED),
        _ => Err(UNEXPECTED),
    }
}

pub(crate) fn text(answer: Value) -> Result<String, RedisError> {
    match answer {
        Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|_| UNEXPECTED),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(text),
        _ => Err(UNEXPECTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_one_server_or_some_nodes() {
        let single = |url: &str| Ok(Address::Single(url.to_owned()));
        let told = |url| Address::parse(url).map_err(|error| error.to_string());
        assert_eq!(told("redis://h:1/2"), single("redis://h:1/2?protocol=resp3"));
        assert_eq!(told("redis://h:1?protocol=resp2"), single("redis://h:1?protocol=resp2"));
        let nodes = Address::Cluster(vec!["redis://u:p@a:1".into(), "redis://u:p@b:2".into()]);
        assert_eq!(told("redis+cluster://u:p@a:1,b:2"), Ok(nodes));
        for bad in ["", "http://h", "redis://", "redis+cluster://", "redis+cluster://a:1,,b:2"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
