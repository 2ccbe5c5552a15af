//! Images: where they come from, and the folders of layers that containers stand on.
//!
//! A layer is unpacked once, under its diff id, and shared as an overlay lower layer by every image that has it.
//! An image is one small JSON record, written after everything it needs is on disk; what no record names is
//! swept at [`store::Store::open`].

pub(crate) mod archive;
mod builtin;
mod pull;
pub(crate) mod reference;
pub(crate) mod store;
mod unpack;

pub use builtin::{BuiltinFile, FileContent};
pub use pull::Registries;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The part of an image's config that a runtime needs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    pub user: String,
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    pub working_dir: String,
    #[serde(deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    pub stop_signal: Option<String>,
}

/// Go writes an empty list as null.
fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    pub config: Option<RunConfig>,
    pub rootfs: RootFs,
    pub architecture: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    #[serde(deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub platform: Option<Platform>,
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub architecture: String,
    pub os: String,
    pub variant: Option<String>,
}

/// A manifest or an index: one has `config`, the other `manifests`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Manifest {
    pub media_type: Option<String>,
    pub config: Option<Descriptor>,
    #[serde(deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
    #[serde(deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
}

/// This machine's architecture as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The entry of an index for this machine.
pub(crate) fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let fits = |d: &&Descriptor| {
        d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture())
    };
    let any = |d: &&Descriptor| d.platform.is_none();
    manifests.iter().find(fits).or_else(|| manifests.iter().find(any).filter(|_| manifests.len() == 1))
}
