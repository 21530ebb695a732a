//! What the figures were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::engines::{Kind, Result};

/// The lines below the title of every table.
pub fn describe(scratch: &Path, kinds: &[Kind]) -> Result<Vec<String>> {
    let cpu = line("/proc/cpuinfo", "model name");
    let memory_kib: u64 = line("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let (file_system, storage) = storage(scratch)?;
    let versions = kinds.iter().filter_map(|kind| Some((kind.name(), kind.version()?)));
    let versions = versions.filter(|(name, _)| !name.contains("committer"));
    let versions: Vec<_> = versions.map(|(name, version)| format!("{name} {version}")).collect();
    let missing = kinds.iter().filter_map(|kind| Some((kind.name(), kind.missing()?)));
    let missing: Vec<_> = missing.map(|(name, why)| format!("{name}: {why}")).collect();
    let mut lines = vec![
        format!(
            "Machine: {}, {} cores, {:.0} GiB memory, Linux {}, {file_system} on {storage}; load \
             at the start {}.",
            cpu,
            std::thread::available_parallelism()?,
            memory_kib as f64 / f64::from(1 << 20),
            kernel.trim(),
            load.split(' ').next().unwrap_or_default(),
        ),
        format!("Versions: {}.", versions.join(", ")),
    ];
    if !missing.is_empty() {
        lines.push(format!("Not run: {}.", missing.join(", ")));
    }
    lines.push(format!("Measured {}: `{}`.", today()?, command()));
    Ok(lines)
}

fn today() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%F"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The command, without the places that are the machine's own.
fn command() -> String {
    let features = if cfg!(feature = "rocksdb") { " --features rocksdb" } else { "" };
    let mut words = vec![format!("cargo run --release{features} --")];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if ["--dir", "--out"].contains(&argument.as_str()) {
            arguments.next();
        } else if !argument.starts_with("--dir=") && !argument.starts_with("--out=") {
            words.push(argument);
        }
    }
    words.join(" ").trim_end_matches(" --").to_owned()
}

fn line(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// File system and device below a path: the mount whose point is the longest prefix.
fn storage(path: &Path) -> Result<(String, String)> {
    let path = path.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let (point, mut after) = (before.split(' ').nth(4)?, after.split(' '));
        path.starts_with(point).then(|| (point.len(), after.next(), after.next()))
    });
    let (_, file_system, source) = mount.max_by_key(|mount| mount.0).unwrap_or_default();
    let device = source.unwrap_or("unknown").trim_start_matches("/dev/");
    let read = |file: &str| {
        let text = fs::read_to_string(format!("/sys/block/{device}/{file}")).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let mut storage = device.to_owned();
    if let Some(model) = read("device/model") {
        storage += &format!(", {model}");
    }
    storage += match read("queue/rotational").as_deref() {
        Some("0") => ", not rotational",
        Some(_) => ", rotational as the kernel has it",
        None => "",
    };
    if let Some(cache) = read("queue/write_cache") {
        storage += &format!(", {cache}");
    }
    Ok((file_system.unwrap_or("unknown").to_owned(), storage))
}
