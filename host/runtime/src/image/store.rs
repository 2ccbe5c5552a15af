//! Records and layers on disk, and the index of both in memory.

use super::{ConfigFile, RunConfig, reference, unpack};
use crate::{ImageStatus, RuntimeError};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// `sha256:` of the config.
    pub id: String,
    pub tags: BTreeSet<String>,
    pub digests: BTreeSet<String>,
    pub size: u64,
    /// Diff ids, lowest first.
    pub layers: Vec<String>,
    pub run: RunConfig,
}

pub(crate) struct Store {
    root: PathBuf,
    records: RwLock<BTreeMap<String, Arc<Record>>>,
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Held while layers are being added for an image that has no record yet, and while layers are swept.
    pub(super) changing: tokio::sync::RwLock<()>,
}

fn os(doing: impl Into<String>, source: io::Error) -> RuntimeError {
    RuntimeError::Os { doing: doing.into(), source }
}

impl Store {
    /// Reads the records, removes what a crash left half done and layers nothing refers to.
    pub(crate) fn open(root: &Path) -> Result<Store, RuntimeError> {
        let store = Store {
            root: root.to_path_buf(),
            records: RwLock::default(),
            locks: Mutex::default(),
            changing: tokio::sync::RwLock::default(),
        };
        let _ = std::fs::remove_dir_all(store.temp());
        for dir in [store.temp(), store.layers_dir(), store.records_dir()] {
            std::fs::create_dir_all(&dir).map_err(|e| os(format!("create {}", dir.display()), e))?;
        }
        // Containers' users must be able to walk through a layer's folder but not to list them.
        let mut records = BTreeMap::new();
        let dir = store.records_dir();
        let entries = std::fs::read_dir(&dir).map_err(|e| os(format!("read {}", dir.display()), e))?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|e| e != "json") {
                let _ = std::fs::remove_file(path);
                continue;
            }
            match std::fs::read(&path).map(|text| serde_json::from_slice::<Record>(&text)) {
                Ok(Ok(record)) if record.layers.iter().all(|l| store.has_layer(l)) => {
                    records.insert(record.id.clone(), Arc::new(record));
                }
                _ => {
                    tracing::warn!(path = %path.display(), "dropping an unreadable image record");
                    let _ = std::fs::remove_file(path);
                }
            }
        }
        *store.records.write() = records;
        store.sweep_layers();
        Ok(store)
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn records_dir(&self) -> PathBuf {
        self.root.join("records")
    }

    pub(super) fn temp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Short, since up to 127 of them must fit one mount option.
    pub(crate) fn layer_name(diff_id: &str) -> String {
        let hex = diff_id.rsplit(':').next().unwrap_or(diff_id);
        hex.chars().take(24).collect()
    }

    pub(crate) fn has_layer(&self, diff_id: &str) -> bool {
        self.layers_dir().join(Self::layer_name(diff_id)).is_dir()
    }

    /// One holder a name at a time; waiting is cheap.
    pub(super) async fn lock(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(name).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    locks.insert(name.to_string(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// Unpacks a layer, compressed or not, verifying both digests. Blocking. `digest` empty: not checked.
    pub(super) fn add_layer(&self, stream: impl Read, digest: &str, diff_id: &str) -> io::Result<()> {
        if self.has_layer(diff_id) {
            return Ok(());
        }
        std::fs::create_dir_all(self.temp())?;
        let temp = tempfile::Builder::new().prefix("layer-").tempdir_in(self.temp())?;
        let folder = temp.path().join("fs");
        std::fs::create_dir(&folder)?;
        let mut packed = Hashing::new(stream);
        let plain_digest = {
            let mut plain = Hashing::new(decompress(&mut packed)?);
            unpack::unpack(&mut plain, &folder)?;
            io::copy(&mut plain, &mut io::sink())?;
            plain.digest()
        };
        io::copy(&mut packed, &mut io::sink())?;
        if !digest.is_empty() && packed.digest() != digest {
            return Err(invalid(format!("content has digest {}, expected {digest}", packed.digest())));
        }
        if plain_digest != diff_id {
            return Err(invalid(format!("unpacked layer has digest {plain_digest}, expected {diff_id}")));
        }
        let place = self.layers_dir().join(Self::layer_name(diff_id));
        match std::fs::rename(&folder, &place) {
            Err(_) if place.is_dir() => Ok(()),
            other => other,
        }
    }

    /// Writes the record; from here on the image is present. Its names move away from other images. Blocking.
    pub(super) fn add_record(&self, mut record: Record) -> Result<Arc<Record>, RuntimeError> {
        let failed = |e| os(format!("record image {}", record.id), e);
        if let Ok(dir) = std::fs::File::open(self.layers_dir()) {
            // Records must not survive a power cut that their layers did not.
            let _ = rustix::fs::syncfs(&dir);
        }
        let mut records = self.records.write();
        if let Some(old) = records.get(&record.id) {
            record.tags.extend(old.tags.iter().cloned());
            record.digests.extend(old.digests.iter().cloned());
            record.size = record.size.max(old.size);
        }
        let others: Vec<Arc<Record>> = records
            .values()
            .filter(|r| r.id != record.id && !r.tags.is_disjoint(&record.tags))
            .cloned()
            .collect();
        for other in others {
            let mut other = Record::clone(&other);
            other.tags.retain(|t| !record.tags.contains(t));
            self.write(&other).map_err(failed)?;
            records.insert(other.id.clone(), Arc::new(other));
        }
        self.write(&record).map_err(failed)?;
        let record = Arc::new(record);
        records.insert(record.id.clone(), record.clone());
        Ok(record)
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.records_dir().join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.record_path(&record.id);
        let temp = path.with_extension("new");
        let mut file = std::fs::File::create(&temp)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        std::fs::rename(temp, path)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Record>> {
        self.records.read().values().cloned().collect()
    }

    /// By id (with or without `sha256:`), tag or digest reference.
    pub(crate) fn find(&self, image: &str) -> Option<Arc<Record>> {
        let records = self.records.read();
        let prefixed = format!("sha256:{image}");
        if let Some(record) = records.get(image).or_else(|| records.get(&prefixed)) {
            return Some(record.clone());
        }
        let reference = reference::parse(image).ok()?;
        let named = |r: &&Arc<Record>| match reference.digest() {
            Some(digest) => r.digests.contains(&reference::with_digest(&reference, digest)) || r.id == digest,
            None => reference::tag(&reference).is_some_and(|tag| r.tags.contains(&tag)),
        };
        records.values().find(named).cloned()
    }

    /// Removes the record and every layer only it had. Blocking; the caller knows that no container uses it.
    pub(crate) fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let mut records = self.records.write();
        if records.remove(id).is_none() {
            return Ok(());
        }
        match std::fs::remove_file(self.record_path(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(os(format!("remove image {id}"), e)),
            _ => {}
        }
        drop(records);
        // While an image is being added, its layers look unused; a later removal or start sweeps then.
        if let Ok(_alone) = self.changing.try_write() {
            self.sweep_layers();
        }
        Ok(())
    }

    fn sweep_layers(&self) {
        let records = self.records.read();
        let used: BTreeSet<String> =
            records.values().flat_map(|r| r.layers.iter().map(|l| Self::layer_name(l))).collect();
        let Ok(entries) = std::fs::read_dir(self.layers_dir()) else { return };
        for entry in entries.flatten() {
            if !used.contains(&*entry.file_name().to_string_lossy()) {
                // First out of sight, then away: a crash in between leaves only rubbish in tmp.
                let gone = self.temp().join(format!("gone-{}", entry.file_name().to_string_lossy()));
                let gone = if std::fs::rename(entry.path(), &gone).is_ok() { gone } else { entry.path() };
                let _ = std::fs::remove_dir_all(gone);
            }
        }
    }
}

impl Record {
    pub(crate) fn status(&self) -> ImageStatus {
        let user = self.run.user.split(':').next().unwrap_or_default();
        let uid = user.parse().ok();
        ImageStatus {
            id: self.id.clone(),
            repo_tags: self.tags.iter().cloned().collect(),
            repo_digests: self.digests.iter().cloned().collect(),
            size: self.size,
            username: if uid.is_some() { String::new() } else { user.to_string() },
            uid,
            stop_signal: self.run.stop_signal.clone().filter(|s| !s.is_empty()),
            volumes: self.run.volumes.keys().cloned().collect(),
        }
    }

    /// From a config file's bytes; the id is their digest.
    pub(super) fn from_config(bytes: &[u8]) -> Result<Record, String> {
        let config: ConfigFile =
            serde_json::from_slice(bytes).map_err(|e| format!("image config is not valid JSON: {e}"))?;
        if !config.architecture.is_empty() && config.architecture != super::architecture() {
            return Err(format!(
                "image is for {}, this machine is {}",
                config.architecture,
                super::architecture()
            ));
        }
        if let Some(bad) = config.rootfs.diff_ids.iter().find(|d| !is_digest(d)) {
            return Err(format!("image config has the invalid layer digest {bad:?}"));
        }
        Ok(Record {
            id: sha256(bytes),
            layers: config.rootfs.diff_ids,
            run: config.config.unwrap_or_default(),
            ..Record::default()
        })
    }
}

pub(super) fn is_digest(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub(super) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

pub(super) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Hashing { inner, hash: Sha256::new() }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.hash.clone().finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// By the first bytes, whatever the media type says.
pub(super) fn decompress<'a>(mut stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0u8; 4];
    let mut got = 0;
    while got < magic.len() {
        match stream.read(&mut magic[got..])? {
            0 => break,
            n => got += n,
        }
    }
    let whole = io::Cursor::new(magic[..got].to_vec()).chain(stream);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}
