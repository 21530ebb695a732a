//! The least that a disk and a server take: what no store on them can be faster than.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use redis::Value;
use redis::aio::ConnectionManager;

use crate::common::Latencies;
use crate::servers::Servers;

const PAGE: [u8; 4096] = [b'b'; 4096];
const FILE_PAGES: u64 = 1 << 14;

pub(crate) enum Bound {
    /// A file of zeros that are on the disk, and the page that is written next.
    Sync(File, u64),
    Ping(ConnectionManager),
    Select(tokio_postgres::Client, tokio_postgres::Statement),
}

/// The file is on the file system of the stores.
pub(crate) async fn open(servers: &Servers) -> [Bound; 3] {
    let file = tempfile::tempfile().unwrap();
    for page in 0..FILE_PAGES {
        file.write_all_at(&[0; 4096], page * 4096).unwrap();
    }
    file.sync_all().unwrap();
    let redis = redis::Client::open(servers.redis[0].url() + "?protocol=resp3").unwrap();
    let client = servers.postgres.client().await;
    let select = client.prepare("SELECT 1").await.unwrap();
    let ping = redis.get_connection_manager().await.unwrap();
    [Bound::Sync(file, 0), Bound::Ping(ping), Bound::Select(client, select)]
}

impl Bound {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Bound::Sync(..) => "*4 KiB written and `fdatasync`*",
            Bound::Ping(_) => "*`PING` to Redis*",
            Bound::Select(..) => "*`SELECT 1` to PostgreSQL*",
        }
    }

    /// The times of as many as fit, one after the other.
    pub(crate) async fn times(&mut self, time: Duration) -> Latencies {
        let begun = Instant::now();
        let mut latencies = Latencies::new();
        while begun.elapsed() < time {
            let sent = Instant::now();
            self.once().await;
            latencies.add(sent.elapsed());
        }
        latencies
    }

    async fn once(&mut self) {
        match self {
            Bound::Sync(file, next) => {
                file.write_all_at(&PAGE, *next % FILE_PAGES * 4096).unwrap();
                file.sync_data().unwrap();
                *next += 1;
            }
            Bound::Ping(server) => {
                let told = server.send_packed_command(&redis::cmd("PING")).await.unwrap();
                assert_eq!(told, Value::SimpleString("PONG".to_owned()));
            }
            Bound::Select(client, statement) => {
                let row = client.query_one(&*statement, &[]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), 1);
            }
        }
    }
}
