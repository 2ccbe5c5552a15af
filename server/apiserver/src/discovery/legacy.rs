//! `/api`, `/apis`, and the resource list of one group and version.

use crate::ApiServer;
use crate::resolve::{Group, Index, Resource, Version, join};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub(super) fn versions(server: &ApiServer) -> Value {
    let address = server.config.advertise.map(|(ip, port)| std::net::SocketAddr::new(ip, port).to_string());
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address.unwrap_or_default()}],
    })
}

pub(super) fn groups(index: &Index) -> Value {
    let groups: Vec<Value> =
        index.groups.iter().filter(|g| !g.name.is_empty()).map(|g| group(g, false)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

pub(super) fn group(group: &Group, typed: bool) -> Value {
    let version = |v: &Version| json!({"groupVersion": join(&group.name, &v.name), "version": v.name});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    let mut out = json!({
        "name": group.name,
        "preferredVersion": versions.first(),
        "versions": versions,
    });
    if typed {
        out["kind"] = "APIGroup".into();
        out["apiVersion"] = "v1".into();
    }
    out
}

pub(super) fn resources(group: &str, version: &Version) -> Value {
    let mut all: Vec<Value> = Vec::new();
    for resource in &version.resources {
        all.push(main(resource));
        for sub in &resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if !sub.version.is_empty() {
                entry["group"] = sub.group.as_str().into();
                entry["version"] = sub.version.as_str().into();
            }
            all.push(entry);
        }
    }
    let mut out = Map::new();
    out.insert("kind".into(), "APIResourceList".into());
    if !group.is_empty() {
        out.insert("apiVersion".into(), "v1".into());
    }
    out.insert("groupVersion".into(), join(group, &version.name).into());
    out.insert("resources".into(), all.into());
    out.into()
}

fn main(resource: &Resource) -> Value {
    let mut out = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.published_verbs(),
    });
    if !resource.short_names.is_empty() {
        out["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        out["categories"] = resource.categories.clone().into();
    }
    if !resource.ephemeral {
        let version = resource.custom.as_ref().map_or(&*resource.storage.1, |c| c.versions.storage());
        let text = format!("{}/{version}/{}", resource.storage.0, resource.kind);
        let digest = Sha256::digest(text.as_bytes());
        out["storageVersionHash"] = STANDARD.encode(&digest[..8]).into();
    }
    out
}
