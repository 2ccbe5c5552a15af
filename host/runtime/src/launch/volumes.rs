//! Bind mounts. Sources are opened as detached trees while the host's paths are still visible and moved into
//! place after the pivot, when no symlink of the image can lead outside.

use super::rootfs::{inherited_flags, private};
use super::{Context, Failure, Step};
use crate::{Mount, sys};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, mount_remount,
    move_mount, open_tree,
};
use std::os::fd::OwnedFd;
use std::path::Path;

pub(super) struct Tree {
    fd: OwnedFd,
    is_dir: bool,
}

fn clone_tree(path: &str) -> Result<OwnedFd, rustix::io::Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(rustix::fs::CWD, path, flags)
}

pub(super) fn open_all(mounts: &[Mount]) -> Step<Vec<Tree>> {
    mounts
        .iter()
        .map(|m| {
            let meta = match std::fs::metadata(&m.host_path) {
                // Docker's habit, kept by CRI runtimes: a missing source becomes a folder.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(&m.host_path).and_then(|()| std::fs::metadata(&m.host_path))
                }
                other => other,
            }
            .doing(format_args!(
                "error mounting {:?} to rootfs at {:?}: stat",
                m.host_path, m.container_path
            ))?;
            let fd = clone_tree(&m.host_path).doing(format_args!(
                "error mounting {:?} to rootfs at {:?}: open_tree",
                m.host_path, m.container_path
            ))?;
            Ok(Tree { fd, is_dir: meta.is_dir() })
        })
        .collect()
}

pub(super) fn open_shm(path: &str) -> Step<Option<OwnedFd>> {
    if path.is_empty() {
        return Ok(None);
    }
    clone_tree(path).doing("open the sandbox's shm").map(Some)
}

pub(super) fn attach_all(mounts: &[Mount], trees: Vec<Tree>) -> Step<()> {
    for (m, tree) in mounts.iter().zip(trees) {
        attach(m, &tree).map_err(|Failure(why)| {
            Failure(format!("error mounting {:?} to rootfs at {:?}: {why}", m.host_path, m.container_path))
        })?;
    }
    Ok(())
}

fn attach(m: &Mount, tree: &Tree) -> Step<()> {
    let target = format!("/{}", m.container_path.trim_start_matches('/'));
    if tree.is_dir {
        std::fs::create_dir_all(&target).doing(format_args!("create mountpoint {target}"))?;
    } else if !Path::new(&target).exists() {
        if let Some(parent) = Path::new(&target).parent() {
            std::fs::create_dir_all(parent).doing(format_args!("create parent of {target}"))?;
        }
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&target)
            .doing(format_args!("create mountpoint {target}"))?;
    } else if Path::new(&target).is_dir() {
        return Err(Failure(
            "not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if the \
             specified host path exists and is the expected type"
                .into(),
        ));
    }
    move_mount(&tree.fd, "", rustix::fs::CWD, target.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing("mount")?;
    match m.propagation.as_str() {
        "rslave" => {
            mount_change(target.as_str(), MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
                .doing("make it a slave")?
        }
        "rshared" => {
            mount_change(target.as_str(), MountPropagationFlags::SHARED | MountPropagationFlags::REC)
                .doing("make it shared")?
        }
        _ => private(&target)?,
    }
    if m.recursive_readonly {
        let attr =
            sys::MountAttr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
        sys::mount_setattr(Path::new(&target), true, &attr).doing("make it recursively read-only")?;
    } else if m.readonly {
        let flags = MountFlags::BIND | MountFlags::RDONLY | inherited_flags(&target);
        mount_remount(target.as_str(), flags, "").doing("make it read-only")?;
    }
    Ok(())
}
