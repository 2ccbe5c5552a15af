//! The v1 hierarchies, one folder tree per controller set.

use super::devices::Rule;
use super::{field, number, write};
use crate::{ContainerStats, Resources};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, Default)]
pub(super) struct Hierarchies {
    /// (mount point, its controllers).
    mounts: Vec<(PathBuf, Vec<String>)>,
    /// Hybrid: a v2 tree without controllers; it has `cgroup.kill` and takes BPF programs.
    pub(super) unified: Option<PathBuf>,
    /// systemd's own hierarchy, by which it kills a service.
    pub(super) systemd: Option<PathBuf>,
}

const KNOWN: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids", "hugetlb"];

impl Hierarchies {
    pub(super) fn add(&mut self, target: &Path, options: &str) {
        let controllers: Vec<String> =
            options.split(',').filter(|o| KNOWN.contains(o)).map(String::from).collect();
        if !controllers.is_empty() && !self.mounts.iter().any(|(_, c)| *c == controllers) {
            self.mounts.push((target.to_path_buf(), controllers));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }

    pub(super) fn bases(&self) -> Vec<&Path> {
        let mounts = self.mounts.iter().map(|(path, _)| path.as_path());
        mounts.chain(self.unified.as_deref()).chain(self.systemd.as_deref()).collect()
    }

    /// The hierarchies a group must exist in: those that count or limit always, the others when asked.
    fn needed(&self, r: &Resources) -> Vec<&Path> {
        let wanted = |controller: &str| match controller {
            "cpu" | "cpuacct" | "memory" | "pids" => true,
            "cpuset" => !r.cpuset_cpus.is_empty() || !r.cpuset_mems.is_empty(),
            "hugetlb" => !r.hugepage_limits.is_empty(),
            _ => false,
        };
        let fits = |(_, controllers): &&(PathBuf, Vec<String>)| controllers.iter().any(|c| wanted(c));
        self.mounts.iter().filter(fits).map(|(path, _)| path.as_path()).collect()
    }

    /// Files that take "0" for a single-threaded process joining by itself: `tasks`, since a move through
    /// `cgroup.procs` takes a machine-wide lock and waits for an RCU grace period in every hierarchy.
    pub(super) fn joins(&self, at: impl Fn(&Path) -> PathBuf, r: &Resources) -> Vec<PathBuf> {
        self.needed(r).into_iter().map(|base| at(base).join("tasks")).collect()
    }

    pub(super) fn base(&self, controller: &str) -> Option<&Path> {
        self.mounts.iter().find(|(_, c)| c.iter().any(|c| c == controller)).map(|(p, _)| p.as_path())
    }

    pub(super) fn views(&self) -> Vec<(String, String)> {
        self.mounts
            .iter()
            .filter_map(|(path, c)| Some((path.file_name()?.to_string_lossy().into_owned(), c.join(","))))
            .collect()
    }

    pub(super) fn create(&self, relative: &str, r: &Resources) -> io::Result<()> {
        self.create_in(&self.needed(r), relative)
    }

    pub(super) fn create_in(&self, bases: &[&Path], relative: &str) -> io::Result<()> {
        for base in bases.iter().copied() {
            if base.join(relative).is_dir() {
                continue;
            }
            let is_cpuset = self.base("cpuset") == Some(base);
            let mut dir = base.to_path_buf();
            for part in relative.split('/').filter(|p| !p.is_empty()) {
                let parent = dir.clone();
                dir.push(part);
                match std::fs::create_dir(&dir) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(e) => return Err(io::Error::new(e.kind(), format!("mkdir {}: {e}", dir.display()))),
                    Ok(()) => {}
                }
                if is_cpuset {
                    inherit_cpuset(&parent, &dir)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn apply(&self, at: impl Fn(&Path) -> PathBuf, r: &Resources) -> io::Result<()> {
        if let Some(dir) = self.base("cpu").map(&at) {
            if r.cpu_shares > 0 {
                write(&dir, "cpu.shares", r.cpu_shares)?;
            }
            if r.cpu_period_us > 0 {
                write(&dir, "cpu.cfs_period_us", r.cpu_period_us)?;
            }
            if r.cpu_quota_us != 0 {
                write(&dir, "cpu.cfs_quota_us", r.cpu_quota_us.max(-1))?;
            }
        }
        if let Some(dir) = self.base("memory").map(&at)
            && r.memory_limit_bytes != 0
        {
            let limit = r.memory_limit_bytes.max(-1);
            // memory <= memory+swap at every moment: up from above, down from below. The latter file is absent
            // without swap accounting.
            let swap = || write(&dir, "memory.memsw.limit_in_bytes", limit);
            if write(&dir, "memory.limit_in_bytes", limit).is_err() {
                let _ = swap();
                write(&dir, "memory.limit_in_bytes", limit)?;
            }
            let _ = swap();
        }
        if let Some(dir) = self.base("pids").map(&at)
            && r.pids_limit != 0
        {
            let limit = if r.pids_limit < 0 { "max".to_string() } else { r.pids_limit.to_string() };
            write(&dir, "pids.max", limit)?;
        }
        if let Some(base) = self.base("cpuset")
            && !(r.cpuset_cpus.is_empty() && r.cpuset_mems.is_empty())
        {
            let dir = at(base);
            self.adopt(&at, base, &dir)?;
            if !r.cpuset_cpus.is_empty() {
                write(&dir, "cpuset.cpus", &r.cpuset_cpus)?;
            }
            if !r.cpuset_mems.is_empty() {
                write(&dir, "cpuset.mems", &r.cpuset_mems)?;
            }
        }
        if let Some(dir) = self.base("hugetlb").map(&at) {
            for (size, limit) in &r.hugepage_limits {
                write(&dir, &format!("hugetlb.{size}.limit_in_bytes"), limit)?;
            }
        }
        Ok(())
    }

    pub(super) fn restrict_devices(&self, dir: &Path, rules: &[Rule]) -> io::Result<()> {
        write(dir, "devices.deny", "a")?;
        for rule in rules {
            write(dir, "devices.allow", rule)?;
        }
        Ok(())
    }

    pub(super) fn stats(&self, at: impl Fn(&Path) -> PathBuf) -> ContainerStats {
        let mut stats = ContainerStats::default();
        if let Some(dir) = self.base("cpuacct").map(&at) {
            stats.cpu_usage_ns = number(dir.join("cpuacct.usage"));
        }
        if let Some(dir) = self.base("memory").map(&at) {
            stats.memory_usage_bytes = number(dir.join("memory.usage_in_bytes"));
            let detail = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
            stats.memory_rss_bytes = field(&detail, "total_rss");
            stats.memory_working_set_bytes =
                stats.memory_usage_bytes.saturating_sub(field(&detail, "total_inactive_file"));
        }
        if let Some(dir) = self.base("pids").map(&at) {
            stats.pids = number(dir.join("pids.current"));
        }
        stats
    }
}

impl Hierarchies {
    /// Makes a group in a hierarchy the container did without until now, and moves it there.
    fn adopt(&self, at: &impl Fn(&Path) -> PathBuf, base: &Path, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let relative = dir.strip_prefix(base).map_err(io::Error::other)?;
        self.create_in(&[base], &relative.to_string_lossy())?;
        let Some(known) = self.base("memory").map(at) else { return Ok(()) };
        for pid in std::fs::read_to_string(known.join("cgroup.procs")).unwrap_or_default().lines() {
            // One that has ended meanwhile cannot be moved.
            let _ = std::fs::write(dir.join("cgroup.procs"), pid);
        }
        Ok(())
    }
}

/// A new cpuset group is empty and admits nobody until it has cpus and mems.
fn inherit_cpuset(parent: &Path, dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if std::fs::read_to_string(dir.join(file))?.trim().is_empty() {
            write(dir, file, std::fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    Ok(())
}
