//! Quantiles, and what a process and its children used, as `/proc` has it.

use std::fs;
use std::path::Path;

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

/// Counters of this process, of a server, and of the server's children.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_ms: f64,
    /// Bytes that were handed to the storage layer, as `/proc/<pid>/io` counts `write_bytes`.
    pub written: u64,
}

impl Usage {
    pub fn now(server: Option<u32>) -> Result<Usage> {
        let mut sum = Usage::default();
        for pid in family(server)? {
            // A child may end while it is looked at; the server then counts it as its own.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
            let ticks = fields.split(' ').skip(11).take(2).flat_map(str::parse::<f64>);
            // USER_HZ is 100 on every Linux that Rust runs on.
            sum.cpu_ms += ticks.sum::<f64>() * 10.0;
            sum.written += field(&format!("/proc/{pid}/io"), "write_bytes:").unwrap_or(0);
        }
        Ok(sum)
    }

    pub fn since(self, start: Usage) -> Usage {
        Usage {
            cpu_ms: self.cpu_ms - start.cpu_ms,
            written: self.written.saturating_sub(start.written),
        }
    }
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
    use super::{Usage, median, memory_bytes, quantile_us};

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
        Usage::now(None).unwrap();
    }
}
