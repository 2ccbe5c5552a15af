//! The unified hierarchy.

use super::{field, number, write};
use crate::{ContainerStats, Resources};
use std::io;
use std::path::Path;

const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "hugetlb", "io"];

/// Makes every level and lets the one below have the controllers.
pub(super) fn create(base: &Path, relative: &str) -> io::Result<()> {
    if base.join(relative).is_dir() {
        return Ok(());
    }
    let mut dir = base.to_path_buf();
    for part in relative.split('/').filter(|p| !p.is_empty()) {
        let has = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        let on = std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        let word = |text: &str, c: &str| text.split_whitespace().any(|w| w == c);
        for controller in CONTROLLERS.iter().filter(|c| word(&has, c) && !word(&on, c)) {
            // One that cannot be enabled (a process sits here) is a limit that will not bite; `apply` says so.
            let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        dir.push(part);
        match std::fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io::Error::new(e.kind(), format!("mkdir {}: {e}", dir.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

fn limit(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

pub(super) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

pub(super) fn apply(dir: &Path, r: &Resources) -> io::Result<()> {
    if r.cpu_shares > 0 {
        write(dir, "cpu.weight", weight(r.cpu_shares))?;
    }
    if r.cpu_quota_us != 0 || r.cpu_period_us > 0 {
        let period = if r.cpu_period_us > 0 { r.cpu_period_us } else { 100_000 };
        let quota = if r.cpu_quota_us == 0 { -1 } else { r.cpu_quota_us };
        write(dir, "cpu.max", format!("{} {period}", limit(quota)))?;
    }
    if r.memory_limit_bytes != 0 {
        write(dir, "memory.max", limit(r.memory_limit_bytes))?;
        let swap = if r.memory_limit_bytes < 0 { "max" } else { "0" };
        let _ = write(dir, "memory.swap.max", swap);
    }
    if r.pids_limit != 0 {
        write(dir, "pids.max", limit(r.pids_limit))?;
    }
    if !r.cpuset_cpus.is_empty() {
        write(dir, "cpuset.cpus", &r.cpuset_cpus)?;
    }
    if !r.cpuset_mems.is_empty() {
        write(dir, "cpuset.mems", &r.cpuset_mems)?;
    }
    for (size, limit) in &r.hugepage_limits {
        write(dir, &format!("hugetlb.{size}.max"), limit)?;
    }
    Ok(())
}

pub(super) fn stats(dir: &Path) -> ContainerStats {
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let memory = read("memory.stat");
    let usage = number(dir.join("memory.current"));
    ContainerStats {
        cpu_usage_ns: field(&read("cpu.stat"), "usage_usec") * 1000,
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(field(&memory, "inactive_file")),
        memory_rss_bytes: field(&memory, "anon"),
        pids: number(dir.join("pids.current")),
        fs_used_bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn weights() {
        assert_eq!(super::weight(2), 1);
        assert_eq!(super::weight(1024), 39);
        assert_eq!(super::weight(262_144), 10_000);
    }
}
