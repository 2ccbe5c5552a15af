//! The container's root: overlay, pivot, and the file systems the kernel provides.

use super::{Context, Failure, Step};
use crate::sys;
use crate::wire::{LaunchSpec, PidMode};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_bind_recursive,
    mount_change, mount_remount, move_mount, unmount,
};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Mounts the root (visible in this mount namespace only) and makes it `/`.
pub(super) fn enter(spec: &LaunchSpec) -> Step<()> {
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .doing("make mounts private")?;
    let rootfs = format!("{}/rootfs", spec.dir);
    mount_overlay(spec, &rootfs)?;
    std::env::set_current_dir(&rootfs).doing("enter rootfs")?;
    rustix::process::pivot_root(".", ".").doing("pivot_root")?;
    // The old root lies on top of ours now; below it nothing of the host remains reachable.
    unmount(".", UnmountFlags::DETACH).doing("detach the host's root")?;
    std::env::set_current_dir("/").doing("enter /")
}

fn mount_overlay(spec: &LaunchSpec, rootfs: &str) -> Step<()> {
    // Relative names keep the option below one page even with 127 layers, and free of `:` and `,`.
    std::env::set_current_dir(&spec.layers_dir).doing(format_args!("open {}", spec.layers_dir))?;
    let data = format!(
        "lowerdir={},upperdir={dir}/upper,workdir={dir}/work",
        spec.lowers.join(":"),
        dir = spec.dir.replace('\\', "\\\\").replace(',', "\\,")
    );
    let data = std::ffi::CString::new(data).map_err(|_| Failure("rootfs path contains NUL".into()))?;
    match mount("overlay", rootfs, "overlay", MountFlags::empty(), data.as_c_str()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NODEV) => Err(Failure(
            "mount overlay rootfs: this kernel has no overlay file system; load the overlay module".into(),
        )),
        Err(rustix::io::Errno::INVAL) => Err(Failure(format!(
            "mount overlay rootfs: the kernel refuses {} as upper layer; keep the data folder on ext4, xfs or btrfs, \
             not on another overlay",
            spec.dir
        ))),
        Err(e) => Err(e).doing("mount overlay rootfs"),
    }
}

pub(super) fn directory(path: &str) -> Step<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Failure(format!("{path} must be mounted on ordinary directory"))),
        Err(_) => std::fs::create_dir_all(path).doing(format_args!("mkdir {path}")),
    }
}

fn system(kind: &str, target: &str, flags: MountFlags, data: &str) -> Step<()> {
    directory(target)?;
    let data = std::ffi::CString::new(data).unwrap_or_default();
    mount(kind, target, kind, flags, data.as_c_str()).doing(format_args!("mount {kind} to {target}"))
}

pub(super) fn mount_system(spec: &LaunchSpec, shm: Option<OwnedFd>) -> Step<()> {
    let closed = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    match spec.pid_mode {
        // A fresh procfs shows the namespace this process was born into, which is right for every mode.
        PidMode::Own | PidMode::Sandbox | PidMode::Host => system("proc", "/proc", closed, "")?,
    }
    system("tmpfs", "/dev", MountFlags::NOSUID | MountFlags::STRICTATIME, "mode=755,size=65536k")?;
    system(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    directory("/dev/shm")?;
    match shm {
        Some(tree) => {
            move_mount(&tree, "", rustix::fs::CWD, "/dev/shm", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .doing("mount shm to /dev/shm")?;
            private("/dev/shm")?;
        }
        None => system("tmpfs", "/dev/shm", closed, "mode=1777,size=65536k")?,
    }
    // Absent without CONFIG_POSIX_MQUEUE.
    let _ = system("mqueue", "/dev/mqueue", closed, "");
    let sys_flags = if spec.privileged { closed } else { closed | MountFlags::RDONLY };
    system("sysfs", "/sys", sys_flags, "")?;
    cgroups(spec, sys_flags)
}

fn cgroups(spec: &LaunchSpec, flags: MountFlags) -> Step<()> {
    let root = "/sys/fs/cgroup";
    if !Path::new(root).is_dir() || spec.cgroup.views.is_empty() {
        return Ok(());
    }
    if let [(folder, data)] = spec.cgroup.views.as_slice()
        && folder.is_empty()
        && data.is_empty()
    {
        return system("cgroup2", root, flags, "");
    }
    system("tmpfs", root, flags - MountFlags::RDONLY, "mode=755")?;
    for (folder, data) in &spec.cgroup.views {
        let target = format!("{root}/{folder}");
        system(if data.is_empty() { "cgroup2" } else { "cgroup" }, &target, flags, data)?;
    }
    if flags.contains(MountFlags::RDONLY) {
        mount_remount(root, MountFlags::BIND | flags, "").doing(format_args!("remount {root} read-only"))?;
    }
    Ok(())
}

pub(super) fn private(path: &str) -> Step<()> {
    mount_change(path, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing(format_args!("make {path} private"))
}

/// Masked and read-only paths, then the root itself if it is to be read-only.
pub(super) fn seal(spec: &LaunchSpec) -> Step<()> {
    for path in &spec.readonly_paths {
        match mount_bind_recursive(path, path) {
            Err(rustix::io::Errno::NOENT) => continue,
            other => other.doing(format_args!("bind {path}"))?,
        }
        let flags = MountFlags::BIND | MountFlags::RDONLY | inherited_flags(path);
        mount_remount(path, flags, "").doing(format_args!("make {path} read-only"))?;
    }
    for path in &spec.masked_paths {
        let result = match std::fs::metadata(path) {
            Err(_) => continue,
            Ok(meta) if meta.is_dir() => {
                mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, c"size=0k,nr_inodes=2")
            }
            Ok(_) => rustix::mount::mount_bind("/dev/null", path),
        };
        result.doing(format_args!("mask {path}"))?;
    }
    if spec.readonly_rootfs {
        mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, "").doing("make rootfs read-only")?;
    }
    sys::umask(spec.process.umask);
    Ok(())
}

/// The per-mount flags a remount must repeat so as not to drop them.
pub(super) fn inherited_flags(path: &str) -> MountFlags {
    use rustix::fs::StatVfsMountFlags as S;
    let Ok(stat) = rustix::fs::statvfs(path) else { return MountFlags::empty() };
    let mut flags = MountFlags::empty();
    for (seen, flag) in [
        (S::NOSUID, MountFlags::NOSUID),
        (S::NODEV, MountFlags::NODEV),
        (S::NOEXEC, MountFlags::NOEXEC),
        (S::NOATIME, MountFlags::NOATIME),
        (S::NODIRATIME, MountFlags::NODIRATIME),
        (S::RELATIME, MountFlags::RELATIME),
    ] {
        if stat.f_flag.contains(seen) {
            flags |= flag;
        }
    }
    flags
}
