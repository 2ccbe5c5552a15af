//! Volumes that are a place on this machine: emptyDir, hostPath, local persistent volumes; sub-paths within any.

use camino::{Utf8Path, Utf8PathBuf};
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

pub fn empty_dir(
    dir: &Utf8Path,
    source: &EmptyDirVolumeSource,
    fallback_limit: Option<i64>,
) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if source.medium.as_deref() == Some("Memory") && !is_mount(dir) {
        let limit = source.size_limit.as_ref().map(crate::quantity::value).filter(|n| *n > 0);
        tmpfs(dir, limit.or(fallback_limit))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))
}

/// Memory at `dir`, at most `limit` bytes of it. Nothing if something is mounted there already.
pub fn tmpfs(dir: &Utf8Path, limit: Option<i64>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if is_mount(dir) {
        return Ok(());
    }
    let options = limit.map_or_else(|| "mode=0755".to_owned(), |n| format!("mode=0755,size={n}"));
    let options = CString::new(options).map_err(io::Error::other)?;
    rustix::mount::mount("tmpfs", dir.as_std_path(), "tmpfs", MountFlags::empty(), Some(options.as_c_str()))?;
    Ok(())
}

pub fn unmount(dir: &Utf8Path) {
    if is_mount(dir)
        && let Err(error) = rustix::mount::unmount(dir.as_std_path(), UnmountFlags::DETACH)
    {
        tracing::warn!(%error, %dir, "volume not unmounted");
    }
}

pub fn is_mount(dir: &Utf8Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(here), Some(Ok(up))) = (fs::symlink_metadata(dir), dir.parent().map(fs::symlink_metadata)) else {
        return false;
    };
    here.dev() != up.dev()
}

pub fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Utf8Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let failed = |what: &str| Err(format!("hostPath type check failed: {path} is not {what}"));
    let meta = fs::metadata(path);
    let is = |f: fn(&fs::FileType) -> bool| meta.as_ref().is_ok_and(|m| f(&m.file_type()));
    let made = |r: io::Result<()>| r.map_err(|e| format!("cannot create {path}: {e}"));
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" => {
            if meta.is_err() {
                made(fs::create_dir_all(path))?;
                return made(fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
            }
            if is(fs::FileType::is_dir) { Ok(()) } else { failed("a directory") }
        }
        "FileOrCreate" => {
            if meta.is_err() {
                made(fs::File::options().create(true).append(true).open(path).map(drop))?;
                return made(fs::set_permissions(path, fs::Permissions::from_mode(0o644)));
            }
            if is(fs::FileType::is_file) { Ok(()) } else { failed("a file") }
        }
        "Directory" if is(fs::FileType::is_dir) => Ok(()),
        "Directory" => failed("a directory"),
        "File" if is(fs::FileType::is_file) => Ok(()),
        "File" => failed("a file"),
        "Socket" if is(FileTypeExt::is_socket) => Ok(()),
        "Socket" => failed("a socket file"),
        "CharDevice" if is(FileTypeExt::is_char_device) => Ok(()),
        "CharDevice" => failed("a character device"),
        "BlockDevice" if is(FileTypeExt::is_block_device) => Ok(()),
        "BlockDevice" => failed("a block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

/// The real path of `sub` in `root`, made as a folder if it is not there. Links cannot lead out of `root`.
pub fn sub_path(root: &Utf8Path, sub: &str) -> io::Result<Utf8PathBuf> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |base: std::os::fd::BorrowedFd<'_>, path: &str| {
        rustix::fs::openat2(base, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)
    };
    let top: OwnedFd = rustix::fs::openat(
        CWD,
        root.as_std_path(),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut at = String::new();
    let mut found: Option<OwnedFd> = None;
    for part in sub.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath must not contain \"..\""));
        }
        let parent = found.as_ref().map_or(top.as_fd(), AsFd::as_fd).try_clone_to_owned()?;
        if !at.is_empty() {
            at.push('/');
        }
        at.push_str(part);
        let next = match open(top.as_fd(), &at) {
            Err(rustix::io::Errno::NOENT) => {
                // An O_PATH descriptor is good enough for mkdirat.
                rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o750))?;
                let fd = open(top.as_fd(), &at)?;
                let own = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let mode = fs::metadata(root)?.permissions();
                fs::set_permissions(own, mode)?;
                fd
            }
            other => other?,
        };
        found = Some(next);
    }
    let fd = found.unwrap_or(top);
    let real = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Utf8PathBuf::from_path_buf(real).map_err(|p| io::Error::other(format!("{} is not UTF-8", p.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().expect("dir");
        let root = Utf8PathBuf::from_path_buf(dir.path().canonicalize().expect("real")).expect("utf8");
        assert_eq!(sub_path(&root, "a/b").expect("made"), root.join("a/b"));
        assert!(root.join("a/b").is_dir());
        std::os::unix::fs::symlink("/etc", root.join("out")).expect("link");
        assert!(sub_path(&root, "out").is_err());
        assert!(sub_path(&root, "out/passwd").is_err());
        assert!(sub_path(&root, "a/../../x").is_err());
        std::os::unix::fs::symlink("a", root.join("in")).expect("link");
        assert_eq!(sub_path(&root, "in/b").expect("inside"), root.join("a/b"));
    }

    #[test]
    fn host_path_types() {
        let dir = tempfile::tempdir().expect("dir");
        let p = |n: &str, t: &str| HostPathVolumeSource {
            path: dir.path().join(n).to_str().expect("utf8").to_owned(),
            type_: Some(t.into()),
        };
        assert!(host_path(&p("x", "DirectoryOrCreate")).is_ok());
        assert!(host_path(&p("x", "Directory")).is_ok());
        assert!(host_path(&p("x", "File")).expect_err("a folder").contains("is not a file"));
        assert!(host_path(&p("f", "FileOrCreate")).is_ok());
        assert!(host_path(&p("none", "")).is_ok());
        assert!(host_path(&p("none", "Socket")).is_err());
    }
}
