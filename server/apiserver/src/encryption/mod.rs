//! Encryption at rest: a store that writes values encrypted and reads them back, by resource
//! (apiserver.config.k8s.io/v1 EncryptionConfiguration; `--encryption-provider-config`).
//!
//! Above [`Encryption::wrap`] everything is plain: cache, registry and admission see what they saw before. A value that
//! cannot be decrypted does not stop the server: reading it by key is an error that says why, and in ranges and watches
//! it is replaced by [`UNREADABLE`], which the cache keeps account of.

mod ciphers;
mod config;
mod kms;
mod provider;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use provider::ENCRYPTED;

use crate::cache::{Cache, Parts};
use ::store::{Store, StoreError};
use arc_swap::ArcSwap;
use config::Config;
use kit::Shutdown;
use kms::Kms;
use parking_lot::Mutex;
use provider::{Provider, Providers};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// Stands for a value that cannot be decrypted.
pub(crate) const UNREADABLE: &[u8] = b"k8s:enc:unreadable";

/// How often the file is looked at for automatic reload.
const POLL: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("error reading encryption provider configuration file {path:?}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("encryption provider configuration file {path:?} is empty")]
    Empty { path: PathBuf },
    #[error("error decoding encryption provider configuration file {path:?}: {why}")]
    Bad { path: PathBuf, why: String },
    #[error("the new configuration's KMS plugin is not usable: {0}")]
    Kms(String),
}

/// The configuration in force, and what has to be kept beside it.
pub struct Encryption {
    path: PathBuf,
    automatic_reload: bool,
    current: ArcSwap<Loaded>,
    hash: Mutex<[u8; 32]>,
    recovered: Arc<Notify>,
    raw: OnceLock<Arc<dyn Store>>,
    reloads: [AtomicU64; 2],
    counts: Mutex<BTreeMap<Series, u64>>,
}

/// Resource, direction, prefix and outcome.
type Series = (String, &'static str, String, &'static str);

#[derive(Default)]
struct Loaded {
    /// By group, then resource; `*` is any resource of the group.
    groups: HashMap<String, HashMap<String, Providers>>,
    everything: Option<Providers>,
    kms: Vec<Arc<Kms>>,
    _watches: Vec<AbortOnDropHandle<()>>,
}

impl Loaded {
    fn new(config: &Config, recovered: &Arc<Notify>) -> Self {
        let mut loaded = Self::default();
        for (resources, providers) in &config.entries {
            let made: Vec<Arc<Provider>> = providers
                .iter()
                .map(|provider| {
                    let kms = provider.kms.as_ref().map(|kms| Arc::new(Kms::new(kms)));
                    loaded.kms.extend(kms.clone());
                    Arc::new(Provider::new(provider, kms))
                })
                .collect();
            for (resource, group) in resources {
                if resource == "*" && group == "*" {
                    loaded.everything = Some(Providers(made.clone()));
                    continue;
                }
                let of_group = loaded.groups.entry(group.clone()).or_default();
                let list = of_group.entry(resource.clone()).or_insert_with(|| Providers(Vec::new()));
                list.0.extend(made.iter().cloned());
            }
        }
        loaded._watches = loaded
            .kms
            .iter()
            .map(|kms| AbortOnDropHandle::new(tokio::spawn(kms.clone().watch(recovered.clone()))))
            .collect();
        loaded
    }

    /// The providers of the key's resource. `None`: stored as it is.
    fn find(&self, key: &[u8]) -> Option<&Providers> {
        let parts = Parts::parse(key)?;
        let of_group = self.groups.get(parts.group);
        of_group
            .and_then(|group| group.get(parts.resource).or_else(|| group.get("*")))
            .or(self.everything.as_ref())
    }
}

fn read(path: &Path) -> Result<(Config, [u8; 32]), EncryptionError> {
    let path = path.to_owned();
    let bytes =
        std::fs::read(&path).map_err(|source| EncryptionError::Read { path: path.clone(), source })?;
    if bytes.is_empty() {
        return Err(EncryptionError::Empty { path });
    }
    let config = Config::read(&bytes).map_err(|why| EncryptionError::Bad { path, why })?;
    Ok((config, Sha256::digest(&bytes).into()))
}

impl Encryption {
    /// Reads the file. KMS plugins are asked once; one that is not there yet is asked again beside. Must be called
    /// inside the runtime.
    pub async fn load(path: &Path, automatic_reload: bool) -> Result<Arc<Self>, EncryptionError> {
        let (config, hash) = read(path)?;
        let recovered = Arc::new(Notify::new());
        let loaded = Loaded::new(&config, &recovered);
        for kms in &loaded.kms {
            let _ = kms.check().await;
        }
        Ok(Arc::new(Self {
            path: path.to_owned(),
            automatic_reload,
            current: ArcSwap::from_pointee(loaded),
            hash: Mutex::new(hash),
            recovered,
            raw: OnceLock::new(),
            reloads: [AtomicU64::new(0), AtomicU64::new(0)],
            counts: Mutex::default(),
        }))
    }

    /// The store as the server sees it. Once for each [`Encryption`].
    pub fn wrap(self: &Arc<Self>, raw: Arc<dyn Store>) -> Arc<dyn Store> {
        let _ = self.raw.set(raw.clone());
        Arc::new(store::EncryptedStore { raw, encryption: self.clone() })
    }

    /// Whether the value stored under this key would be written otherwise today (by another key or provider).
    pub(crate) async fn is_stale(&self, key: &[u8]) -> Result<bool, StoreError> {
        let Some(raw) = self.raw.get() else { return Ok(false) };
        let (Some(found), _) = raw.get(key).await? else { return Ok(false) };
        let loaded = self.current.load_full();
        let Some(providers) = loaded.find(key) else { return Ok(false) };
        Ok(providers.open(&found.value, key).await.is_ok_and(|(_, stale)| stale))
    }

    /// Takes over the file if it has changed; `true` when it had. A file, or a KMS plugin of it, that is not usable
    /// changes nothing.
    pub async fn reload(&self) -> Result<bool, EncryptionError> {
        let outcome = self.try_reload().await;
        match &outcome {
            Ok(false) => {}
            Ok(true) => {
                self.reloads[0].fetch_add(1, Relaxed);
                tracing::info!(path = %self.path.display(), "encryption configuration reloaded");
            }
            Err(error) => {
                self.reloads[1].fetch_add(1, Relaxed);
                tracing::error!(%error, "encryption configuration was not reloaded; the former one stays");
            }
        }
        outcome
    }

    async fn try_reload(&self) -> Result<bool, EncryptionError> {
        let (config, hash) = read(&self.path)?;
        if *self.hash.lock() == hash {
            return Ok(false);
        }
        let loaded = Loaded::new(&config, &self.recovered);
        for kms in &loaded.kms {
            kms.check().await.map_err(EncryptionError::Kms)?;
        }
        self.current.store(Arc::new(loaded));
        *self.hash.lock() = hash;
        Ok(true)
    }

    /// Looks at the file every minute if that was asked for, and has the cache read again what it could not read, when
    /// that may have changed.
    pub(crate) async fn run(self: Arc<Self>, cache: Arc<Cache>, shutdown: Shutdown) {
        let mut poll = tokio::time::interval_at(tokio::time::Instant::now() + POLL, POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let changed = tokio::select! {
                () = shutdown.wait() => return,
                () = self.recovered.notified() => true,
                _ = poll.tick(), if self.automatic_reload => matches!(self.reload().await, Ok(true)),
            };
            if changed && cache.unreadable() > 0 {
                cache.reload();
            }
        }
    }

    /// The check `kms-providers`: `None` where there is no such check.
    pub(crate) fn health(&self) -> Option<Result<(), String>> {
        let loaded = self.current.load();
        if loaded.kms.is_empty() && !self.automatic_reload {
            return None;
        }
        let failed: Vec<String> = loaded.kms.iter().filter_map(|kms| kms.health().err()).collect();
        Some(if failed.is_empty() { Ok(()) } else { Err(failed.join(", ")) })
    }

    fn count(&self, resource: &str, direction: &'static str, prefix: &str, fine: bool) {
        let status = if fine { "OK" } else { "Unknown" };
        let series = (resource.to_owned(), direction, prefix.to_owned(), status);
        *self.counts.lock().entry(series).or_default() += 1;
    }

    /// Lines for `/metrics`.
    pub(crate) fn render(&self, out: &mut String) {
        let mut head = |name: &str, help: &str, lines: &[String]| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
            for line in lines {
                let _ = writeln!(out, "{name}{line}");
            }
        };
        let transformations: Vec<String> = self
            .counts
            .lock()
            .iter()
            .map(|((resource, direction, prefix, status), count)| {
                format!(
                    "{{resource=\"{resource}\",status=\"{status}\",transformation_type=\"{direction}\",\
                     transformer_prefix=\"{prefix}\"}} {count}"
                )
            })
            .collect();
        head(
            "apiserver_storage_transformation_operations_total",
            "Total number of transformations. Successful transformation will have a status 'OK' and a varied status string when the transformation fails. The status, resource, and transformation_type fields may be used for alerting purposes. For encryption/decryption monitoring, the transformation_type can be set to 'to_storage' for encryption and 'from_storage' for decryption.",
            &transformations,
        );
        let misses: u64 = self.current.load().kms.iter().map(|k| k.misses.load(Relaxed)).sum();
        head(
            "apiserver_storage_envelope_transformation_cache_misses_total",
            "Total number of cache misses while accessing key decryption key(KEK).",
            &[format!(" {misses}")],
        );
        if self.automatic_reload {
            let [done, failed] = &self.reloads;
            let lines = [("success", done), ("failure", failed)];
            let lines: Vec<String> = lines
                .iter()
                .map(|(status, count)| format!("{{status=\"{status}\"}} {}", count.load(Relaxed)))
                .collect();
            head(
                "apiserver_encryption_config_controller_automatic_reloads_total",
                "Total number of reload successes and failures of encryption configuration split by apiserver identity.",
                &lines,
            );
        }
    }
}
