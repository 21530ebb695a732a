//! Quantiles, and what processes, threads and the device did, as `/proc` and `/sys` have it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::engines::Result;

/// The quantile of times in nanoseconds, in microseconds. Sorts them.
pub fn quantile_us(times: &mut [u32], quantile: f64) -> f64 {
    times.sort_unstable();
    let at = (times.len() as f64 * quantile) as usize;
    times.get(at.min(times.len().saturating_sub(1))).map_or(f64::NAN, |&ns| f64::from(ns) / 1e3)
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The CPU time of this process, of a server, and of every child the server had, in milliseconds.
pub fn cpu_ms(server: Option<u32>) -> Result<f64> {
    // USER_HZ is 100 on every Linux that Rust runs on.
    Ok(ticks(std::process::id(), &OWN)? * 10.0 + server.map_or(Ok(0.0), server_ticks)? * 10.0)
}

/// utime and stime of a process, and cutime and cstime of the children that it has reaped, counted
/// from the field behind the name.
const OWN: [usize; 2] = [11, 12];
const WITH_REAPED: [usize; 4] = [11, 12, 13, 14];

/// A child that ends takes its time with it, until the server reaps it and counts it as its own. So
/// a sum is taken again where the children were others afterwards.
fn server_ticks(server: u32) -> Result<f64> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let before = children(server)?;
        let mut sum = ticks(server, &WITH_REAPED)?;
        let all = before.iter().try_for_each(|&child| {
            sum += ticks(child, &OWN)?;
            Result::Ok(())
        });
        if all.is_ok() && children(server)? == before {
            return Ok(sum);
        }
    }
    Err(format!("the children of the server {server} do not stay the same").into())
}

fn ticks(pid: u32, fields: &[usize]) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let values: Vec<&str> =
        stat.rsplit_once(") ").map_or("", |(_, values)| values).split(' ').collect();
    let mut sum = 0.0;
    for &field in fields {
        sum += values.get(field).ok_or("a short /proc/<pid>/stat")?.parse::<f64>()?;
    }
    Ok(sum)
}

/// The CPU time of the calling thread in milliseconds, and the bytes of the pages that it dirtied.
pub fn thread_usage() -> Result<(f64, u64)> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let written = field("/proc/thread-self/io", "write_bytes:").ok_or("no write_bytes")?;
    Ok((time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6, written))
}

/// The bytes of the pages that this process, a server and its children dirtied. Reaped children are
/// in it already.
pub fn dirtied(server: Option<u32>) -> Result<u64> {
    let mut sum = 0;
    for pid in family(server)? {
        // A child may end while it is looked at; the server then counts it as its own.
        sum += field(&format!("/proc/{pid}/io"), "write_bytes:").unwrap_or(0);
    }
    Ok(sum)
}

/// What the threads of this process with such a name passed to system calls that write.
pub fn written_by_threads(name: &str) -> Result<u64> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let path = entry?.path();
        // A thread may end meanwhile.
        let named = fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
        if named {
            found.extend(field(&path.join("io").to_string_lossy(), "wchar:"));
        }
    }
    // A thread that has another name now would be reported as none.
    if found.is_empty() { Err(format!("no thread {name}").into()) } else { Ok(found.iter().sum()) }
}

/// The block device below a directory.
pub struct Device {
    dir: PathBuf,
    stat: PathBuf,
}

impl Device {
    pub fn below(dir: &Path) -> Result<Device> {
        use std::os::unix::fs::MetadataExt;
        let device = fs::metadata(dir)?.dev();
        // As glibc's `major` and `minor` have it.
        let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
        let minor = (device & 0xff) | ((device >> 12) & 0xffff_ff00);
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        if !stat.exists() {
            let dir = dir.display();
            return Err(format!("{dir} is on no block device; --dir names one that is").into());
        }
        Ok(Device { dir: dir.to_owned(), stat })
    }

    /// Writes what is dirty, and says how many bytes the device has ever been written.
    pub fn written(&self) -> Result<u64> {
        let status = Command::new("sync").arg("-f").arg(&self.dir).status()?;
        if !status.success() {
            return Err(format!("sync -f: {status}").into());
        }
        let stat = fs::read_to_string(&self.stat)?;
        let sectors = stat.split_whitespace().nth(6).ok_or("a short stat of a device")?;
        Ok(sectors.parse::<u64>()? * 512)
    }

    /// Waits until nothing is dirty, nothing is written and this process and the server are idle,
    /// so that what an engine left to do is in nobody else's figure.
    pub fn settle(&self, server: Option<u32>) -> Result<Quiet> {
        const LOOK: Duration = Duration::from_millis(60);
        const LIMIT: Duration = Duration::from_secs(10);
        /// A journal's own blocks, and the looks themselves.
        const NOISE_BYTES: u64 = 256 << 10;
        const NOISE_MS: f64 = 20.0;
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            let (written, cpu) = (self.written()?, cpu_ms(server)?);
            std::thread::sleep(LOOK);
            let busy_ms = cpu_ms(server)? - cpu;
            if self.written()? - written <= NOISE_BYTES && busy_ms <= NOISE_MS {
                return Ok(Quiet::Yes);
            }
        }
        eprintln!("not quiet after {LIMIT:?}: bytes written to the device are not reported");
        Ok(Quiet::No)
    }
}

/// Whether what is written from here on is one engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    Yes,
    No,
}

/// Anonymous memory, and where there is a server the shared memory that it made.
pub fn memory_bytes(server: Option<u32>) -> Result<u64> {
    let mut sum = 0;
    for pid in family(server)? {
        let status = format!("/proc/{pid}/status");
        sum += field(&status, "RssAnon:").unwrap_or(0) * 1024;
    }
    if let Some(server) = server {
        // Shared memory is counted in each process that touched it: the largest has all of it.
        let shared = family(Some(server))?
            .into_iter()
            .filter_map(|pid| field(&format!("/proc/{pid}/status"), "RssShmem:"));
        sum += shared.max().unwrap_or(0) * 1024;
    }
    Ok(sum)
}

/// This process, the server and its children.
fn family(server: Option<u32>) -> Result<Vec<u32>> {
    let mut pids = vec![std::process::id()];
    if let Some(server) = server {
        pids.push(server);
        pids.extend(children(server)?);
    }
    Ok(pids)
}

pub fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if field(&format!("/proc/{pid}/status"), "PPid:") == Some(u64::from(parent)) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Blocks on disk of all files below a directory.
pub fn disk_bytes(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Engines delete files in the background.
        let Ok(metadata) = entry.metadata() else { continue };
        sum += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::{Device, cpu_ms, median, memory_bytes, quantile_us, thread_usage};

    #[test]
    fn quantiles_and_medians() {
        let mut times: Vec<u32> = (1..=1000).map(|us| us * 1000).collect();
        assert_eq!(quantile_us(&mut times, 0.5), 501.0);
        assert_eq!(quantile_us(&mut times, 0.999), 1000.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_process_is_seen_to_use_memory() {
        assert!(memory_bytes(None).unwrap() > 0);
    }

    /// A server whose child works and ends inside a window, as a connection's process does.
    #[test]
    fn the_time_of_a_child_that_ended_is_its_servers() {
        use std::io::{BufRead, BufReader};
        const SERVER: &str = "read go; sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; \
                              echo done; read end";
        let mut server = Command::new("sh");
        server.args(["-c", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = server.spawn().unwrap();
        let mut output = BufReader::new(server.stdout.take().unwrap());
        let (own, before) = (cpu_ms(None).unwrap(), cpu_ms(Some(server.id())).unwrap());
        use std::io::Write;
        server.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        output.read_line(&mut String::new()).unwrap();
        let (after, own) = (cpu_ms(Some(server.id())).unwrap(), cpu_ms(None).unwrap() - own);
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(after - before - own >= 50.0, "{after} ms from {before} ms, own {own} ms");
    }

    #[test]
    fn what_a_thread_computes_and_what_a_device_is_written_is_seen() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let device = Device::below(dir.path()).unwrap();
        let (cpu, pages) = thread_usage().unwrap();
        let written = device.written().unwrap();
        std::fs::write(dir.path().join("bytes"), vec![7; 8 << 20]).unwrap();
        assert!(device.written().unwrap() - written >= 8 << 20);
        assert!(thread_usage().unwrap().0 > cpu && thread_usage().unwrap().1 - pages >= 8 << 20);
    }
}
