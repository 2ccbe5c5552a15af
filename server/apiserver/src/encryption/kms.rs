//! A KMS plugin (v2) behind a Unix socket: it encrypts a seed, and the seed encrypts the values.
//!
//! A seed is made when the plugin's key changes (its `Status` says so) and used until it changes again; it may be
//! written with for three minutes after the plugin was last well, and read with for ever. Seeds that were decrypted
//! once are kept, so that the plugin is asked once for each, not once for each value.

use super::ciphers::{Gcm, Seed};
use super::config::KmsConfig;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message as _;
use proto::key_management_service_client::KeyManagementServiceClient;
use proto::{DecryptRequest, EncryptRequest, EncryptedDekSourceType, EncryptedObject, StatusRequest};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint, Uri};

#[allow(clippy::all, clippy::unwrap_used, unreachable_pub)]
pub(super) mod proto {
    tonic::include_proto!("v2");
}

const WELL: Duration = Duration::from_secs(60);
const UNWELL: Duration = Duration::from_secs(10);
/// How long a seed may be written with after the plugin was last well.
const WRITABLE: Duration = Duration::from_secs(180);
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a failure to decrypt a seed is remembered, so that a thousand values do not wait a thousand times.
const FAILED: Duration = Duration::from_secs(3);
const LARGEST: usize = 1024;
const LARGEST_ANNOTATIONS: usize = 32 * 1024;

pub(super) struct Kms {
    pub name: String,
    client: KeyManagementServiceClient<Channel>,
    timeout: Duration,
    state: Mutex<Option<Arc<State>>>,
    health: Mutex<Result<(), String>>,
    known: Mutex<HashMap<[u8; 32], Known>>,
    pub misses: AtomicU64,
}

/// What is written with now.
struct State {
    key: Arc<DataKey>,
    envelope: EncryptedObject,
    until: Instant,
}

enum DataKey {
    Seed(Seed),
    Plain(Gcm),
}

enum Known {
    Key(Arc<DataKey>, Instant),
    Failed(String, Instant),
}

/// The plugin's socket: `unix:///path`, or `unix:///@name` for an abstract one.
fn socket(endpoint: &str) -> String {
    let path =
        endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    match path.strip_prefix("/@") {
        Some(name) => format!("\0{name}"),
        None => path.to_owned(),
    }
}

impl Kms {
    /// Does not connect yet.
    pub fn new(config: &KmsConfig) -> Self {
        let path = socket(&config.endpoint);
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(config.timeout())
            .connect_with_connector_lazy(connect);
        Self {
            name: config.name.clone(),
            client: KeyManagementServiceClient::new(channel),
            timeout: config.timeout(),
            state: Mutex::new(None),
            health: Mutex::new(Err("not asked yet".into())),
            known: Mutex::default(),
            misses: AtomicU64::new(0),
        }
    }

    /// Asks the plugin how it is, for ever; `recovered` is told when it is well again.
    pub async fn watch(self: Arc<Self>, recovered: Arc<Notify>) {
        loop {
            let was = self.health().is_ok();
            let health = self.check().await;
            if health.is_ok() && !was {
                self.forget_failures();
                recovered.notify_one();
            }
            tokio::time::sleep(if health.is_ok() { WELL } else { UNWELL }).await;
        }
    }

    /// Seeds that could not be decrypted are asked for again.
    pub fn forget_failures(&self) {
        self.known.lock().retain(|_, known| matches!(known, Known::Key(..)));
    }

    pub fn health(&self) -> Result<(), String> {
        self.health.lock().clone()
    }

    /// One look: status, and a new seed if the key has changed.
    pub async fn check(&self) -> Result<(), String> {
        let outcome = self.look().await;
        if let Err(error) = &outcome {
            tracing::warn!(provider = self.name, error, "KMS plugin is not well");
        }
        *self.health.lock() = outcome.clone();
        outcome
    }

    async fn look(&self) -> Result<(), String> {
        // Before the call, so that the limit is an upper bound.
        let until = Instant::now() + WRITABLE;
        let status = self.limited(self.client.clone().status(StatusRequest {})).await.map_err(|why| {
            format!(
                "failed to perform status section of the healthz check for KMS Provider {}, error: {why}",
                self.name
            )
        })?;
        let unwell = |why: String| format!("kmsv2 Provider {} is not healthy, error: {why}", self.name);
        if status.healthz != "ok" {
            return Err(unwell(format!("got unexpected healthz status: {}", status.healthz)));
        }
        if status.version != "v2" && status.version != "v2beta1" {
            return Err(unwell(format!("expected KMSv2 API version v2, got {}", status.version)));
        }
        check_key_id(&status.key_id).map_err(&unwell)?;
        let current = self.state.lock().clone();
        if let Some(current) = current.filter(|c| c.envelope.key_id == status.key_id) {
            let (key, envelope) = (current.key.clone(), current.envelope.clone());
            *self.state.lock() = Some(Arc::new(State { key, envelope, until }));
            return Ok(());
        }
        let seed = Seed::generate();
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uuid::Uuid::new_v4().to_string() };
        let sealed = self
            .limited(self.client.clone().encrypt(request))
            .await
            .map_err(|why| unwell(format!("failed to encrypt DEK, error: {why}")))?;
        if sealed.key_id != status.key_id {
            return Err(unwell("failed to rotate DEK: status and encrypt name different keys".into()));
        }
        let envelope = EncryptedObject {
            encrypted_data: Vec::new(),
            key_id: sealed.key_id,
            encrypted_dek_source: sealed.ciphertext,
            annotations: sealed.annotations,
            encrypted_dek_source_type: EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed as i32,
        };
        check(&envelope).map_err(&unwell)?;
        let key = Arc::new(DataKey::Seed(Seed::new(seed.to_vec())?));
        self.known.lock().insert(digest(&envelope), Known::Key(key.clone(), Instant::now()));
        *self.state.lock() = Some(Arc::new(State { key, envelope, until }));
        tracing::info!(provider = self.name, "KMS seed made");
        Ok(())
    }

    async fn limited<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                Err(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
            }
            Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".into()),
        }
    }

    fn state(&self) -> Option<Arc<State>> {
        self.state.lock().clone()
    }

    pub async fn seal(&self, plain: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        let state = match self.state() {
            Some(state) => state,
            // The first write may come before the first look.
            None => {
                self.check().await?;
                self.state().ok_or("got unexpected nil transformer")?
            }
        };
        if Instant::now() > state.until {
            return Err(format!(
                "encryptedDEKSource of KMS provider {} expired: the plugin is not well",
                self.name
            ));
        }
        let encrypted_data = match &*state.key {
            DataKey::Seed(seed) => seed.seal(plain, about)?,
            DataKey::Plain(key) => key.seal(plain, about)?,
        };
        Ok(EncryptedObject { encrypted_data, ..state.envelope.clone() }.encode_to_vec())
    }

    pub async fn open(&self, stored: &[u8], about: &[u8]) -> Result<(Bytes, bool), String> {
        let object = EncryptedObject::decode(stored).map_err(|e| format!("proto: {e}"))?;
        if object.encrypted_data.is_empty() {
            return Err("encrypted data is empty".into());
        }
        check(&object)?;
        let key = self.data_key(&object).await?;
        let plain = match &*key {
            DataKey::Seed(seed) => seed.open(&object.encrypted_data, about)?,
            DataKey::Plain(key) => key.open(&object.encrypted_data, about)?,
        };
        let seeded =
            object.encrypted_dek_source_type == EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed as i32;
        let current = self.state().is_some_and(|s| s.envelope.key_id == object.key_id);
        Ok((plain.into(), !current || !seeded))
    }

    /// From what is known, or from the plugin.
    async fn data_key(&self, object: &EncryptedObject) -> Result<Arc<DataKey>, String> {
        let at = digest(object);
        match self.known.lock().get(&at) {
            Some(Known::Key(key, since)) if since.elapsed() < KEPT => return Ok(key.clone()),
            Some(Known::Failed(why, since)) if since.elapsed() < FAILED => return Err(why.clone()),
            _ => {}
        }
        self.misses.fetch_add(1, Relaxed);
        let request = DecryptRequest {
            ciphertext: object.encrypted_dek_source.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        let made = match self.limited(self.client.clone().decrypt(request)).await {
            Err(why) => Err(format!("failed to decrypt DEK, error: {why}")),
            Ok(answer) => data_key(object.encrypted_dek_source_type, answer.plaintext),
        };
        let mut known = self.known.lock();
        known.retain(|_, k| !matches!(k, Known::Key(_, since) if since.elapsed() > KEPT));
        match &made {
            Ok(key) => known.insert(at, Known::Key(key.clone(), Instant::now())),
            Err(why) => known.insert(at, Known::Failed(why.clone(), Instant::now())),
        };
        made
    }
}

fn data_key(kind: i32, plain: Vec<u8>) -> Result<Arc<DataKey>, String> {
    match EncryptedDekSourceType::try_from(kind) {
        Ok(EncryptedDekSourceType::AesGcmKey) => {
            let key =
                Gcm::new(&plain).ok_or_else(|| format!("crypto/aes: invalid key size {}", plain.len()))?;
            Ok(Arc::new(DataKey::Plain(key)))
        }
        Ok(EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed) => {
            Ok(Arc::new(DataKey::Seed(Seed::new(plain)?)))
        }
        Err(_) => Err(format!("unknown encryptedDEKSourceType {kind}")),
    }
}

/// What one decrypted seed is known by.
fn digest(object: &EncryptedObject) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    add(&object.encrypted_dek_source_type.to_be_bytes());
    add(&object.encrypted_dek_source);
    add(object.key_id.as_bytes());
    let mut annotations: Vec<_> = object.annotations.iter().collect();
    annotations.sort();
    for (key, value) in annotations {
        add(key.as_bytes());
        add(value);
    }
    hasher.finalize().into()
}

fn check_key_id(id: &str) -> Result<(), String> {
    match id.len() {
        0 => Err("keyID is empty".into()),
        n if n > LARGEST => Err(format!("keyID is {n} bytes, which exceeds the max size of {LARGEST}")),
        _ => Ok(()),
    }
}

fn check(object: &EncryptedObject) -> Result<(), String> {
    check_key_id(&object.key_id)?;
    match object.encrypted_dek_source.len() {
        0 => return Err("encrypted DEK source is empty".into()),
        n if n > LARGEST => {
            return Err(format!(
                "encrypted DEK source is {n} bytes, which exceeds the max size of {LARGEST}"
            ));
        }
        _ => {}
    }
    let size: usize = object.annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > LARGEST_ANNOTATIONS {
        return Err(format!(
            "total size of annotations is {size}, which exceeds the max size of {LARGEST_ANNOTATIONS}"
        ));
    }
    let qualified = |key: &String| machinery::names::dns1123_subdomain(key).is_empty() && key.contains('.');
    match object.annotations.keys().find(|key| !qualified(key)) {
        Some(key) => Err(format!(
            "annotation key {key:?} should be a domain with at least two segments separated by dots"
        )),
        None => Ok(()),
    }
}
