//! Images made on the spot, from files in memory.

use super::store::{Record, Store, sha256};
use super::{architecture, reference};
use crate::{ImageStatus, RuntimeError};

/// A file of a built-in image.
#[derive(Clone, Debug)]
pub struct BuiltinFile {
    /// Absolute, in the image.
    pub path: String,
    pub mode: u32,
    pub content: FileContent,
}

#[derive(Clone, Debug)]
pub enum FileContent {
    Bytes(Vec<u8>),
    /// Copied from this machine.
    CopyOf(std::path::PathBuf),
    Symlink(String),
    Folder,
}

impl Store {
    /// Makes the image `name` out of `files`: deterministic, so doing it again changes nothing.
    pub(crate) async fn import_builtin(
        &self,
        name: &str,
        files: &[BuiltinFile],
        entrypoint: &[String],
    ) -> Result<ImageStatus, RuntimeError> {
        let reference = reference::parse(name)?;
        let image = |why: String| RuntimeError::Image { image: name.to_string(), why };
        let tag = reference::tag(&reference).ok_or_else(|| image("a built-in image needs a tag".into()))?;
        let _adding = self.changing.read().await;
        let layer = layer(files).map_err(|e| image(format!("cannot pack its files: {e}")))?;
        let diff_id = sha256(&layer);
        self.add_layer(&layer[..], &diff_id, &diff_id).map_err(|e| image(e.to_string()))?;
        let config = serde_json::json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": entrypoint },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let mut record = Record::from_config(config.to_string().as_bytes()).map_err(image)?;
        record.size = layer.len() as u64;
        record.tags.insert(tag);
        Ok(self.add_record(record)?.status())
    }
}

fn layer(files: &[BuiltinFile]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let path = file.path.trim_start_matches('/');
        let mut header = tar::Header::new_gnu();
        header.set_mode(file.mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        match &file.content {
            FileContent::Bytes(bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, &bytes[..])?;
            }
            FileContent::CopyOf(source) => {
                let bytes = std::fs::read(source)?;
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, &bytes[..])?;
            }
            FileContent::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, target)?;
            }
            FileContent::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                tar.append_data(&mut header, path, std::io::empty())?;
            }
        }
    }
    tar.into_inner()
}
