//! The stores, each behind the layer of an API of its own.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use http::{HeaderName, StatusCode, header};
use oncelog::Durability;
use oncelog::cluster::{PostgresStore, RedisOptions, RedisStore};
use oncelog::http::{AnyBackend, Backend, IdempotencyLayer, Organization, Orphans, Promises};

use crate::common::BUFFERED;
use crate::drive::{ANSWER, PATH, complete};
use crate::postgres::rotate;
use crate::servers::Servers;

/// How long to wait for a replica: longer than a disk stalls.
const WITHIN: Duration = Duration::from_secs(1);
/// What waits for a replica holds up its connection.
const CONNECTIONS_WAIT: usize = 16;
const SCHEMA: &str = "oncelog";

pub(crate) struct Store {
    pub(crate) name: &'static str,
    pub(crate) promises: Promises,
    pub(crate) api: Router,
}

impl Store {
    fn new(name: &'static str, backend: impl Backend) -> Store {
        let promises = backend.promises();
        let backend = AnyBackend::new(backend);
        let layer = IdempotencyLayer::new(backend, Organization::single(), Orphans::Hold);
        Store { name, promises, api: api().layer(layer) }
    }
}

/// An API that takes a body, does nothing, and answers.
pub(crate) fn api() -> Router {
    Router::new().route(PATH, post(create))
}

async fn create(body: Bytes) -> (StatusCode, [(HeaderName, &'static str); 1], &'static str) {
    assert!(!body.is_empty(), "a request has a body");
    (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], ANSWER)
}

/// Opens every store, and completes the keys in it that are replayed.
pub(crate) async fn open(servers: &Servers) -> Vec<Store> {
    let [synced, buffered] = servers.dirs.each_ref().map(tempfile::TempDir::path);
    let embedded = |durability: Durability, dir| {
        oncelog::Store::options().durability(durability).open(dir).unwrap()
    };
    let mut stores = vec![
        Store::new("embedded, `Synced`", embedded(Durability::Synced, synced)),
        Store::new("embedded, `Buffered`", embedded(BUFFERED, buffered)),
    ];
    let [redis_everysec, redis_always] = servers.redis.each_ref().map(crate::server::Server::url);
    let [everysec, always] = servers.clusters.each_ref().map(crate::cluster::Cluster::url);
    let plain = RedisStore::options;
    let wait = || plain().prefix("wait").replicas(1, WITHIN).connections(CONNECTIONS_WAIT);
    let redis: [(&str, RedisOptions, &str); 5] = [
        ("Redis, `everysec`", plain(), &redis_everysec),
        ("Redis, `always`", plain(), &redis_always),
        ("Redis Cluster, `everysec`, WAIT 0", plain(), &everysec),
        ("Redis Cluster, `everysec`, WAIT 1", wait(), &everysec),
        ("Redis Cluster, `always`, WAIT 1", wait(), &always),
    ];
    for (name, options, url) in redis {
        stores.push(Store::new(name, options.connect(url).await.unwrap()));
    }
    for (name, server) in
        [("PostgreSQL, alone", &servers.postgres), ("PostgreSQL, sync standby", &servers.primary)]
    {
        let options = PostgresStore::options().schema(SCHEMA);
        stores.push(Store::new(name, options.connect(&server.url()).await.unwrap()));
    }
    for store in &stores {
        complete(&store.api).await;
    }
    // A store that has run for longer than its ttl has a closed generation, which every claim asks.
    for server in [&servers.postgres, &servers.primary] {
        rotate(server, SCHEMA).await;
    }
    stores
}
