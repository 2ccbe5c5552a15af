//! Whose data directory this is: locked while open, marked with format and cluster id.

use crate::StoreError;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;
const MAGIC: &str = "ironclad store";

pub(super) struct Directory {
    path: PathBuf,
    cluster_id: String,
    _lock: File,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let marker = path.join("STORE");
        // Before the lock: a stranger's directory is not even touched.
        let known = Self::read(path, &marker)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("LOCK"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // Again under the lock: another process may have made it meanwhile.
        let known = if known.is_some() { known } else { Self::read(path, &marker)? };
        let cluster_id = match known {
            Some(id) => id,
            None => Self::create(path, &marker)?,
        };
        Ok(Self { path: path.to_owned(), cluster_id, _lock: lock })
    }

    /// The cluster id of the store in `path`, in use or not; `None` where there is none.
    pub(super) fn peek(path: &Path) -> Result<Option<String>, StoreError> {
        if !path.is_dir() {
            return Ok(None);
        }
        Self::read(path, &path.join("STORE"))
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join("store.db")
    }

    pub(super) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    fn read(path: &Path, marker: &Path) -> Result<Option<String>, StoreError> {
        let text = match fs::read_to_string(marker) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Self::must_be_empty(path).map(|()| None);
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => String::new(),
            Err(error) => return Err(error.into()),
        };
        let stranger = || StoreError::NotAStore { path: path.to_owned(), found: "STORE".into() };
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) {
            return Err(stranger());
        }
        let mut field =
            |name: &str| lines.next().and_then(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
        let format: u32 = field("format").and_then(|v| v.parse().ok()).ok_or_else(stranger)?;
        if format > FORMAT {
            return Err(StoreError::NewerFormat { path: path.to_owned(), found: format, supported: FORMAT });
        }
        field("cluster").filter(|id| !id.is_empty()).map(Some).ok_or_else(stranger)
    }

    fn must_be_empty(path: &Path) -> Result<(), StoreError> {
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            if name != "LOCK" && name != "STORE.new" && name != "lost+found" {
                let found = name.to_string_lossy().into_owned();
                return Err(StoreError::NotAStore { path: path.to_owned(), found });
            }
        }
        Ok(())
    }

    fn create(path: &Path, marker: &Path) -> Result<String, StoreError> {
        let id = uuid::Uuid::new_v4().to_string();
        let fresh = path.join("STORE.new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        write!(file, "{MAGIC}\nformat {FORMAT}\ncluster {id}\n")?;
        file.sync_all()?;
        fs::rename(&fresh, marker)?;
        File::open(path)?.sync_all()?;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_identity_and_is_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = Directory::open(&path).unwrap();
        assert!(matches!(Directory::open(&path), Err(StoreError::Locked(_))));
        let id = first.cluster_id().to_owned();
        drop(first);
        assert_eq!(Directory::open(&path).unwrap().cluster_id(), id);
    }

    #[test]
    fn refuses_newer_and_strange_directories_and_leaves_them_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(Directory::open(dir.path()).unwrap());
        fs::write(dir.path().join("STORE"), "ironclad store\nformat 7\ncluster x\n").unwrap();
        let error = Directory::open(dir.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::NewerFormat { found: 7, supported: FORMAT, .. }), "{error}");

        for (name, content) in [("STORE", &b"a shop\n"[..]), ("STORE", b"\xff\xfe"), ("member", b"etcd's")] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), content).unwrap();
            assert!(matches!(Directory::open(dir.path()), Err(StoreError::NotAStore { .. })));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
