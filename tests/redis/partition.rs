//! A primary that is cut off from the other nodes while its clients still reach it, in a network of
//! the test's own: how much it acknowledges that the majority never hears of, per setting.
//!
//! Wants root.

use std::process::{Child, Command, Stdio};

use crate::cluster::{Cluster, settings};
use crate::failover::{Load, connect, look};
use crate::server::{Server, wait_for};

/// What runs in a network of its own.
const INSIDE: &str = "partition::inside_a_network_of_its_own";

#[test]
fn with_wait_1_a_primary_that_is_cut_off_acknowledges_nothing_that_is_lost() {
    assert!(rustix::process::geteuid().is_root(), "wants root, for a network of its own");
    let mut inside = Command::new("unshare");
    inside.args(["--net", "setpriv", "--pdeathsig", "KILL"]).arg(std::env::current_exe().unwrap());
    let status = inside.args(["--exact", INSIDE, "--ignored", "--nocapture"]).status();
    assert!(status.expect("util-linux is installed").success());
}

fn ip(inside: &[&str], words: &str) {
    let command: Vec<&str> = inside.iter().copied().chain(["ip"]).chain(words.split(' ')).collect();
    let status = Command::new(command[0]).args(&command[1..]).status();
    assert!(status.expect("iproute2 is installed").success(), "{command:?}");
}

/// A network of one node, which ends with this; a process holds it.
struct Host {
    holder: Child,
    nth: usize,
}

impl Host {
    fn start(nth: usize) -> Host {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "setpriv", "--pdeathsig", "KILL", "cat"]);
        let holder = holder.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let host = Host { holder, nth };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let net = format!("/proc/{}/ns/net", host.holder.id());
        wait_for("network", || std::fs::read_link(&net).ok().filter(|net| *net != own));
        let pid = host.holder.id();
        ip(&[], &format!("link add out{nth} type veth peer name in netns {pid}"));
        ip(&[], &format!("link set out{nth} master bridge up"));
        host.ip(&format!("addr add {}/24 dev in", host.address()));
        host.ip("link set in up");
        host.ip("link set lo up");
        host
    }

    fn ip(&self, words: &str) {
        let pid = self.holder.id().to_string();
        ip(&["nsenter", "--net", "--target", &pid], words);
    }

    fn address(&self) -> String {
        format!("10.77.0.{}", self.nth + 2)
    }

    fn server(&self, extra: &[&str]) -> Server {
        let pid = self.holder.id().to_string();
        let settings = [settings(), &["cluster-port", "7001"], extra].concat();
        Server::start_in(&["nsenter", "--net", "--target", &pid], &self.address(), 7000, &settings)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The kernel takes its time to end a network, and the next has the same names.
        Command::new("ip").args(["link", "del", &format!("out{}", self.nth)]).status().ok();
        self.holder.kill().expect("it has not been waited for");
        self.holder.wait().expect("it was started");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is run by another test, in a network of its own"]
async fn inside_a_network_of_its_own() {
    ip(&[], "link set lo up");
    ip(&[], "link add bridge type bridge");
    ip(&[], "link set bridge up");
    ip(&[], "addr add 10.77.0.1/24 dev bridge");
    let few = ["min-replicas-to-write", "1", "min-replicas-max-lag", "1"];
    for (replicas, extra) in [(0, &[][..]), (0, &few[..]), (1, &[][..])] {
        let hosts: Vec<Host> = (0..6).map(Host::start).collect();
        let servers = hosts.iter().map(|host| host.server(extra)).collect();
        let cluster = Cluster::join(servers);
        let store = connect(&cluster.url(), replicas).await;
        let load = Load::start(&store, "partition");
        load.go_on(200).await;
        let cut = |verb: &str| {
            for other in &hosts[1..] {
                hosts[0].ip(&format!("route {verb} blackhole {}/32", other.address()));
            }
        };
        cut("add");
        // The replica of the first primary takes its place.
        cluster.wait_until_promoted_at(3).await;
        load.go_on(200).await;
        cut("del");
        let (acknowledged, refused) = load.end().await;
        cluster.wait_until_whole();
        let fresh = connect(&cluster.url(), 0).await;
        let mut outcome = look(&fresh, &acknowledged).await;
        outcome.refused = refused;
        println!("WAIT {replicas}, {extra:?}, a primary cut off: {outcome:?}");
        assert!(outcome.refused > 0, "the load ran into the partition");
        if replicas > 0 {
            assert_eq!((outcome.duplicates, outcome.lost), (0, 0), "{outcome:?}");
        }
        drop(cluster);
        drop(hosts);
    }
}
