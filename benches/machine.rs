//! The facts about the machine that a reader needs to judge the figures.

use std::fs;
use std::path::Path;

fn word(path: &str) -> String {
    fs::read_to_string(path).map_or("?".into(), |text| text.trim().to_owned())
}

/// The load average of the last minute.
pub fn load() -> f64 {
    word("/proc/loadavg")
        .split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(f64::NAN)
}

fn processor() -> String {
    let info = word("/proc/cpuinfo");
    let model = info.lines().find(|line| line.starts_with("model name"));
    model
        .and_then(|line| line.split(": ").nth(1))
        .unwrap_or("unknown processor")
        .to_owned()
}

fn memory_gib() -> f64 {
    let info = word("/proc/meminfo");
    let total = info
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<f64>().ok());
    total.unwrap_or(f64::NAN) / f64::from(1 << 20)
}

pub fn file_system(directory: &Path) -> String {
    vmstore::probe(Some(directory)).map_or("?".into(), |probe| probe.file_system)
}

pub fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// What is printed at the top, and a warning if the machine is not quiet.
pub fn conditions(seed: u64, directories: &[std::path::PathBuf]) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = load();
    let mut lines = vec![
        format!(
            "{} x {}, {:.0} GiB of memory, Linux {}, pages of {} bytes, transparent huge pages {}",
            cores,
            processor(),
            memory_gib(),
            word("/proc/sys/kernel/osrelease"),
            page_size(),
            word("/sys/kernel/mm/transparent_hugepage/enabled"),
        ),
        format!(
            "file systems: {}; tracker: {}; seed {seed}; load average {load:.2}",
            directories.iter().map(|d| file_system(d)).collect::<Vec<_>>().join(", "),
            vmstore::probe(None).map_or("?".into(), |probe| probe.tracker_reason),
        ),
        "unless a line says otherwise: all memory was touched before, all pages differ, dirty pages are scattered over \
         all of it; contestants run in a new random order each round"
            .into(),
    ];
    if load > 0.5 {
        lines.push(format!(
            "WARNING: this machine is not quiet (load average {load:.2}): absolute figures are too high, ratios noisy"
        ));
    }
    lines
}

/// Bytes that this process caused to be written, as the kernel counts them.
pub fn written_by_us() -> u64 {
    let io = word("/proc/self/io");
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// Bytes that all processes have written to the device under a directory.
pub fn written_by_device(directory: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * 512)
}

/// Private memory of this process, in bytes.
pub fn anonymous_memory() -> u64 {
    let status = word("/proc/self/status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
