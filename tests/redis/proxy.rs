//! Between a store and its server: passes everything on, but puts other words of the same length in
//! the place of some. A script that is sent whole arrives with a fault put in by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Proxy {
    port: u16,
    replaced: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn start(server: String, from: &str, to: &str) -> Proxy {
        let to = format!("{to:<width$}", width = from.len());
        assert_eq!(from.len(), to.len(), "the words of a fault are not longer than what is there");
        let words = Arc::new((from.as_bytes().to_vec(), to.into_bytes()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let replaced = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&replaced);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                // The server ends before its clients do.
                let Ok(server) = TcpStream::connect(&server).await else { return };
                tokio::spawn(pass(client, server, Arc::clone(&words), Arc::clone(&count)));
            }
        });
        Proxy { port, replaced }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::SeqCst)
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    words: Arc<(Vec<u8>, Vec<u8>)>,
    count: Arc<AtomicU64>,
) {
    let (mut asks, mut hears) = client.into_split();
    let (mut tells, mut sends) = server.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut tells, &mut hears).await });
    let (from, to) = &*words;
    let mut held = Vec::new();
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read) = asks.read(&mut bytes).await {
        if read == 0 {
            break;
        }
        held.extend_from_slice(&bytes[..read]);
        while let Some(at) = held.windows(from.len()).position(|window| window == from) {
            held[at..at + from.len()].copy_from_slice(to);
            count.fetch_add(1, Ordering::SeqCst);
        }
        // What may be the beginning of the words waits for the rest.
        let begun = (1..from.len()).rev().find(|&len| held.ends_with(&from[..len]));
        let rest = held.split_off(held.len() - begun.unwrap_or(0));
        if sends.write_all(&held).await.is_err() {
            break;
        }
        held = rest;
    }
    back.abort();
}
