//! Images from files: docker-archive, OCI archive (plain, gzip or zstd), OCI layout folder.

use super::store::{Record, Store, decompress, invalid, sha256};
use super::{Descriptor, Manifest, choose, reference};
use crate::{ImageStatus, RuntimeError};
use camino::Utf8Path;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

const BIGGEST_JSON: u64 = 8 << 20;

/// Named blobs: a folder, or a tar file with an index of where each file begins.
enum Source {
    Folder(PathBuf),
    Tar { file: File, index: BTreeMap<String, Place> },
}

enum Place {
    At(u64, u64),
    Link(String),
}

fn plain(name: &str) -> io::Result<&str> {
    let name = name.trim_start_matches("./").trim_start_matches('/');
    if name.split('/').any(|part| part == "..") {
        Err(invalid(format!("bad name {name:?}")))
    } else {
        Ok(name)
    }
}

impl Source {
    fn open(path: &Utf8Path, temp: &std::path::Path) -> io::Result<Source> {
        if path.is_dir() {
            return Ok(Source::Folder(path.into()));
        }
        let mut file = File::open(path)?;
        let mut magic = [0u8; 4];
        let n = file.read(&mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        if n >= 2 && magic[..2] == [0x1f, 0x8b] || magic == [0x28, 0xb5, 0x2f, 0xfd] {
            let mut plain = tempfile::tempfile_in(temp)?;
            io::copy(&mut decompress(file)?, &mut plain)?;
            plain.seek(SeekFrom::Start(0))?;
            file = plain;
        }
        let mut index = BTreeMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = entry.path()?.to_string_lossy().into_owned();
            let name = plain(&name)?.to_string();
            match (entry.header().entry_type(), entry.link_name()?) {
                (tar::EntryType::Link, Some(to)) => {
                    index.insert(name, Place::Link(plain(&to.to_string_lossy())?.to_string()));
                }
                (tar::EntryType::Symlink, Some(to)) => {
                    // `docker save` writes "../<layer>/layer.tar" for a layer it has already written.
                    let to = to.to_string_lossy();
                    index.insert(name, Place::Link(to.trim_start_matches("../").to_string()));
                }
                (kind, _) if kind.is_file() => {
                    index.insert(name, Place::At(entry.raw_file_position(), entry.size()));
                }
                _ => {}
            }
        }
        Ok(Source::Tar { file, index })
    }

    fn blob(&self, name: &str) -> io::Result<(Box<dyn Read + '_>, u64)> {
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, format!("{name} is missing from the archive"));
        let mut wanted = plain(name)?.to_string();
        match self {
            Source::Folder(root) => {
                let file = File::open(root.join(wanted)).map_err(|_| missing())?;
                let size = file.metadata()?.len();
                Ok((Box::new(file), size))
            }
            Source::Tar { file, index } => {
                for _ in 0..8 {
                    match index.get(&wanted) {
                        Some(Place::At(start, size)) => {
                            let mut file = file;
                            file.seek(SeekFrom::Start(*start))?;
                            return Ok((Box::new(file.take(*size)), *size));
                        }
                        Some(Place::Link(to)) => wanted.clone_from(to),
                        None => break,
                    }
                }
                Err(missing())
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.blob(name).is_ok()
    }

    fn small(&self, name: &str) -> io::Result<(Vec<u8>, u64)> {
        let (stream, size) = self.blob(name)?;
        if size > BIGGEST_JSON {
            return Err(invalid(format!("{name} is too large to be JSON")));
        }
        let mut bytes = Vec::new();
        stream.take(BIGGEST_JSON).read_to_end(&mut bytes)?;
        Ok((bytes, size))
    }

    fn digest_blob(&self, digest: &str) -> io::Result<Vec<u8>> {
        let bytes = self.small(&blob_name(digest)?)?.0;
        if sha256(&bytes) != digest {
            return Err(invalid(format!("content of {digest} does not match its digest")));
        }
        Ok(bytes)
    }
}

fn blob_name(digest: &str) -> io::Result<String> {
    if !super::store::is_digest(digest) {
        return Err(invalid(format!("unsupported digest {digest:?}")));
    }
    Ok(format!("blobs/{}", digest.replace(':', "/")))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default, deserialize_with = "super::nullable")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "super::nullable")]
    layers: Vec<String>,
}

impl Store {
    /// Blocking. `name` is given to an image that has none in the archive.
    pub(crate) fn import(
        &self,
        path: &Utf8Path,
        name: Option<&str>,
    ) -> Result<Vec<ImageStatus>, RuntimeError> {
        let image = |e: io::Error| {
            let why = match e.kind() {
                io::ErrorKind::NotFound if !path.exists() => "no such file or folder".to_string(),
                io::ErrorKind::StorageFull => {
                    format!("no space left on device below {}", self.root().display())
                }
                io::ErrorKind::UnexpectedEof => format!("the archive ends too early: {e}"),
                // The tar reader quotes what it could not read.
                _ if e.to_string().contains(|c: char| c.is_control() || c == '\u{fffd}') => {
                    "not a usable image archive: it is no tar file, neither plain nor packed".to_string()
                }
                _ => format!("not a usable image archive: {e}"),
            };
            RuntimeError::Image { image: path.to_string(), why }
        };
        let _adding = self.changing.blocking_read();
        std::fs::create_dir_all(self.temp()).map_err(image)?;
        let source = Source::open(path, &self.temp()).map_err(image)?;
        let records = if source.has("manifest.json") {
            self.docker_archive(&source, name)
        } else if source.has("index.json") {
            self.oci_layout(&source, name)
        } else {
            Err(invalid("it has neither manifest.json (docker-archive) nor index.json (OCI)"))
        }
        .map_err(image)?;
        records.into_iter().map(|record| Ok(self.add_record(record)?.status())).collect()
    }

    fn docker_archive(&self, source: &Source, name: Option<&str>) -> io::Result<Vec<Record>> {
        let images: Vec<DockerImage> = serde_json::from_slice(&source.small("manifest.json")?.0)?;
        let mut records = Vec::new();
        for image in images {
            let (config, _) = source.small(&image.config)?;
            let mut record = Record::from_config(&config).map_err(invalid)?;
            if image.layers.len() != record.layers.len() {
                return Err(invalid("manifest and config name different numbers of layers"));
            }
            for (layer, diff_id) in image.layers.iter().zip(&record.layers) {
                let (stream, size) = source.blob(layer)?;
                record.size += size;
                self.add_layer(stream, "", diff_id)?;
            }
            record.tags = tags(image.repo_tags.iter().map(String::as_str), name)?;
            records.push(record);
        }
        Ok(records)
    }

    fn oci_layout(&self, source: &Source, name: Option<&str>) -> io::Result<Vec<Record>> {
        let index: Manifest = serde_json::from_slice(&source.small("index.json")?.0)?;
        let mut records = Vec::new();
        for entry in &index.manifests {
            let names = names(entry);
            let mut bytes = source.digest_blob(&entry.digest)?;
            let mut manifest: Manifest = serde_json::from_slice(&bytes)?;
            if manifest.config.is_none() {
                let fit = choose(&manifest.manifests)
                    .ok_or_else(|| invalid(format!("it has no image for linux/{}", super::architecture())))?;
                bytes = source.digest_blob(&fit.digest)?;
                manifest = serde_json::from_slice(&bytes)?;
            }
            let config = manifest.config.as_ref().ok_or_else(|| invalid("manifest without config"))?;
            let mut record = Record::from_config(&source.digest_blob(&config.digest)?).map_err(invalid)?;
            if manifest.layers.len() != record.layers.len() {
                return Err(invalid("manifest and config name different numbers of layers"));
            }
            for (layer, diff_id) in manifest.layers.iter().zip(&record.layers) {
                let (stream, size) = source.blob(&blob_name(&layer.digest)?)?;
                record.size += size;
                self.add_layer(stream, &layer.digest, diff_id)?;
            }
            record.tags = tags(names.iter().map(String::as_str), name)?;
            for tag in &record.tags {
                if let Ok(reference) = reference::parse(tag) {
                    record.digests.insert(reference::with_digest(&reference, &entry.digest));
                }
            }
            records.push(record);
        }
        Ok(records)
    }
}

/// The full names an OCI index entry bears.
fn names(entry: &Descriptor) -> Vec<String> {
    let Some(annotations) = &entry.annotations else { return Vec::new() };
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return vec![name.clone()];
    }
    // A bare tag ("latest") says nothing about the repository.
    let full = |n: &&String| n.contains('/') || n.contains(':');
    annotations.get("org.opencontainers.image.ref.name").filter(full).cloned().into_iter().collect()
}

fn tags<'a>(found: impl Iterator<Item = &'a str>, given: Option<&str>) -> io::Result<BTreeSet<String>> {
    let full = |name: &str| -> io::Result<String> {
        let reference = reference::parse(name).map_err(|e| invalid(e.to_string()))?;
        reference::tag(&reference).ok_or_else(|| invalid(format!("{name:?} is not a tag")))
    };
    if let Some(name) = given {
        return Ok(BTreeSet::from([full(name)?]));
    }
    let tags: BTreeSet<String> = found.map(full).collect::<io::Result<_>>()?;
    if tags.is_empty() {
        return Err(invalid("an image in it has no name; give one"));
    }
    Ok(tags)
}
