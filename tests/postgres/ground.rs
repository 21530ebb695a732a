//! What the layer and the suite stand on in this target: schemas of one server, whose clock is put
//! forward by hand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncelog::cluster::PostgresStore;
use oncelog::conformance::Harness;

use crate::server::{Server, fresh_schema, shift};

pub(crate) struct Ground {
    pub(crate) server: Arc<Server>,
    newest: Mutex<Newest>,
}

#[derive(Clone, Default)]
struct Newest {
    schema: String,
    ttl: Duration,
    /// How far its clock is ahead.
    ahead: Duration,
}

impl Ground {
    pub(crate) fn new() -> Ground {
        Ground { server: Server::shared(), newest: Mutex::default() }
    }

    pub(crate) fn schema(&self) -> String {
        self.newest.lock().unwrap().schema.clone()
    }

    /// A store for one more server of the API, with connections of its own.
    pub(crate) async fn another(&self) -> PostgresStore {
        let Newest { schema, ttl, .. } = self.newest.lock().unwrap().clone();
        let options = PostgresStore::options().schema(&schema).ttl(ttl).connections(8);
        options.connect(&self.server.url()).await.unwrap()
    }
}

impl Harness for Ground {
    type Backend = PostgresStore;

    async fn fresh(&self, ttl: Duration) -> PostgresStore {
        let schema = fresh_schema();
        *self.newest.lock().unwrap() = Newest { schema, ttl, ahead: Duration::ZERO };
        self.another().await
    }

    async fn pass(&self, time: Duration) {
        let Newest { schema, ahead, .. } = {
            let mut newest = self.newest.lock().unwrap();
            newest.ahead += time;
            newest.clone()
        };
        shift(&self.server, &schema, ahead.as_secs()).await;
    }

    fn shortest_lease(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn crash(&self, store: PostgresStore) -> PostgresStore {
        drop(store);
        self.another().await
    }
}
