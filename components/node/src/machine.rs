//! What this machine is: processors, memory, kernel, identity. Read once at start.

use camino::Utf8Path;
use std::fs;

#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub cpus: u64,
    pub memory_bytes: u64,
    pub ephemeral_bytes: u64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    pub architecture: String,
    pub swap_bytes: u64,
    pub pid_max: i64,
}

impl Machine {
    /// Reads `/proc` and friends; what cannot be read stays empty or zero. `data` names the file system whose size
    /// is the ephemeral storage.
    pub fn read(data: &Utf8Path) -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let host_memory = meminfo_kib(&meminfo, "MemTotal") * 1024;
        let memory_bytes = match cgroup_memory_limit() {
            Some(limit) if limit < host_memory => limit,
            _ => host_memory,
        };
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes,
            ephemeral_bytes: filesystem(data).map_or(0, |f| f.capacity),
            machine_id: first_line(&["/etc/machine-id", "/var/lib/dbus/machine-id"]),
            system_uuid: first_line(&["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]),
            boot_id: first_line(&["/proc/sys/kernel/random/boot_id"]),
            kernel: first_line(&["/proc/sys/kernel/osrelease"]),
            os_image: os_image(),
            architecture: architecture().to_owned(),
            swap_bytes: meminfo_kib(&meminfo, "SwapTotal") * 1024,
            pid_max: first_line(&["/proc/sys/kernel/pid_max"]).parse().unwrap_or(0),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Filesystem {
    pub capacity: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

pub fn filesystem(path: &Utf8Path) -> Option<Filesystem> {
    let s = rustix::fs::statvfs(path.as_std_path()).ok()?;
    Some(Filesystem {
        capacity: s.f_blocks * s.f_frsize,
        available: s.f_bavail * s.f_frsize,
        inodes: s.f_files,
        inodes_free: s.f_ffree,
    })
}

/// Bytes of memory that could be given to programs now.
pub fn memory_available() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    Some(meminfo_kib(&meminfo, "MemAvailable") * 1024)
}

/// Go's name of the architecture, which is what Kubernetes writes.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn meminfo_kib(meminfo: &str, key: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The limit of the cgroup we live in, where the machine is itself a container.
fn cgroup_memory_limit() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|p| fs::read_to_string(p).ok()?.trim().parse().ok())
}

fn first_line(paths: &[&str]) -> String {
    paths
        .iter()
        .filter_map(|p| fs::read_to_string(p).ok())
        .map(|s| s.lines().next().unwrap_or_default().trim().to_owned())
        .find(|s| !s.is_empty())
        .unwrap_or_default()
}

fn os_image() -> String {
    let release = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".into(), |v| v.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine() {
        let m = Machine::read(Utf8Path::new("/"));
        assert!(m.cpus >= 1);
        assert!(m.memory_bytes > 1 << 20);
        assert!(!m.kernel.is_empty());
        assert!(m.ephemeral_bytes > 0);
    }

    #[test]
    fn meminfo_lines() {
        let text = "MemTotal:        2048 kB\nMemFree: 10 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(meminfo_kib(text, "MemTotal"), 2048);
        assert_eq!(meminfo_kib(text, "MemAvailable"), 1024);
        assert_eq!(meminfo_kib(text, "Nope"), 0);
    }
}
