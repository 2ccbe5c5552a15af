//! Writes a set of files so that readers see all of the old or all of the new ones.
//!
//! The layout is upstream's: files live in a folder `..<time>`, `..data` points to it and is replaced by a rename, and
//! each top-level name is a link into `..data`.

use camino::{Utf8Path, Utf8PathBuf};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub uid: Option<u32>,
}

/// Relative paths to files.
pub type Payload = BTreeMap<String, File>;

/// Makes `target` hold exactly the payload. Returns whether anything changed. `gid` becomes the group of every file.
pub fn write(target: &Utf8Path, payload: &Payload, gid: Option<u32>) -> io::Result<bool> {
    for path in payload.keys() {
        let bad = path.is_empty()
            || path.starts_with('/')
            || path.split('/').any(|part| part == ".." || part.is_empty())
            || path.starts_with("..");
        if bad {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("invalid path {path:?} in a volume"),
            ));
        }
    }
    let data = target.join("..data");
    let old = fs::read_link(&data).ok().and_then(|p| Utf8PathBuf::from_path_buf(p).ok());
    if let Some(old) = &old
        && same(&target.join(old), payload)
    {
        return Ok(false);
    }
    let stamp = k8s_openapi::jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let folder = format!("..{stamp}.{:09}", rand::random::<u32>());
    let fresh = target.join(&folder);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    set_group(&fresh, gid, true)?;
    for (path, file) in payload {
        let full = fresh.join(path);
        let mut made = fresh.clone();
        let parents: Vec<&str> = path.split('/').collect();
        for part in &parents[..parents.len() - 1] {
            made.push(part);
            if !made.exists() {
                fs::create_dir(&made)?;
                fs::set_permissions(&made, fs::Permissions::from_mode(0o755))?;
                set_group(&made, gid, true)?;
            }
        }
        fs::write(&full, &file.data)?;
        if let Some(uid) = file.uid {
            chown(&full, Some(uid), None)?;
        }
        let mode = if gid.is_some() { file.mode | 0o440 } else { file.mode };
        set_group(&full, gid, false)?;
        fs::set_permissions(&full, fs::Permissions::from_mode(mode))?;
    }
    let link = target.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&folder, &link)?;
    fs::rename(&link, &data)?;
    let tops: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for top in &tops {
        let visible = target.join(top);
        let wanted = format!("..data/{top}");
        if fs::read_link(&visible).is_ok_and(|l| l.as_os_str() == wanted.as_str()) {
            continue;
        }
        let _ = fs::remove_file(&visible);
        symlink(&wanted, &visible)?;
    }
    for entry in fs::read_dir(target)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(name.as_ref()) {
            let _ = fs::remove_file(target.join(name.as_ref()));
        }
    }
    if let Some(old) = old {
        let _ = fs::remove_dir_all(target.join(old));
    }
    Ok(true)
}

fn set_group(path: &Utf8Path, gid: Option<u32>, dir: bool) -> io::Result<()> {
    let Some(gid) = gid else { return Ok(()) };
    chown(path, None, Some(gid))?;
    if dir {
        fs::set_permissions(path, fs::Permissions::from_mode(0o2755))?;
    }
    Ok(())
}

fn same(folder: &Utf8Path, payload: &Payload) -> bool {
    let mut found = 0;
    for (path, file) in payload {
        let full = folder.join(path);
        if !fs::read(&full).is_ok_and(|d| d == file.data) {
            return false;
        }
        let Ok(meta) = fs::metadata(&full) else { return false };
        if meta.permissions().mode() & 0o700 != file.mode & 0o700 {
            return false;
        }
        found += 1;
    }
    count(folder) == found
}

fn count(folder: &Utf8Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return usize::MAX };
    entries
        .flatten()
        .map(|e| match e.file_type() {
            Ok(t) if t.is_dir() => Utf8PathBuf::from_path_buf(e.path()).map_or(0, |p| count(&p)),
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(s: &str) -> File {
        File { data: s.into(), mode: 0o644, uid: None }
    }

    #[test]
    fn replaces_everything_at_once() {
        let dir = tempfile::tempdir().expect("dir");
        let target = Utf8Path::from_path(dir.path()).expect("utf8");
        let first = Payload::from([("a".into(), file("1")), ("d/b".into(), file("2"))]);
        assert!(write(target, &first, None).expect("write"));
        assert!(!write(target, &first, None).expect("write"));
        assert_eq!(fs::read_to_string(target.join("d/b")).expect("read"), "2");
        let before = fs::read_link(target.join("..data")).expect("link");
        let second = Payload::from([("a".into(), file("3"))]);
        assert!(write(target, &second, None).expect("write"));
        assert_eq!(fs::read_to_string(target.join("a")).expect("read"), "3");
        assert!(!target.join("d").exists());
        assert!(!target.join(before.to_str().expect("utf8")).exists());
        assert!(fs::read_link(target.join("a")).expect("link").starts_with("..data"));
    }

    #[test]
    fn refuses_paths_that_climb() {
        let dir = tempfile::tempdir().expect("dir");
        let target = Utf8Path::from_path(dir.path()).expect("utf8");
        for bad in ["../x", "/etc/x", "a/../b", "..data", ""] {
            assert!(write(target, &Payload::from([(bad.into(), file("1"))]), None).is_err(), "{bad}");
        }
    }
}
