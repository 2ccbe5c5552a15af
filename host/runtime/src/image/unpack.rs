//! One layer's tar stream to a folder overlayfs can use as a lower layer.
//!
//! Every name is resolved inside the layer's folder by the kernel (`openat2` with `RESOLVE_IN_ROOT`), so no
//! entry, link or symlink of a hostile archive reaches beyond it. Whiteouts become what overlayfs expects:
//! 0/0 character devices and the `trusted.overlay.opaque` attribute.

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use tar::{Archive, EntryType};

struct Layer {
    root: OwnedFd,
    parent: Option<(PathBuf, OwnedFd)>,
    folder_times: Vec<(PathBuf, Timestamps)>,
}

struct Meta {
    uid: u32,
    gid: u32,
    mode: u32,
    times: Timestamps,
    xattrs: Vec<(String, Vec<u8>)>,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// `None` is the root itself.
fn clean(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                return Err(invalid(format!("entry {} escapes the layer", path.display())));
            }
        }
    }
    Ok(if clean.as_os_str().is_empty() { None } else { Some(clean) })
}

/// Fills `folder`, which exists and is empty.
pub(super) fn unpack(stream: impl Read, folder: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    let mut layer = Layer { root, parent: None, folder_times: Vec::new() };
    let mut archive = Archive::new(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        layer
            .entry(&mut entry, &path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    for (path, times) in layer.folder_times.iter().rev() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(fd) = rustix::fs::openat2(&layer.root, path, flags, Mode::empty(), resolve) {
            let _ = rustix::fs::futimens(&fd, times);
        }
    }
    Ok(())
}

impl Layer {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader | EntryType::GNULongName) {
            return Ok(());
        }
        let meta = meta(entry)?;
        let Some(path) = clean(path)? else {
            let dot = rustix::fs::openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            return dress(dot.as_fd(), &meta);
        };
        let name = path.file_name().unwrap_or_default().to_owned();
        let name = name.as_os_str();
        let parent = self.folder(path.parent().unwrap_or(Path::new("")))?;
        let parent = parent.as_fd();
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return whiteout(parent, hidden);
        }
        make_way(parent, name, kind == EntryType::Directory)?;
        match kind {
            EntryType::Directory => {
                match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                    Err(Errno::EXIST) => {}
                    other => other?,
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                dress(fd.as_fd(), &meta)?;
                self.folder_times.push((path, meta.times));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
                let mut file = std::fs::File::from(fd);
                io::copy(entry, &mut file)?;
                dress(file.as_fd(), &meta)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid("symlink without a target"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), parent, name)?;
                owner(parent, name, &meta)?;
                let _ = rustix::fs::utimensat(parent, name, &meta.times, AtFlags::SYMLINK_NOFOLLOW);
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| invalid("hard link without a target"))?;
                let target = clean(&target)?.ok_or_else(|| invalid("hard link to the root"))?;
                let folder = self.folder(target.parent().unwrap_or(Path::new("")))?;
                // `parent` may have been replaced in the cache but is still open: it was duplicated.
                rustix::fs::linkat(
                    &folder,
                    target.file_name().unwrap_or_default(),
                    parent,
                    name,
                    AtFlags::empty(),
                )?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let header = entry.header();
                let (major, minor) =
                    (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
                let file_type = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = if kind == EntryType::Fifo { 0 } else { rustix::fs::makedev(major, minor) };
                rustix::fs::mknodat(parent, name, file_type, Mode::from_raw_mode(meta.mode & 0o777), device)?;
                owner(parent, name, &meta)?;
                rustix::fs::chmodat(parent, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
            }
            other => return Err(invalid(format!("unknown tar entry type {:?}", other.as_byte() as char))),
        }
        Ok(())
    }

    /// The folder, made if it is missing. A descriptor of the caller's own.
    fn folder(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if path.as_os_str().is_empty() {
            return Ok(rustix::io::fcntl_dupfd_cloexec(&self.root, 3)?);
        }
        if let Some((_, fd)) = self.parent.as_ref().filter(|(p, _)| p == path) {
            return Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
        }
        let fd = match self.open(path) {
            Err(Errno::NOENT) => self.make(path)?,
            other => other?,
        };
        let copy = rustix::io::fcntl_dupfd_cloexec(&fd, 3)?;
        self.parent = Some((path.to_path_buf(), copy));
        Ok(fd)
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    fn make(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut so_far = PathBuf::new();
        let mut fd = rustix::io::fcntl_dupfd_cloexec(&self.root, 3)?;
        for part in path.components() {
            so_far.push(part);
            fd = match self.open(&so_far) {
                Err(Errno::NOENT) => {
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(&fd, part.as_os_str(), mode)?;
                    self.open(&so_far)?
                }
                other => other?,
            };
        }
        Ok(fd)
    }
}

fn meta<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Meta> {
    let mut xattrs = Vec::new();
    let mut ids = [None, None];
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions.flatten() {
            let Ok(key) = extension.key() else { continue };
            let number = || extension.value().ok().and_then(|v| v.parse::<u32>().ok());
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                xattrs.push((name.to_string(), extension.value_bytes().to_vec()));
            } else if key == "uid" {
                ids[0] = number();
            } else if key == "gid" {
                ids[1] = number();
            }
        }
    }
    // Empty numeric fields read as zero, as other unpackers take them.
    let header = entry.header();
    let time = Timespec { tv_sec: header.mtime().unwrap_or(0) as i64, tv_nsec: 0 };
    Ok(Meta {
        uid: ids[0].unwrap_or(header.uid().unwrap_or(0) as u32),
        gid: ids[1].unwrap_or(header.gid().unwrap_or(0) as u32),
        mode: header.mode()? & 0o7777,
        times: Timestamps { last_access: time, last_modification: time },
        xattrs,
    })
}

/// Owner first: changing it clears setuid bits and file capabilities.
fn dress(fd: BorrowedFd<'_>, meta: &Meta) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode))?;
    for (name, value) in &meta.xattrs {
        // Overlay's own attributes in an archive would change how layers stack.
        if name.starts_with("trusted.overlay.") {
            continue;
        }
        match rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let _ = rustix::fs::futimens(fd, &meta.times);
    Ok(())
}

fn owner(parent: BorrowedFd<'_>, name: &OsStr, meta: &Meta) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    Ok(rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn whiteout(parent: BorrowedFd<'_>, hidden: &[u8]) -> io::Result<()> {
    if hidden == b".wh..opq" {
        let dir = rustix::fs::openat(parent, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        return Ok(rustix::fs::fsetxattr(&dir, "trusted.overlay.opaque", b"y", XattrFlags::empty())?);
    }
    if hidden.starts_with(b".wh.") || hidden.is_empty() {
        return Ok(());
    }
    let name = OsStr::from_bytes(hidden);
    // An entry of this very layer is newer than what the whiteout hides.
    match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A later entry replaces an earlier one of the same name, except a folder a folder.
fn make_way(parent: BorrowedFd<'_>, name: &OsStr, is_folder: bool) -> io::Result<()> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?);
    }
    if is_folder {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    empty(&dir)?;
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn empty(dir: &OwnedFd) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let name = OsStr::from_bytes(name.to_bytes());
        make_way(dir.as_fd(), name, false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: EntryType, body: &[u8], link: Option<&str>) {
        let mut header = tar::Header::new_gnu();
        // Written raw: the builder refuses the hostile names that this is about.
        let name = path.as_bytes();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000);
        header.set_size(body.len() as u64);
        if let Some(link) = link {
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        tar.append(&header, body).unwrap();
    }

    #[test]
    fn forms_and_ownership() {
        if !is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, "./", EntryType::Directory, b"", None);
        add(&mut tar, "bin/tool", EntryType::Regular, b"#!", None);
        add(&mut tar, "bin/hard", EntryType::Link, b"", Some("bin/tool"));
        add(&mut tar, "etc/.wh.gone", EntryType::Regular, b"", None);
        add(&mut tar, "opt/.wh..wh..opq", EntryType::Regular, b"", None);
        add(&mut tar, "etc/x", EntryType::Regular, b"old", None);
        add(&mut tar, "etc/x", EntryType::Regular, b"new", None);
        unpack(&tar.into_inner().unwrap()[..], dir.path()).unwrap();
        let meta = dir.path().join("bin/tool").metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777), (7, 8, 0o4755));
        assert_eq!((meta.mtime(), meta.nlink()), (1_000_000, 2));
        let gone = dir.path().join("etc/gone").symlink_metadata().unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let mut value = [0u8; 4];
        let n = rustix::fs::getxattr(dir.path().join("opt"), "trusted.overlay.opaque", &mut value).unwrap();
        assert_eq!(&value[..n], b"y");
        assert_eq!(std::fs::read(dir.path().join("etc/x")).unwrap(), b"new");
    }

    #[test]
    fn nothing_escapes() {
        if !is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("layer"), dir.path().join("outside"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, "way", EntryType::Symlink, b"", Some("../outside"));
        add(&mut tar, "abs", EntryType::Symlink, b"", Some(outside.to_str().unwrap()));
        add(&mut tar, "way/evil", EntryType::Regular, b"x", None);
        let _ = unpack(&tar.into_inner().unwrap()[..], &inside);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, "../outside/evil", EntryType::Regular, b"x", None);
        std::fs::remove_dir_all(&inside).unwrap();
        std::fs::create_dir_all(&inside).unwrap();
        let why = unpack(&tar.into_inner().unwrap()[..], &inside).unwrap_err().to_string();
        assert!(why.contains("escapes the layer"), "{why}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
