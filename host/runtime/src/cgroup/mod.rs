//! Control groups of every layout: v1, v1 with a bare unified tree (hybrid), and v2.
//!
//! Everything this cluster makes lies below one folder per hierarchy, so that [`Cgroups::remove_all`] leaves
//! nothing. Paths given to these functions are relative to that folder. All calls are blocking but short.

mod devices;
mod v1;
mod v2;

use crate::{ContainerStats, Device, Resources};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Supervisors sit beside the pods, so that a pod's memory limit does not hit its supervisor.
const SUPERVISORS: &str = "supervisors";
/// The shared devices group of containers without devices of their own.
const PLAIN_DEVICES: &str = "plain-devices";

pub(crate) struct Cgroups {
    layout: Layout,
    root: String,
}

#[derive(Debug)]
enum Layout {
    V1(v1::Hierarchies),
    V2(PathBuf),
}

impl Cgroups {
    /// `root` is unique to this cluster; it may have several segments.
    pub(crate) fn detect(root: &str) -> io::Result<Cgroups> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let root = root.trim_matches('/').to_string();
        if root.is_empty() || root.split('/').any(|part| part == "..") {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "cgroup root must be a plain folder name",
            ));
        }
        let layout = layout(&mounts).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted at /sys/fs/cgroup")
        })?;
        Ok(Cgroups { layout, root })
    }

    pub(crate) fn version(&self) -> &'static str {
        match &self.layout {
            Layout::V1(h) if h.unified.is_some() => "hybrid",
            Layout::V1(_) => "v1",
            Layout::V2(_) => "v2",
        }
    }

    fn path(&self, base: &Path, path: &str) -> PathBuf {
        base.join(&self.root).join(path.trim_matches('/'))
    }

    fn bases(&self) -> Vec<&Path> {
        match &self.layout {
            Layout::V1(h) => h.bases(),
            Layout::V2(base) => vec![base],
        }
    }

    /// Makes the group and its parents, fit for such limits. Idempotent.
    pub(crate) fn create(&self, path: &str, resources: &Resources) -> io::Result<()> {
        let relative = format!("{}/{}", self.root, path.trim_matches('/'));
        match &self.layout {
            Layout::V1(h) => h.create(&relative, resources),
            Layout::V2(base) => v2::create(base, &relative),
        }
    }

    /// Makes the supervisors' group and tells how to join it: out of the agent's own groups, wherever a service
    /// manager would kill or count by them.
    pub(crate) fn supervisors(&self) -> io::Result<Vec<String>> {
        let relative = format!("{}/{SUPERVISORS}", self.root);
        let h = match &self.layout {
            Layout::V2(base) => {
                v2::create(base, &relative)?;
                return Ok(strings(vec![base.join(relative).join("cgroup.procs")]));
            }
            Layout::V1(h) => h,
        };
        let mut bases: Vec<&Path> = h.base("memory").into_iter().collect();
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        for (key, base) in [("0::", &h.unified), ("name=systemd:", &h.systemd)] {
            let elsewhere = own.lines().any(|l| l.split_once(key).is_some_and(|(_, path)| path != "/"));
            bases.extend(base.as_deref().filter(|_| elsewhere));
        }
        h.create_in(&bases, &relative)?;
        let file = |base: &Path| {
            let v2 = h.unified.as_deref() == Some(base);
            base.join(&relative).join(if v2 { "cgroup.procs" } else { "tasks" })
        };
        Ok(strings(bases.into_iter().map(file).collect()))
    }

    /// Zero and empty values mean: leave as it is; a negative limit lifts it.
    pub(crate) fn apply(&self, path: &str, resources: &Resources) -> io::Result<()> {
        match &self.layout {
            Layout::V1(h) => h.apply(|base| self.path(base, path), resources),
            Layout::V2(base) => v2::apply(&self.path(base, path), resources),
        }
    }

    /// Restricts a container to the standard devices and its own. Gives what it joins for that.
    pub(crate) fn restrict_devices(&self, path: &str, own: &[Device]) -> io::Result<Option<String>> {
        let rules = devices::rules(own);
        let h = match &self.layout {
            Layout::V2(base) => {
                return devices::attach_program(&self.path(base, path), &rules).map(|()| None);
            }
            Layout::V1(h) => h,
        };
        let Some(base) = h.base("devices") else { return Ok(None) };
        // Those without devices of their own share one group: nothing to make, nothing to write.
        let path = if own.is_empty() { PLAIN_DEVICES } else { path };
        let dir = self.path(base, path);
        if !own.is_empty() || !dir.is_dir() {
            h.create_in(&[base], &format!("{}/{}", self.root, path.trim_matches('/')))?;
            h.restrict_devices(&dir, &rules)?;
        }
        Ok(strings(vec![dir.join("tasks")]).pop())
    }

    /// On v2 an OOM kill ends the whole container, as the kubelet asks for.
    pub(crate) fn kill_together_on_oom(&self, path: &str) {
        if let Layout::V2(base) = &self.layout {
            let _ = std::fs::write(self.path(base, path).join("memory.oom.group"), "1");
        }
    }

    /// Files a single-threaded process writes "0" to in order to join a group made for such limits.
    pub(crate) fn joins(&self, path: &str, resources: &Resources) -> Vec<String> {
        strings(match &self.layout {
            Layout::V1(h) => h.joins(|base| self.path(base, path), resources),
            Layout::V2(base) => vec![self.path(base, path).join("cgroup.procs")],
        })
    }

    /// File whose `oom_kill` line counts the killed.
    pub(crate) fn oom_file(&self, path: &str) -> String {
        let file = match &self.layout {
            Layout::V1(h) => h.base("memory").map(|base| self.path(base, path).join("memory.oom_control")),
            Layout::V2(base) => Some(self.path(base, path).join("memory.events")),
        };
        file.map(|f| f.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// What a container mounts at /sys/fs/cgroup: (folder, mount data).
    pub(crate) fn views(&self) -> Vec<(String, String)> {
        match &self.layout {
            Layout::V1(h) => h.views(),
            Layout::V2(_) => vec![(String::new(), String::new())],
        }
    }

    pub(crate) fn stats(&self, path: &str) -> ContainerStats {
        match &self.layout {
            Layout::V1(h) => h.stats(|base| self.path(base, path)),
            Layout::V2(base) => v2::stats(&self.path(base, path)),
        }
    }

    /// Kills every process in the group and below.
    pub(crate) fn kill(&self, path: &str) {
        if let Layout::V2(base) = &self.layout
            && std::fs::write(self.path(base, path).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for base in self.bases() {
            kill_tree(&self.path(base, path));
        }
    }

    /// Kills what is in it and removes the group with everything below. Waits up to two seconds for the kernel.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        self.remove_paths(self.bases().into_iter().map(|base| self.path(base, path)).collect())
    }

    /// Removes the group unless it has children or processes.
    pub(crate) fn remove_if_empty(&self, path: &str) {
        for base in self.bases() {
            let _ = std::fs::remove_dir(self.path(base, path));
        }
    }

    pub(crate) fn remove_all(&self) -> io::Result<()> {
        self.remove_paths(self.bases().into_iter().map(|base| base.join(&self.root)).collect())
    }

    fn remove_paths(&self, paths: Vec<PathBuf>) -> io::Result<()> {
        let mut result = Ok(());
        for attempt in 0..100 {
            result = paths.iter().try_for_each(|path| remove_tree(path));
            if result.is_ok() {
                break;
            }
            if attempt % 10 == 0 {
                paths.iter().for_each(|path| kill_tree(path));
            }
            std::thread::sleep(Duration::from_millis(if attempt < 20 { 2 } else { 25 }));
        }
        result
    }
}

fn strings(paths: Vec<PathBuf>) -> Vec<String> {
    paths.into_iter().map(|p| p.to_string_lossy().into_owned()).collect()
}

fn layout(mountinfo: &str) -> Option<Layout> {
    let mut v1 = v1::Hierarchies::default();
    let mut unified = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(target), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        match right.next() {
            Some("cgroup2") if unified.is_none() => unified = Some(PathBuf::from(target)),
            Some("cgroup") => {
                let options = right.nth(1).unwrap_or_default();
                if options.split(',').any(|o| o == "name=systemd") {
                    v1.systemd = Some(PathBuf::from(target));
                }
                v1.add(Path::new(target), options);
            }
            _ => {}
        }
    }
    if v1.is_empty() {
        return unified.map(Layout::V2);
    }
    v1.unified = unified;
    Some(Layout::V1(v1))
}

fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn kill_tree(path: &Path) {
    children(path).iter().for_each(|child| kill_tree(child));
    let Ok(pids) = std::fs::read_to_string(path.join("cgroup.procs")) else { return };
    for pid in pids.lines().filter_map(|l| l.parse().ok()) {
        let _ = crate::sys::kill(pid, libc::SIGKILL);
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    children(path).iter().try_for_each(|child| remove_tree(child))?;
    match std::fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn number(path: PathBuf) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

/// The value after `key ` in a file of such lines.
fn field(text: &str, key: &str) -> u64 {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or_default()
}

fn write(dir: &Path, file: &str, value: impl ToString) -> io::Result<()> {
    let path = dir.join(file);
    std::fs::write(&path, value.to_string()).map_err(|e| {
        io::Error::new(e.kind(), format!("write {:?} to {}: {e}", value.to_string(), path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert!(matches!(layout(v2), Some(Layout::V2(p)) if p == Path::new("/sys/fs/cgroup")));
        let v1 = "31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                  33 24 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let Some(Layout::V1(h)) = layout(v1) else { panic!("not v1") };
        assert_eq!(h.bases().len(), 3);
        assert_eq!(h.base("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert!(h.unified.is_none());
        let Some(Layout::V1(h)) = layout(&format!("{v1}{}", v2.replace("cgroup rw", "cgroup/unified rw")))
        else {
            panic!("not hybrid")
        };
        assert_eq!(h.bases().len(), 4);
        assert!(layout("").is_none());
    }

    #[test]
    fn fields() {
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
    }
}
