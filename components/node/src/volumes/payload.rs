//! What the files of config map, secret, downward API and projected volumes hold.

use super::atomic::{File, Payload};
use super::{Context, Tokens};
use crate::fields;
use crate::objects::{Kept, Tracked};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Objects a pod's volumes are made of, held so that their watches go on.
#[derive(Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, Arc<Tracked<ConfigMap>>>,
    pub secrets: BTreeMap<String, Arc<Tracked<Secret>>>,
}

impl Sources {
    /// Starts (or joins) the watch of everything the volume refers to.
    pub fn track(&mut self, ctx: &Context, namespace: &str, volume: &Volume) {
        let mut map = |name: &str| {
            self.config_maps
                .entry(name.to_owned())
                .or_insert_with(|| ctx.objects.config_maps.track(namespace, name));
        };
        if let Some(c) = &volume.config_map {
            map(&c.name);
        }
        for s in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(c) = &s.config_map {
                map(&c.name);
            }
        }
        let mut secret = |name: &str| {
            self.secrets.entry(name.to_owned()).or_insert_with(|| ctx.objects.secrets.track(namespace, name));
        };
        if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()) {
            secret(name);
        }
        for s in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(c) = &s.secret {
                secret(&c.name);
            }
        }
    }
}

/// Whether the volume's content is computed by us.
pub fn is_payload(v: &Volume) -> bool {
    v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some()
}

pub async fn render(
    ctx: &Context,
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    tokens: &mut Tokens,
    facts: &fields::Facts,
) -> Result<Payload, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut out = Payload::new();
    if let Some(c) = &volume.config_map {
        let mode = mode(c.default_mode);
        let data = config_map(namespace, &c.name, c.optional, sources).await?;
        select(&mut out, ConfigMap::WORD, &c.name, namespace, data, c.items.as_deref(), c.optional, mode)?;
    } else if let Some(s) = &volume.secret {
        let name = s.secret_name.as_deref().unwrap_or_default();
        let data = secret(namespace, name, s.optional, sources).await?;
        select(
            &mut out,
            Secret::WORD,
            name,
            namespace,
            data,
            s.items.as_deref(),
            s.optional,
            mode(s.default_mode),
        )?;
    } else if let Some(d) = &volume.downward_api {
        downward(&mut out, pod, d.items.as_deref().unwrap_or_default(), mode(d.default_mode), facts)?;
    } else if let Some(p) = &volume.projected {
        projected(ctx, &mut out, pod, &volume.name, p, sources, tokens, facts).await?;
    }
    Ok(out)
}

async fn projected(
    ctx: &Context,
    out: &mut Payload,
    pod: &Pod,
    volume: &str,
    p: &ProjectedVolumeSource,
    sources: &Sources,
    tokens: &mut Tokens,
    facts: &fields::Facts,
) -> Result<(), String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mode = mode(p.default_mode);
    for source in p.sources.iter().flatten() {
        if let Some(c) = &source.config_map {
            let data = config_map(namespace, &c.name, c.optional, sources).await?;
            select(out, ConfigMap::WORD, &c.name, namespace, data, c.items.as_deref(), c.optional, mode)?;
        }
        if let Some(s) = &source.secret {
            let data = secret(namespace, &s.name, s.optional, sources).await?;
            select(out, Secret::WORD, &s.name, namespace, data, s.items.as_deref(), s.optional, mode)?;
        }
        if let Some(d) = &source.downward_api {
            downward(out, pod, d.items.as_deref().unwrap_or_default(), mode, facts)?;
        }
        if let Some(t) = &source.service_account_token {
            let token = tokens.get(ctx, pod, volume, t).await?;
            let user = super::owner::common_user(pod);
            let group = super::owner::fs_group(pod);
            let mode = if user.is_some() || group.is_some() { 0o600 } else { mode };
            out.insert(t.path.clone(), File { data: token.into_bytes(), mode, uid: user });
        }
        if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
            return Err("clusterTrustBundle and podCertificate sources are not supported by this node".into());
        }
    }
    Ok(())
}

fn mode(m: Option<i32>) -> u32 {
    m.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644)
}

type Data = BTreeMap<String, Vec<u8>>;

async fn config_map(ns: &str, name: &str, optional: Option<bool>, s: &Sources) -> Result<Data, String> {
    let found = match s.config_maps.get(name) {
        Some(t) => t.get().await?,
        None => None,
    };
    match found {
        Some(c) => Ok(config_map_data(&c)),
        None if optional == Some(true) => Ok(Data::new()),
        None => Err(missing::<ConfigMap>(ns, name)),
    }
}

async fn secret(ns: &str, name: &str, optional: Option<bool>, s: &Sources) -> Result<Data, String> {
    let found = match s.secrets.get(name) {
        Some(t) => t.get().await?,
        None => None,
    };
    match found {
        Some(c) => Ok(c.data.iter().flatten().map(|(k, ByteString(v))| (k.clone(), v.clone())).collect()),
        None if optional == Some(true) => Ok(Data::new()),
        None => Err(missing::<Secret>(ns, name)),
    }
}

fn missing<K: Kept>(_ns: &str, name: &str) -> String {
    format!("{} {name:?} not found", K::WORD)
}

pub fn config_map_data(c: &ConfigMap) -> Data {
    let text = c.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = c.binary_data.iter().flatten().map(|(k, ByteString(v))| (k.clone(), v.clone()));
    text.chain(binary).collect()
}

fn select(
    out: &mut Payload,
    word: &str,
    name: &str,
    _ns: &str,
    mut data: Data,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
) -> Result<(), String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        out.extend(data.into_iter().map(|(k, data)| (k, File { data, mode, uid: None })));
        return Ok(());
    };
    let _ = name;
    for item in items {
        match data.remove(&item.key) {
            Some(data) => {
                let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(mode);
                out.insert(item.path.clone(), File { data, mode, uid: None });
            }
            None if optional == Some(true) => {}
            None => return Err(format!("{word} references non-existent {word} key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    out: &mut Payload,
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    facts: &fields::Facts,
) -> Result<(), String> {
    for item in items {
        let value = if let Some(f) = &item.field_ref {
            fields::field(pod, &f.field_path, facts)?
        } else if let Some(r) = &item.resource_field_ref {
            fields::resource(pod, None, r, facts)?
        } else {
            continue;
        };
        let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(mode);
        out.insert(item.path.clone(), File { data: value.into_bytes(), mode, uid: None });
    }
    Ok(())
}
