//! The servers and directories of all stores, which end with the bench.

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cluster::Cluster;
use crate::postgres;
use crate::server::Server;

pub(crate) struct Servers {
    /// Of the embedded stores.
    pub(crate) dirs: [TempDir; 2],
    /// With `everysec`, and with `always`.
    pub(crate) redis: [Server; 2],
    /// With `everysec`, and with `always`.
    pub(crate) clusters: [Cluster; 2],
    pub(crate) postgres: postgres::Server,
    /// Commits when its standby has it.
    pub(crate) primary: postgres::Server,
    _standby: postgres::Server,
}

/// No failover because a disk stalls.
const PATIENT: [&str; 2] = ["cluster-node-timeout", "5000"];
const POSTGRES: &str = "-c shared_buffers=512MB -c max_wal_size=8GB";
const SYNCHRONOUS: &str = "-c synchronous_standby_names=standby";

impl Servers {
    pub(crate) fn start() -> Servers {
        let synced = ["everysec", "always"];
        let settings = synced.map(|fsync| ["appendonly", "yes", "appendfsync", fsync]);
        let primary = postgres::Server::start(&format!("{POSTGRES} {SYNCHRONOUS}"));
        let standby = postgres::Server::standby_of(&primary, "standby", POSTGRES);
        Servers {
            dirs: [(); 2].map(|()| tempfile::tempdir().unwrap()),
            redis: settings.map(|settings| Server::start(&settings)),
            clusters: settings.map(|settings| Cluster::start(&[&PATIENT[..], &settings].concat())),
            postgres: postgres::Server::start(POSTGRES),
            primary,
            _standby: standby,
        }
    }

    pub(crate) fn versions(&self, runtime: &Runtime) -> String {
        let redis: String = self.redis[0].ask(&["INFO", "server"]);
        let redis = redis.lines().find_map(|line| line.strip_prefix("redis_version:"));
        let postgres = runtime.block_on(self.postgres.tell("SHOW server_version"));
        let postgres = postgres.split(' ').next().unwrap_or_default();
        format!("Redis {}, PostgreSQL {postgres}", redis.unwrap_or_default().trim())
    }
}
