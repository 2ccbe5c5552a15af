//! Images from registries.

use super::store::{Record, Store, sha256};
use super::{Descriptor, Manifest, choose, reference};
use crate::{ImageStatus, RegistryAuth, RuntimeError};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError as Oci, OciErrorCode};
use oci_client::secrets::RegistryAuth as OciAuth;
use oci_client::{Client, Reference};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// `host:port` that speak plain HTTP, besides those on this machine.
    pub insecure: Vec<String>,
}

const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const LAYERS_AT_ONCE: usize = 3;
const ATTEMPTS: usize = 3;

fn client(registries: &Registries, reference: &Reference) -> Client {
    let registry = reference.resolve_registry().to_string();
    let plain = reference::is_loopback(&registry) || registries.insecure.contains(&registry);
    let protocol = if plain { ClientProtocol::Http } else { ClientProtocol::Https };
    Client::new(ClientConfig {
        protocol,
        connect_timeout: Some(Duration::from_secs(15)),
        read_timeout: Some(Duration::from_secs(60)),
        user_agent: concat!("ironclad/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

fn auth(auth: Option<&RegistryAuth>) -> OciAuth {
    match auth {
        Some(a) if !a.registry_token.is_empty() => OciAuth::Bearer(a.registry_token.clone()),
        Some(a) if !a.identity_token.is_empty() => OciAuth::Basic("<token>".into(), a.identity_token.clone()),
        Some(a) if !a.username.is_empty() => OciAuth::Basic(a.username.clone(), a.password.clone()),
        _ => OciAuth::Anonymous,
    }
}

/// One sentence a user can act on.
fn explain(e: &Oci, reference: &Reference) -> String {
    let registry = reference.resolve_registry();
    match e {
        Oci::ImageManifestNotFoundError(_) => format!("{}: not found", reference.whole()),
        Oci::RegistryError { envelope, .. } => {
            let code = |wanted: &[OciErrorCode]| envelope.errors.iter().any(|e| wanted.contains(&e.code));
            if code(&[OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound]) {
                format!("{}: not found", reference.whole())
            } else if code(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                denied(registry)
            } else {
                format!("registry {registry} answered: {envelope}")
            }
        }
        Oci::ServerError { code: 404, .. } => format!("{}: not found", reference.whole()),
        Oci::ServerError { code: 401 | 403, .. } | Oci::UnauthorizedError { .. } => denied(registry),
        Oci::AuthenticationFailure(_) => denied(registry),
        Oci::ServerError { code, message, .. } => format!("registry {registry} answered {code}: {message}"),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(inner) = cause {
                // The innermost cause is the one that says "connection refused" or "no such host".
                text = inner.to_string();
                cause = inner.source();
            }
            format!("registry {registry} cannot be reached or read: {text}")
        }
    }
}

fn denied(registry: &str) -> String {
    format!(
        "pull access denied by {registry}: authorization failed, check the image name and the pull secret"
    )
}

impl Store {
    /// Makes the image present. Two pulls of the same reference do the work once; a cancelled pull leaves
    /// nothing but finished layers, which the next one uses.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        image: &str,
        credentials: Option<&RegistryAuth>,
        registries: &Registries,
    ) -> Result<ImageStatus, RuntimeError> {
        let reference = reference::parse(image)?;
        let failed = |why: String| RuntimeError::Image { image: image.to_string(), why };
        if reference.digest().is_some()
            && let Some(record) = self.find(image)
        {
            return Ok(record.status());
        }
        let _only_one = self.lock(&format!("image {}", reference.whole())).await;
        let _adding = self.changing.read().await;
        let client = client(registries, &reference);
        let auth = auth(credentials);
        let fetch = async |reference: &Reference| {
            let got = client.pull_manifest_raw(reference, &auth, &ACCEPTED).await;
            got.map_err(|e| failed(explain(&e, reference)))
        };
        let (mut bytes, top_digest) = fetch(&reference).await?;
        let top_digest = if top_digest.is_empty() { sha256(&bytes) } else { top_digest };
        if let Some(wanted) = reference.digest()
            && sha256(&bytes) != wanted
        {
            return Err(failed(format!("manifest has digest {}, expected {wanted}", sha256(&bytes))));
        }
        let parse = |bytes: &[u8]| -> Result<Manifest, RuntimeError> {
            serde_json::from_slice(bytes).map_err(|e| failed(format!("unreadable manifest: {e}")))
        };
        let mut manifest = parse(&bytes)?;
        if manifest.config.is_none() {
            let fit = choose(&manifest.manifests).ok_or_else(|| {
                failed(format!("no match for platform linux/{} in manifest", super::architecture()))
            })?;
            let wanted = fit.digest.clone();
            bytes = fetch(&reference.clone_with_digest(wanted.clone())).await?.0;
            if sha256(&bytes) != wanted {
                return Err(failed(format!("manifest has digest {}, expected {wanted}", sha256(&bytes))));
            }
            manifest = parse(&bytes)?;
        }
        let config = manifest.config.as_ref().ok_or_else(|| failed("manifest without config".into()))?;
        let mut names = Record::default();
        names.tags.extend(reference::tag(&reference));
        names.digests.insert(reference::with_digest(&reference, &top_digest));
        if let Some(known) = self.find(&config.digest) {
            let record = Record { tags: names.tags, digests: names.digests, ..Record::clone(&known) };
            if record.tags.is_subset(&known.tags) && record.digests.is_subset(&known.digests) {
                return Ok(known.status());
            }
            return Ok(self.add_record(record)?.status());
        }
        let config_bytes = self.config(&client, &reference, config).await.map_err(&failed)?;
        let mut record = Record::from_config(&config_bytes).map_err(&failed)?;
        if record.layers.len() != manifest.layers.len() {
            return Err(failed("manifest and config name different numbers of layers".into()));
        }
        record.tags = names.tags;
        record.digests = names.digests;
        record.size = config.size + manifest.layers.iter().map(|l| l.size).sum::<u64>();
        let mut work = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&record.layers) {
            work.push(self.layer(&client, &reference, layer, diff_id).boxed());
        }
        stream::iter(work)
            .buffer_unordered(LAYERS_AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .map_err(&failed)?;
        let store = self.clone();
        tokio::task::spawn_blocking(move || Ok(store.add_record(record)?.status()))
            .await
            .map_err(|e| failed(e.to_string()))?
    }

    async fn config(
        &self,
        client: &Client,
        reference: &Reference,
        config: &Descriptor,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        client
            .pull_blob(reference, config.digest.as_str(), &mut bytes)
            .await
            .map_err(|e| explain(&e, reference))?;
        if sha256(&bytes) != config.digest {
            return Err(format!("image config has digest {}, expected {}", sha256(&bytes), config.digest));
        }
        Ok(bytes)
    }

    async fn layer(
        self: &Arc<Self>,
        client: &Client,
        reference: &Reference,
        layer: &Descriptor,
        diff_id: &str,
    ) -> Result<(), String> {
        let _only_one = self.lock(&format!("layer {diff_id}")).await;
        let mut attempt = 1;
        loop {
            if self.has_layer(diff_id) {
                return Ok(());
            }
            let result = self.layer_once(client, reference, layer, diff_id).await;
            match result {
                Ok(()) => return Ok(()),
                Err((why, true)) if attempt < ATTEMPTS => {
                    tracing::info!(layer = %layer.digest, %why, attempt, "layer download failed, trying again");
                    tokio::time::sleep(Duration::from_millis(300 * attempt as u64)).await;
                    attempt += 1;
                }
                Err((why, _)) => return Err(why),
            }
        }
    }

    /// The flag says whether another attempt may help.
    async fn layer_once(
        self: &Arc<Self>,
        client: &Client,
        reference: &Reference,
        layer: &Descriptor,
        diff_id: &str,
    ) -> Result<(), (String, bool)> {
        let stream = client.pull_blob_stream(reference, layer.digest.as_str()).await.map_err(|e| {
            (explain(&e, reference), matches!(e, Oci::RequestError(_) | Oci::ServerError { .. }))
        })?;
        let reader = tokio_util::io::StreamReader::new(stream.stream);
        let reader = tokio_util::io::SyncIoBridge::new(Box::pin(reader));
        let (store, digest, diff_id) = (self.clone(), layer.digest.clone(), diff_id.to_string());
        let done = tokio::task::spawn_blocking(move || store.add_layer(reader, &digest, &diff_id)).await;
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) if e.kind() == io::ErrorKind::StorageFull => {
                Err((format!("no space left on device below {}", self.root().display()), false))
            }
            Ok(Err(e)) => Err((format!("layer {}: {e}", layer.digest), true)),
            Err(e) => Err((e.to_string(), false)),
        }
    }
}
