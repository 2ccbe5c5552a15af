//! `ironclad snapshot`: a file with everything the embedded store holds, and the way back.

use crate::cli::{Output, SnapshotCommand};
use crate::data_dir::DataDir;
use anyhow::{Result, bail};
use camino::Utf8Path;
use serde_json::json;
use store::embedded::snapshot::{self, Info};

pub fn run(command: SnapshotCommand) -> Result<()> {
    match command {
        SnapshotCommand::Save { file, data_dir, output } => {
            let store = data_dir.data_dir.join("store");
            let info = snapshot::save(store.as_std_path(), file.as_std_path())?;
            report(&file, &info, output, &format!("saved {} keys at revision {}", info.keys, info.revision));
        }
        SnapshotCommand::Status { file, output } => {
            let info = snapshot::status(file.as_std_path())?;
            report(&file, &info, output, "whole");
        }
        SnapshotCommand::Restore { file, data_dir, revision_bump, output } => {
            if !file.is_file() {
                bail!("there is no snapshot {file}");
            }
            // A bad file makes no data directory.
            snapshot::status(file.as_std_path())?;
            // Held while restoring: nothing runs in this folder meanwhile.
            let data = DataDir::open(&data_dir.data_dir)?;
            let store = data.root().join("store");
            let info = snapshot::restore(file.as_std_path(), store.as_std_path(), revision_bump)?;
            let now = info.revision + revision_bump;
            report(
                &file,
                &info,
                output,
                &format!("restored {} keys into {store}, now at revision {now}", info.keys),
            );
        }
    }
    Ok(())
}

fn report(file: &Utf8Path, info: &Info, output: Output, sentence: &str) {
    let saved = k8s_openapi::jiff::Timestamp::from_second(info.saved as i64).unwrap_or_default();
    match output {
        Output::Json => println!(
            "{}",
            json!({"file": file, "revision": info.revision, "keys": info.keys, "bytes": info.bytes,
                   "saved": saved.to_string(), "clusterId": info.cluster, "sha256": info.sha256})
        ),
        Output::Text => {
            println!("{file}: {sentence}");
            println!("  revision {}, {} keys, {} bytes, saved {saved}", info.revision, info.keys, info.bytes);
            println!("  sha256 {}", info.sha256);
        }
    }
}
