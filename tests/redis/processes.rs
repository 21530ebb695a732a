//! Callers in several processes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use oncelog::cluster::RedisStore;
use oncelog::http::{Answer, Backend as _};
use tokio::sync::Barrier;

use crate::cluster::Cluster;
use crate::records::{KEY, LEASE, body};
use crate::server::Server;

const PROCESSES: usize = 4;
const CALLERS: usize = 4;
const SCOPES: usize = 50;
const URL: &str = "ONCELOG_REDIS_URL";

/// What each process runs: its callers race for each scope, and it says how many won which.
#[test]
#[ignore = "it is run by other tests, as a process of its own"]
fn one_process_of_several() {
    let url = std::env::var(URL).expect("the address of a server");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let won = runtime.block_on(async {
        let mut callers = tokio::task::JoinSet::new();
        let together = Arc::new(Barrier::new(CALLERS + 1));
        for _ in 0..CALLERS {
            let store = RedisStore::connect(&url).await.unwrap();
            callers.spawn(race(store, Arc::clone(&together)));
        }
        println!("ready");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        together.wait().await;
        callers.join_all().await
    });
    for scope in won.into_iter().flatten() {
        println!("won {scope}");
    }
}

async fn race(store: RedisStore, together: Arc<Barrier>) -> Vec<usize> {
    together.wait().await;
    let mut won = Vec::new();
    for number in 0..SCOPES {
        let key = number.to_string();
        let scope = oncelog::Scope { key: &key, ..KEY };
        match store.claim(scope, body(), LEASE).await.unwrap() {
            Answer::Granted(_) => won.push(number),
            Answer::InProgress(_) => {}
            other => panic!("a scope that is claimed once is not {other:?}"),
        }
    }
    won
}

struct Process(Child, BufReader<std::process::ChildStdout>);

impl Process {
    fn start(url: &str) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "processes::one_process_of_several", "--ignored", "--nocapture"]);
        command.env(URL, url).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let tells = BufReader::new(process.stdout.take().unwrap());
        Process(process, tells)
    }

    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while self.1.read_line(&mut line).unwrap() > 0 {
            if line.trim_end().ends_with(word) {
                return;
            }
            line.clear();
        }
        panic!("the process ended before it said {word:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn one_is_granted(url: &str) {
    let mut processes: Vec<Process> = (0..PROCESSES).map(|_| Process::start(url)).collect();
    processes.iter_mut().for_each(|process| process.wait_for("ready"));
    for process in &mut processes {
        process.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }
    let mut won = [0; SCOPES];
    for mut process in processes {
        for line in (&mut process.1).lines() {
            let line = line.unwrap();
            if let Some(number) = line.strip_prefix("won ") {
                won[number.parse::<usize>().unwrap()] += 1;
            }
        }
        assert!(process.0.wait().unwrap().success());
    }
    assert_eq!(won, [1; SCOPES], "every scope is granted once");
}

#[test]
fn of_16_callers_in_4_processes_one_is_granted_on_a_server() {
    let server = Server::start(&[]);
    one_is_granted(&server.url());
}

#[test]
fn of_16_callers_in_4_processes_one_is_granted_on_a_cluster() {
    let cluster = Cluster::start(&[]);
    one_is_granted(&cluster.url());
}
