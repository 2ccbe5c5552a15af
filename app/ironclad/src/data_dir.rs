//! The data directory: what lies where, whose it is, and who holds it.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

/// Layout version; a directory with a higher one was written by a newer ironclad.
const LAYOUT: u32 = 1;

/// An opened data directory. Holding it excludes every other `up`, `server` and `agent`.
pub struct DataDir {
    root: Utf8PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes or opens the directory, and locks it. Changes nothing in a directory that is not ours.
    pub fn open(path: &Utf8Path) -> Result<Self> {
        if path.is_file() {
            bail!("{path} is a file; give --data-dir a folder");
        }
        let found: Vec<_> = match std::fs::read_dir(path) {
            Ok(entries) => {
                entries.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect()
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e).with_context(|| format!("read {path}")),
        };
        let version = path.join("layout");
        if found.is_empty() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
                format!("make the data directory {path}; pass --data-dir for another place")
            })?;
        } else if !found.iter().any(|f| f == "layout") {
            bail!("{path} holds other files ({}); give --data-dir an empty or new folder", found[0]);
        } else {
            check_layout(&version)?;
        }
        let root = path.canonicalize_utf8().with_context(|| format!("resolve {path}"))?;
        let lock = lock(&root)?;
        if !version.exists() {
            write_atomically(&version, format!("{LAYOUT}\n").as_bytes(), 0o600)?;
        }
        Ok(Self { root, _lock: lock })
    }

    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    pub fn kubeconfig(&self) -> Utf8PathBuf {
        kubeconfig_in(&self.root)
    }

    /// Makes a subfolder that only root reads.
    pub fn folder(&self, name: &str) -> Result<Utf8PathBuf> {
        let path = self.root.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("make {path}"))?;
        Ok(path)
    }
}

pub fn kubeconfig_in(root: &Utf8Path) -> Utf8PathBuf {
    root.join("admin.kubeconfig")
}

/// Four hexadecimal digits that tell clusters on one machine apart: names of links, tables and cgroups.
pub fn tag(root: &Utf8Path) -> String {
    let hash = kit::hash::fnv1a(root.as_str().as_bytes());
    format!("{:04x}", (hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48)) as u16)
}

fn check_layout(file: &Utf8Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    match text.trim().parse::<u32>() {
        Ok(version) if version <= LAYOUT => Ok(()),
        Ok(version) => bail!(
            "{} was written by a newer ironclad (layout {version}, this one knows {LAYOUT}); use that version",
            file.parent().unwrap_or(file)
        ),
        Err(_) => bail!("{file} is damaged: {text:?} is no layout version"),
    }
}

fn lock(root: &Utf8Path) -> Result<File> {
    let path = root.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {path}"))?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        bail!("{root} is in use by process {}; stop it first, or pass another --data-dir", holder.trim());
    }
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}

/// The process that holds the directory, if any.
pub fn holder(root: &Utf8Path) -> Option<i32> {
    let mut file = OpenOptions::new().read(true).write(true).open(root.join("lock")).ok()?;
    if file.try_lock().is_ok() {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Writes next to the target, syncs, renames: readers see the old or the new file, whole.
pub fn write_atomically(path: &Utf8Path, bytes: &[u8], mode: u32) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("data")).unwrap();
        (folder, path)
    }

    fn refusal(path: &Utf8Path) -> String {
        DataDir::open(path).err().expect("must be refused").to_string()
    }

    #[test]
    fn a_directory_is_held_by_one_process_and_can_be_opened_again() {
        let (_keep, path) = temporary();
        let first = DataDir::open(&path).unwrap();
        assert!(refusal(&path).contains("in use by process"));
        assert_eq!(holder(&path), Some(std::process::id() as i32));
        drop(first);
        assert_eq!(holder(&path), None);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let (_keep, path) = temporary();
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("letter.txt"), "dear").unwrap();
        assert!(refusal(&path).contains("holds other files (letter.txt)"));
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
        assert!(refusal(&path.join("letter.txt")).contains("is a file"));
    }

    #[test]
    fn a_newer_layout_is_refused_unchanged() {
        let (_keep, path) = temporary();
        drop(DataDir::open(&path).unwrap());
        std::fs::write(path.join("layout"), "99\n").unwrap();
        assert!(refusal(&path).contains("newer ironclad"));
        assert_eq!(std::fs::read_to_string(path.join("layout")).unwrap(), "99\n");
        std::fs::write(path.join("layout"), "x").unwrap();
        assert!(refusal(&path).contains("damaged"));
    }
}
