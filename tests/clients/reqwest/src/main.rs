//! reqwest with reqwest-retry. Usage: reqwest-client URL COUNT OUT

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn send(client: &ClientWithMiddleware, url: &str, key: &str) -> Result<String, Failure> {
    loop {
        let request = client
            .post(url)
            .header("authorization", "Bearer demo-token")
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(format!("{{\"first_name\":\"Load\",\"email\":\"{key}@example.com\"}}"));
        // What ends in an error had its retries used up, or its body cut, which the library
        // leaves to its caller.
        let Ok(reply) = request.send().await else { continue };
        let status = reply.status();
        match reply.text().await {
            Ok(text) if status.as_u16() == 201 => return Ok(text),
            Ok(_) if status.is_server_error() || status.as_u16() == 429 => {}
            Ok(text) => return Err(format!("{key}: {status} {text}").into()),
            Err(_) => {}
        }
    }
}

async fn write(client: &ClientWithMiddleware, url: &str, number: u64) -> Result<String, Failure> {
    let key = format!("reqwest-{number}");
    let first = send(client, url, &key).await?;
    if first != send(client, url, &key).await? {
        return Err(format!("{key}: two answers").into());
    }
    Ok(format!("{key} {first}\n"))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [url, count, out] = &words[..] else { return Err("URL COUNT OUT".into()) };
    let count: u64 = count.parse()?;
    let bounds = (Duration::from_millis(50), Duration::from_secs(1));
    let policy = ExponentialBackoff::builder()
        .retry_bounds(bounds.0, bounds.1)
        .build_with_max_retries(20);
    let plain = reqwest::Client::builder().timeout(Duration::from_secs(20)).build()?;
    let retrying = RetryTransientMiddleware::new_with_policy(policy);
    let client = ClientBuilder::new(plain).with(retrying).build();
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (client, url, next) = (client.clone(), url.clone(), Arc::clone(&next));
        clients.push(tokio::spawn(async move {
            let mut lines = String::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<String, Failure>(lines);
                }
                lines += &write(&client, &url, number).await?;
            }
        }));
    }
    let mut lines = String::new();
    for client in clients {
        lines += &client.await??;
    }
    tokio::fs::write(out, lines).await?;
    Ok(())
}
