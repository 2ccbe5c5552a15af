//! What a cluster leaves in the kernel: links, addresses, routes, mounts, cgroups, processes, runtime folders.

use crate::cluster::Cluster;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where the traces of one cluster are. It outlives the cluster's processes.
pub struct Traces {
    tag: String,
    data: String,
}

impl Traces {
    /// Of a cluster that has been started.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let data = cluster.data_dir().canonicalize()?.to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/run/ironclad").context("read /run/ironclad")? {
            let folder = entry?.path();
            let owner = std::fs::read_to_string(folder.join("data-dir")).unwrap_or_default();
            if owner.trim() == data {
                let tag = folder.file_name().context("a folder has a name")?.to_string_lossy().into_owned();
                return Ok(Self { tag, data });
            }
        }
        anyhow::bail!("no folder in /run/ironclad belongs to {data}")
    }

    /// Everything in the kernel and under `/run` now, one line each, without process ids: two calls can be compared.
    pub fn now(&self, cluster: &Cluster) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        // In a namespace of its own, everything but `lo` is the cluster's; on a shared machine, what bears its tag.
        let ours = |text: &str| text.contains(&format!("ic-{}", self.tag));
        found.extend(cluster.netns.links()?.into_iter().filter(|l| ours(l)).map(|l| format!("link {l}")));
        let addresses = cluster.netns.addresses()?;
        found.extend(addresses.into_iter().filter(|a| ours(a)).map(|a| format!("address {a}")));
        found.extend(cluster.netns.routes()?.into_iter().filter(|r| ours(r)).map(|r| format!("route {r}")));
        let run = format!("/run/ironclad/{}", self.tag);
        for line in std::fs::read_to_string("/proc/self/mountinfo")?.lines() {
            let target = line.split(' ').nth(4).unwrap_or_default();
            if target.starts_with(&format!("{}/", self.data)) || target.starts_with(&run) {
                found.insert(format!("mount {target}"));
            }
        }
        cgroups(Path::new("/sys/fs/cgroup"), &format!("ironclad-{}", self.tag), 3, &mut found);
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
            let groups = String::from_utf8_lossy(&read("cgroup")).into_owned();
            let words = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let state = String::from_utf8_lossy(&read("stat")).into_owned();
            let dead = state.rsplit(") ").next().is_some_and(|s| s.starts_with('Z'));
            let its = groups.contains(&format!("ironclad-{}", self.tag)) || words.contains(&run);
            if its && !dead && Some(pid) != cluster.pid() {
                found.insert(format!("process {}", words.trim()));
            }
        }
        if let Ok(entries) = std::fs::read_dir(Path::new(&run).join("sandboxes")) {
            found.extend(entries.flatten().map(|e| format!("sandbox {}", e.path().display())));
        }
        for folder in ["network", "node/pods", "node/logs", "runtime/containers", "runtime/sandboxes"] {
            if let Ok(entries) = std::fs::read_dir(Path::new(&self.data).join(folder)) {
                found.extend(entries.flatten().map(|e| format!("file {}", e.path().display())));
            }
        }
        Ok(found)
    }
}

fn cgroups(folder: &Path, name: &str, depth: u32, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let folders: Vec<PathBuf> =
        entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
    for path in folders {
        if path.to_string_lossy().contains(name) {
            found.insert(format!("cgroup {}", path.display()));
            cgroups(&path, name, 8, found);
        } else if depth > 0 {
            cgroups(&path, name, depth - 1, found);
        }
    }
}
