//! A cluster of three primaries and three replicas.

use std::collections::HashSet;

use crate::server::{Server, free_port, wait_for};

pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

const PRIMARIES: usize = 3;
const SLOTS: usize = 16384;

impl Cluster {
    pub(crate) fn start(settings: &[&str]) -> Cluster {
        let servers = (0..2 * PRIMARIES).map(|_| {
            let bus = free_port().to_string();
            let settings = [&SETTINGS[..], &["cluster-port", &bus], settings].concat();
            Server::start_in(&[], "127.0.0.1", free_port(), &settings)
        });
        Cluster::join(servers.collect())
    }

    /// Makes a cluster of servers: the first half are its primaries.
    pub(crate) fn join(servers: Vec<Server>) -> Cluster {
        let cluster = Cluster { servers };
        for (nth, server) in cluster.servers.iter().enumerate() {
            server.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(nth + 1).to_string()]);
            if nth < PRIMARIES {
                let first = (SLOTS * nth / PRIMARIES).to_string();
                let last = (SLOTS * (nth + 1) / PRIMARIES - 1).to_string();
                server.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            }
        }
        let first = &cluster.servers[0];
        for server in &cluster.servers[1..] {
            let (host, port) = server.address().split_once(':').map(owned).unwrap();
            let bus = server.ask::<Vec<String>>(&["CONFIG", "GET", "cluster-port"])[1].clone();
            first.ask::<()>(&["CLUSTER", "MEET", &host, &port, &bus]);
        }
        let all = cluster.servers.len();
        wait_for("meeting of all nodes", || {
            let know = |server: &Server| server.nodes().len() == all;
            cluster.servers.iter().all(know).then_some(())
        });
        for nth in PRIMARIES..all {
            let primary = cluster.servers[nth - PRIMARIES].ask::<String>(&["CLUSTER", "MYID"]);
            cluster.servers[nth].ask::<()>(&["CLUSTER", "REPLICATE", &primary]);
        }
        cluster.wait_until_whole();
        cluster
    }

    /// Waits until all servers that run agree, and every primary has its replica.
    pub(crate) fn wait_until_whole(&self) {
        wait_for("whole cluster", || {
            let whole = |server: &Server| {
                let info = server.try_ask::<String>(&["CLUSTER", "INFO"]).unwrap_or_default();
                let replication = server.try_ask::<String>(&["INFO", "replication"]);
                let replication = replication.unwrap_or_default();
                let linked = replication.contains("master_link_status:up")
                    || replication.contains("state=online");
                info.contains("cluster_state:ok") && linked
            };
            let primaries = |server: &Server| server.primaries().len() == PRIMARIES;
            let running = || self.servers.iter().filter(|server| server.runs());
            (running().all(whole) && running().all(primaries)).then_some(())
        });
    }

    /// Waits until there are as many primaries as there should be, without blocking the others.
    pub(crate) async fn wait_until_promoted(&self) {
        let begun = std::time::Instant::now();
        while self.primaries().len() < PRIMARIES {
            assert!(begun.elapsed() < crate::server::SOON, "a replica is promoted in time");
            tokio::task::yield_now().await;
        }
    }

    /// The same of one server.
    pub(crate) async fn wait_until_promoted_at(&self, nth: usize) {
        let begun = std::time::Instant::now();
        while !self.primaries().contains(&nth) {
            assert!(begun.elapsed() < crate::server::SOON, "the replica is promoted in time");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn url(&self) -> String {
        let nodes: Vec<String> = self.servers.iter().map(Server::address).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// The places of the servers that are primaries now.
    pub(crate) fn primaries(&self) -> Vec<usize> {
        let is_primary = |server: &Server| {
            server.runs() && server.ask::<Vec<redis::Value>>(&["ROLE"])[0] == role("master")
        };
        (0..self.servers.len()).filter(|&nth| is_primary(&self.servers[nth])).collect()
    }
}

/// A node is thought dead after half a second, and its replica stands for election at once.
const SETTINGS: [&str; 16] = [
    "cluster-enabled",
    "yes",
    "cluster-node-timeout",
    "500",
    "cluster-require-full-coverage",
    "no",
    "cluster-replica-validity-factor",
    "0",
    "repl-diskless-sync-delay",
    "0",
    "repl-ping-replica-period",
    "1",
    "appendonly",
    "yes",
    "appendfsync",
    "everysec",
];

pub(crate) fn settings() -> &'static [&'static str] {
    &SETTINGS
}

fn role(name: &str) -> redis::Value {
    redis::Value::BulkString(name.as_bytes().to_vec())
}

fn owned((host, port): (&str, &str)) -> (String, String) {
    (host.to_owned(), port.to_owned())
}

impl Server {
    /// The lines of what a node knows of the others.
    fn nodes(&self) -> Vec<String> {
        let nodes = self.try_ask::<String>(&["CLUSTER", "NODES"]).unwrap_or_default();
        let known = nodes.lines().filter(|line| !line.contains("handshake"));
        known.map(str::to_owned).collect()
    }

    /// The ids of those that it thinks are primaries with slots.
    fn primaries(&self) -> HashSet<String> {
        let nodes = self.nodes();
        let primary = nodes.iter().filter(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            words[2].contains("master") && !words[2].contains("fail") && words.len() > 8
        });
        primary.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }
}
