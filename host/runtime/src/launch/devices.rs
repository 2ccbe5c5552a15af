//! Device nodes in the container's own `/dev`.

use super::{Context, Step};
use crate::sys;
use crate::wire::LaunchSpec;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub(super) struct Node {
    path: PathBuf,
    mode: u32,
    device: u64,
    owner: (u32, u32),
}

const STANDARD: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// What the host has, looked up before the pivot.
pub(super) fn plan(spec: &LaunchSpec) -> Step<Vec<Node>> {
    let mut nodes: Vec<Node> = STANDARD
        .iter()
        .map(|(name, major, minor)| Node {
            path: Path::new("/dev").join(name),
            mode: libc::S_IFCHR | 0o666,
            device: libc::makedev(*major, *minor),
            owner: (0, 0),
        })
        .collect();
    if spec.privileged {
        walk(Path::new("/dev"), &mut nodes);
    }
    for device in &spec.devices {
        let target =
            if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
        let meta = std::fs::metadata(&device.host_path)
            .doing(format_args!("error gathering device information of {:?}", device.host_path))?;
        if meta.is_dir() {
            let mut found = Vec::new();
            walk(Path::new(&device.host_path), &mut found);
            nodes.extend(found.into_iter().filter_map(|mut node| {
                node.path = Path::new(target).join(node.path.strip_prefix(&device.host_path).ok()?);
                Some(node)
            }));
        } else {
            nodes.push(node(PathBuf::from(target), &meta));
        }
    }
    Ok(nodes)
}

fn node(path: PathBuf, meta: &std::fs::Metadata) -> Node {
    let kind = if meta.file_type().is_block_device() { libc::S_IFBLK } else { libc::S_IFCHR };
    Node { path, mode: kind | (meta.mode() & 0o7777), device: meta.rdev(), owner: (meta.uid(), meta.gid()) }
}

fn walk(dir: &Path, nodes: &mut Vec<Node>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        let name = entry.file_name();
        if meta.is_dir() {
            let special = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
            if !special.iter().any(|s| name == *s) {
                walk(&entry.path(), nodes);
            }
        } else if (meta.file_type().is_char_device() || meta.file_type().is_block_device())
            && name != "console"
            && name != "ptmx"
            && !STANDARD.iter().any(|(s, ..)| name == *s)
        {
            nodes.push(node(entry.path(), &meta));
        }
    }
}

pub(super) fn make(nodes: &[Node]) -> Step<()> {
    sys::umask(0);
    for node in nodes {
        if let Some(parent) = node.path.parent().filter(|p| !p.exists()) {
            std::fs::create_dir_all(parent).doing(format_args!("mkdir {}", parent.display()))?;
            let _ = std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755));
        }
        match sys::mknod(&node.path, node.mode, node.device) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.doing(format_args!("mknod {}", node.path.display()))?,
        }
        if node.owner != (0, 0) {
            let _ = std::os::unix::fs::chown(&node.path, Some(node.owner.0), Some(node.owner.1));
        }
    }
    sys::umask(0o022);
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        let _ = std::os::unix::fs::symlink(to, format!("/dev/{name}"));
    }
    Ok(())
}

/// The terminal on descriptor 0 becomes /dev/console too.
pub(super) fn bind_console() -> Step<()> {
    std::fs::File::create("/dev/console").doing("create /dev/console")?;
    let slave = std::fs::read_link("/proc/self/fd/0").doing("read the terminal's name")?;
    rustix::mount::mount_bind(&slave, "/dev/console").doing("bind /dev/console")
}
