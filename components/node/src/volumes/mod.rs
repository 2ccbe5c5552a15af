//! A pod's volumes: made before its containers start, refreshed when what they show changes, removed when it is gone.

pub mod atomic;
pub mod host;
pub mod owner;
pub mod payload;
pub mod tokens;

pub use tokens::Tokens;

use crate::config::Config;
use crate::fields::Facts;
use crate::objects::Objects;
use camino::{Utf8Path, Utf8PathBuf};
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::Api;
use payload::Sources;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What making volumes needs.
pub struct Context {
    pub client: kube::Client,
    pub objects: Arc<Objects>,
    pub config: Arc<Config>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub path: Utf8PathBuf,
    /// Whatever the mount asks for, this is read-only.
    pub readonly: bool,
}

pub type Map = BTreeMap<String, Mounted>;

#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
pub struct VolumeError {
    pub volume: String,
    pub why: String,
}

/// The volumes of one pod.
#[derive(Default)]
pub struct PodVolumes {
    sources: Sources,
    tokens: Tokens,
}

fn plugin(v: &Volume) -> &'static str {
    if v.config_map.is_some() {
        "kubernetes.io~configmap"
    } else if v.secret.is_some() {
        "kubernetes.io~secret"
    } else if v.downward_api.is_some() {
        "kubernetes.io~downward-api"
    } else if v.projected.is_some() {
        "kubernetes.io~projected"
    } else {
        "kubernetes.io~empty-dir"
    }
}

impl PodVolumes {
    /// Makes every volume. Idempotent: what is there is kept, content is brought up to date.
    pub async fn mount(&mut self, ctx: &Context, pod: &Pod, facts: &Facts) -> Result<Map, VolumeError> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        // All watches first, so that their first answers arrive together.
        for v in volumes {
            self.sources.track(ctx, &namespace, v);
        }
        let base = ctx.config.pod_dir(&uid).join("volumes");
        let mut map = Map::new();
        for v in volumes {
            let err = |why: String| VolumeError { volume: v.name.clone(), why };
            let dir = base.join(plugin(v)).join(&v.name);
            let mounted = self.one(ctx, pod, &namespace, v, &dir, facts).await.map_err(err)?;
            map.insert(v.name.clone(), mounted);
        }
        Ok(map)
    }

    async fn one(
        &mut self,
        ctx: &Context,
        pod: &Pod,
        namespace: &str,
        v: &Volume,
        dir: &Utf8Path,
        facts: &Facts,
    ) -> Result<Mounted, String> {
        let text = |e: std::io::Error| e.to_string();
        let group = owner::fs_group(pod);
        if payload::is_payload(v) {
            let files = payload::render(ctx, pod, v, &self.sources, &mut self.tokens, facts).await?;
            let dir = dir.to_owned();
            let in_memory = v.secret.is_some() || v.projected.is_some();
            return blocking(move || {
                std::fs::create_dir_all(&dir).map_err(text)?;
                if in_memory {
                    host::tmpfs(&dir, None).map_err(text)?;
                }
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).map_err(text)?;
                if let Some(gid) = group {
                    std::os::unix::fs::chown(&dir, None, Some(gid)).map_err(text)?;
                    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o2775)).map_err(text)?;
                }
                atomic::write(&dir, &files, group).map_err(text)?;
                Ok(Mounted { path: dir, readonly: true })
            })
            .await;
        }
        if let Some(e) = v.empty_dir.clone() {
            let dir = dir.to_owned();
            let limit = facts.allocatable.get("memory").map(crate::quantity::value);
            return blocking(move || {
                host::empty_dir(&dir, &e, limit).map_err(text)?;
                if let Some(gid) = group {
                    owner::give_to_group(&dir, gid, true).map_err(text)?;
                }
                Ok(Mounted { path: dir, readonly: false })
            })
            .await;
        }
        if let Some(h) = v.host_path.clone() {
            return blocking(move || {
                host::host_path(&h)?;
                Ok(Mounted { path: h.path.into(), readonly: false })
            })
            .await;
        }
        if let Some(c) = &v.persistent_volume_claim {
            let path = claimed(ctx, namespace, &c.claim_name).await?;
            return Ok(Mounted { readonly: c.read_only == Some(true), ..shared(pod, path).await? });
        }
        if v.ephemeral.is_some() {
            let claim = format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), v.name);
            let path = claimed(ctx, namespace, &claim).await?;
            return shared(pod, path).await;
        }
        // A volume without a source is an emptyDir, as the API defaults it.
        if serde_json::to_value(v).ok().and_then(|v| v.as_object().map(|o| o.len() == 1)) == Some(true) {
            let dir = dir.to_owned();
            return blocking(move || {
                host::empty_dir(&dir, &Default::default(), None).map_err(text)?;
                Ok(Mounted { path: dir, readonly: false })
            })
            .await;
        }
        Err("no volume plugin matched".into())
    }

    /// Resolves when content may have changed: an object did, or a token is due. Pends for ever when nothing can.
    pub async fn changed(&self) {
        let due = async {
            match self.tokens.next_renewal() {
                None => std::future::pending().await,
                Some(at) => {
                    let wait = at.duration_since(k8s_openapi::jiff::Timestamp::now());
                    tokio::time::sleep(wait.try_into().unwrap_or_default()).await;
                }
            }
        };
        let mut maps: FuturesUnordered<_> = self.sources.config_maps.values().map(|t| t.changed()).collect();
        let mut secrets: FuturesUnordered<_> = self.sources.secrets.values().map(|t| t.changed()).collect();
        tokio::select! {
            () = due => {}
            Some(()) = maps.next() => {}
            Some(()) = secrets.next() => {}
        }
    }

    /// Lets go of watches and tokens.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(f).await.map_err(|e| e.to_string())?
}

async fn shared(pod: &Pod, path: Utf8PathBuf) -> Result<Mounted, String> {
    let group = owner::fs_group(pod);
    let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let lazily = security.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
    blocking(move || {
        if let Some(gid) = group {
            owner::give_to_group(&path, gid, lazily).map_err(|e| e.to_string())?;
        }
        Ok(Mounted { path, readonly: false })
    })
    .await
}

/// The place behind a bound claim. Persistent volumes of type local and hostPath are served by the node itself.
async fn claimed(ctx: &Context, namespace: &str, name: &str) -> Result<Utf8PathBuf, String> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), namespace);
    let claim = claims
        .get_opt(name)
        .await
        .map_err(|e| crate::api_message(&e))?
        .ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|v| bound && !v.is_empty());
    let Some(volume) = volume else {
        return Err(format!("PVC {namespace}/{name} is not bound"));
    };
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let volume = volumes.get(&volume).await.map_err(|e| crate::api_message(&e))?;
    let spec = volume.spec.unwrap_or_default();
    if let Some(h) = &spec.host_path {
        host::host_path(h)?;
        return Ok(h.path.clone().into());
    }
    if let Some(l) = &spec.local {
        let path = Utf8PathBuf::from(&l.path);
        if !path.is_dir() {
            return Err(format!("path {path:?} does not exist"));
        }
        return Ok(path);
    }
    Err("no volume plugin matched".into())
}

/// Unmounts and removes a pod's volumes; its other files stay. Succeeds when there are none.
pub fn remove_volumes(pod_dir: &Utf8Path) {
    let base = pod_dir.join("volumes");
    visit(&base, 2);
    remove_tree(&base);
}

/// Unmounts and removes everything below a pod's folder. Succeeds when it is gone already.
pub fn remove(pod_dir: &Utf8Path) {
    remove_volumes(pod_dir);
    remove_tree(pod_dir);
}

fn remove_tree(pod_dir: &Utf8Path) {
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, %pod_dir, "pod folder not removed");
        }
        _ => {}
    }
}

fn visit(dir: &Utf8Path, depth: usize) {
    for entry in dir.read_dir_utf8().into_iter().flatten().flatten() {
        if depth > 1 {
            visit(entry.path(), depth - 1);
        } else {
            host::unmount(entry.path());
        }
    }
}
