//! Backup of a store that may be in use, and the way back.
//!
//! A snapshot is one file: the live keys at one revision, each with its own revisions, between a header and a SHA-256
//! of everything before it. Saving reads in one transaction through a connection of its own, so that it sees one
//! revision and holds up no write; it needs no help from the process that has the store open.
//!
//! ```text
//! "ironclad snapshot 1\n"                      magic and format
//! u64 revision, u64 seconds since 1970, u32 n, n bytes of cluster id
//! per key: u8 1, u32 key length, u32 value length, u64 modified, u64 created, u64 expires (ms), key, value
//! u8 0, u64 keys
//! 32 bytes SHA-256                             numbers are little-endian
//! ```
//!
//! A restored store starts at the snapshot's revision plus [`BUMP`], and its history counts as compacted up to there.
//! Clients of the lost store may have seen revisions after the snapshot: none of those is ever given to something
//! else, and every watch and continued list hears 410 and starts over.

use super::db;
use super::directory::Directory;
use crate::StoreError;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: &[u8] = b"ironclad snapshot 1\n";
/// How far a restored store's revision jumps, as upstream's advice for etcd is.
pub const BUMP: u64 = 1_000_000_000;
/// Larger keys and values are not believed.
const LARGEST: u32 = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub revision: u64,
    pub keys: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Seconds since 1970 when it was saved.
    pub saved: u64,
    pub cluster: String,
    /// Of all that precedes it in the file, in hexadecimal.
    pub sha256: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0} is there already; name a file that is not")]
    Exists(PathBuf),
    #[error("there is no embedded store in {0}")]
    NoStore(PathBuf),
    #[error("{0} already holds a store; restore into an empty folder")]
    NotEmpty(PathBuf),
    #[error("{path} is no snapshot: {reason}")]
    Damaged { path: PathBuf, reason: &'static str },
    #[error("{path}: {operation}")]
    Io { path: PathBuf, operation: &'static str, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One live key.
pub(super) struct Record {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub modified: u64,
    pub created: u64,
    pub expires: u64,
}

fn io(path: &Path, operation: &'static str) -> impl Fn(std::io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Io { path: path.clone(), operation, source }
}

/// Hashes and counts what passes.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.inner.write_all(bytes)
    }
}

impl<R: Read> Hashing<R> {
    fn take<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut out = [0; N];
        self.inner.read_exact(&mut out)?;
        self.hash.update(out);
        self.bytes += N as u64;
        Ok(out)
    }

    fn u32(&mut self) -> std::io::Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> std::io::Result<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Grows with what is really there, so that a damaged length cannot ask for memory.
    fn bytes(&mut self, length: u32) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        (&mut self.inner).take(u64::from(length)).read_to_end(&mut out)?;
        if out.len() != length as usize {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.hash.update(&out);
        self.bytes += u64::from(length);
        Ok(out)
    }
}

/// Saves the store in `store` (its own folder) to `target`, which must not exist. Durable and whole when it returns;
/// a cancelled or failed save leaves at most `<target>.part`.
pub fn save(store: &Path, target: &Path) -> Result<Info, SnapshotError> {
    let database = store.join("store.db");
    let Some(cluster) = Directory::peek(store)?.filter(|_| database.exists()) else {
        return Err(SnapshotError::NoStore(store.to_owned()));
    };
    if target.exists() {
        return Err(SnapshotError::Exists(target.to_owned()));
    }
    let part = with_suffix(target, ".part");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .map_err(io(&part, "creating"))?;
    let written = write(file, &database, &cluster, &part);
    let info = match written {
        Ok(info) => info,
        Err(error) => {
            let _ = fs::remove_file(&part);
            return Err(error);
        }
    };
    // A link fails where a rename would replace what somebody put there meanwhile.
    let linked = fs::hard_link(&part, target);
    let _ = fs::remove_file(&part);
    linked.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => SnapshotError::Exists(target.to_owned()),
        _ => SnapshotError::Io { path: target.to_owned(), operation: "naming", source },
    })?;
    sync_parent(target)?;
    Ok(info)
}

fn write(file: File, database: &Path, cluster: &str, part: &Path) -> Result<Info, SnapshotError> {
    let failed = io(part, "writing");
    let saved = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut out = Hashing::new(BufWriter::with_capacity(1 << 20, file));
    let mut keys = 0u64;
    let start = |out: &mut Hashing<BufWriter<File>>, revision: u64| -> std::io::Result<()> {
        out.put(MAGIC)?;
        out.put(&revision.to_le_bytes())?;
        out.put(&saved.to_le_bytes())?;
        out.put(&(cluster.len() as u32).to_le_bytes())?;
        out.put(cluster.as_bytes())
    };
    let mut wrong = None;
    let revision = {
        let out = &mut out;
        db::each_live(database, |revision, record| {
            let step = match record {
                None => start(out, revision),
                Some(record) => {
                    keys += 1;
                    put_record(out, &record)
                }
            };
            wrong = step.err();
            wrong.is_none()
        })?
    };
    if let Some(error) = wrong {
        return Err(failed(error));
    }
    let mut finish = || -> std::io::Result<Info> {
        out.put(&[0])?;
        out.put(&keys.to_le_bytes())?;
        let hash = out.hash.clone().finalize();
        out.inner.write_all(&hash)?;
        out.inner.flush()?;
        out.inner.get_ref().sync_all()?;
        let bytes = out.bytes + 32;
        Ok(Info { revision, keys, bytes, saved, cluster: cluster.into(), sha256: hex(&hash) })
    };
    finish().map_err(failed)
}

fn put_record(out: &mut Hashing<BufWriter<File>>, r: &Record) -> std::io::Result<()> {
    out.put(&[1])?;
    out.put(&(r.key.len() as u32).to_le_bytes())?;
    out.put(&(r.value.len() as u32).to_le_bytes())?;
    for number in [r.modified, r.created, r.expires] {
        out.put(&number.to_le_bytes())?;
    }
    out.put(&r.key)?;
    out.put(&r.value)
}

/// Reads a snapshot to its end and checks its hash.
pub fn status(file: &Path) -> Result<Info, SnapshotError> {
    read(file, |_, _| Ok(()))
}

/// Hands every key to `each`, with the snapshot's revision. What `each` is handed is trustworthy only once this has
/// returned: the hash comes last.
fn read(
    path: &Path,
    mut each: impl FnMut(u64, Record) -> Result<(), SnapshotError>,
) -> Result<Info, SnapshotError> {
    let damaged = |reason| SnapshotError::Damaged { path: path.to_owned(), reason };
    let cut = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::UnexpectedEof => damaged("it ends too early"),
        _ => SnapshotError::Io { path: path.to_owned(), operation: "reading", source },
    };
    let file = File::open(path).map_err(io(path, "opening"))?;
    let size = file.metadata().map_err(io(path, "reading"))?.len();
    let mut from = Hashing::new(BufReader::with_capacity(1 << 20, file));
    let magic: [u8; MAGIC.len()] = from.take().map_err(|_| damaged("it does not begin like one"))?;
    if magic != MAGIC {
        return Err(damaged("it does not begin like one"));
    }
    let (revision, saved) = (from.u64().map_err(cut)?, from.u64().map_err(cut)?);
    let length = from.u32().map_err(cut)?;
    if length > 256 {
        return Err(damaged("its header makes no sense"));
    }
    let cluster = String::from_utf8(from.bytes(length).map_err(cut)?)
        .map_err(|_| damaged("its header makes no sense"))?;
    let mut keys = 0u64;
    loop {
        match from.take::<1>().map_err(cut)? {
            [1] => {}
            [0] => break,
            _ => return Err(damaged("a record makes no sense")),
        }
        let (key, value) = (from.u32().map_err(cut)?, from.u32().map_err(cut)?);
        if key > LARGEST || value > LARGEST {
            return Err(damaged("a record makes no sense"));
        }
        let (modified, created, expires) =
            (from.u64().map_err(cut)?, from.u64().map_err(cut)?, from.u64().map_err(cut)?);
        if modified > revision || created > modified || created == 0 {
            return Err(damaged("a record makes no sense"));
        }
        let (key, value) = (from.bytes(key).map_err(cut)?, from.bytes(value).map_err(cut)?);
        keys += 1;
        each(revision, Record { key, value, modified, created, expires })?;
    }
    if from.u64().map_err(cut)? != keys {
        return Err(damaged("its number of keys is wrong"));
    }
    let wanted = from.hash.clone().finalize();
    let bytes = from.bytes + 32;
    let found: [u8; 32] = from.take().map_err(cut)?;
    if found[..] != wanted[..] {
        return Err(damaged("its hash does not match its content"));
    }
    if bytes != size {
        return Err(damaged("something follows its end"));
    }
    Ok(Info { revision, keys, bytes, saved, cluster, sha256: hex(&wanted) })
}

/// Makes a store in `store`, which must be missing or empty, from a snapshot. It appears whole or not at all: what is
/// half made lies in `<store>.restoring`, which the next attempt starts over. The new store's revision is the
/// snapshot's plus `bump`.
pub fn restore(file: &Path, store: &Path, bump: u64) -> Result<Info, SnapshotError> {
    match fs::read_dir(store) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(SnapshotError::NotEmpty(store.to_owned()));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(store, "reading")(error)),
    }
    // Before anything is made, so that a bad file leaves nothing behind.
    let info = status(file)?;
    let making = with_suffix(store, ".restoring");
    match fs::remove_dir_all(&making) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io(&making, "removing")(error));
        }
        _ => {}
    }
    {
        let directory = Directory::open(&making)?;
        let mut filler = db::Filler::open(&directory.database())?;
        let again = read(file, |_, record| Ok(filler.put(&record)?))?;
        if again != info {
            return Err(SnapshotError::Damaged {
                path: file.to_owned(),
                reason: "it changed while it was read",
            });
        }
        filler.finish(info.revision + bump)?;
    }
    for entry in fs::read_dir(&making).map_err(io(&making, "reading"))?.flatten() {
        File::open(entry.path()).and_then(|f| f.sync_all()).map_err(io(&entry.path(), "syncing"))?;
    }
    File::open(&making).and_then(|f| f.sync_all()).map_err(io(&making, "syncing"))?;
    // An empty folder in the way is replaced.
    fs::rename(&making, store).map_err(io(store, "naming"))?;
    sync_parent(store)?;
    Ok(info)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn sync_parent(path: &Path) -> Result<(), SnapshotError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|f| f.sync_all()).map_err(io(parent, "syncing"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
