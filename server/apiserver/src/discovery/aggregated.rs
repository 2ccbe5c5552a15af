//! Aggregated discovery: all groups in one document, with an ETag.

use super::{Document, document};
use crate::ApiServer;
use crate::http::{Body, negotiate};
use crate::resolve::{Group, Index, Resource, Subresource};
use crate::status::ApiError;
use http::{HeaderMap, Response};
use serde_json::{Value, json};

/// The version asked for, if the first acceptable clause asks for the aggregated form at all.
pub(super) fn wanted(headers: &HeaderMap) -> Option<&'static str> {
    for clause in negotiate::clauses(negotiate::accept(headers)) {
        if clause.param("as").is_none() {
            // Plain JSON, YAML or protobuf comes first: the legacy form.
            match clause.media {
                negotiate::JSON | negotiate::YAML | negotiate::PROTOBUF | "*/*" | "application/*" => {
                    return None;
                }
                _ => continue,
            }
        }
        if clause.media != negotiate::JSON
            || clause.param("as") != Some("APIGroupDiscoveryList")
            || clause.param("g") != Some("apidiscovery.k8s.io")
        {
            continue;
        }
        match clause.param("v") {
            Some("v2") => return Some("v2"),
            Some("v2beta1") => return Some("v2beta1"),
            _ => {}
        }
    }
    None
}

pub(super) fn answer(
    server: &ApiServer,
    index: &Index,
    headers: &HeaderMap,
    core: bool,
    version: &'static str,
) -> Result<Response<Body>, ApiError> {
    let name = format!("aggregated/{core}/{version}");
    let made: Document = server.discovery.get(index, &name, || {
        let items: Vec<Value> =
            index.groups.iter().filter(|g| g.name.is_empty() == core).map(group).collect();
        let list = json!({
            "kind": "APIGroupDiscoveryList",
            "apiVersion": format!("apidiscovery.k8s.io/{version}"),
            "metadata": {},
            "items": items,
        });
        serde_json::to_vec(&list).map_err(ApiError::internal)
    })?;
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    Ok(document(headers, &content_type, &made))
}

fn group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|v| match &v.extension {
            Some(extension) => extension.documents().entry(&v.name),
            None => json!({
                "version": v.name,
                "resources": v.resources.iter().map(|r| resource(r)).collect::<Vec<_>>(),
                "freshness": "Current",
            }),
        })
        .collect();
    json!({"metadata": {"name": group.name, "creationTimestamp": null}, "versions": versions})
}

fn resource(r: &Resource) -> Value {
    let mut out = json!({
        "resource": r.plural,
        "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": r.singular,
        "verbs": r.published_verbs(),
    });
    if !r.short_names.is_empty() {
        out["shortNames"] = r.short_names.clone().into();
    }
    if !r.categories.is_empty() {
        out["categories"] = r.categories.clone().into();
    }
    if !r.subresources.is_empty() {
        out["subresources"] = r.subresources.iter().map(|s| subresource(r, s)).collect();
    }
    out
}

fn subresource(r: &Resource, s: &Subresource) -> Value {
    let (group, version) = if s.version.is_empty() { (&r.group, &r.version) } else { (&s.group, &s.version) };
    json!({
        "subresource": s.name,
        "responseKind": {"group": group, "version": version, "kind": s.kind},
        "verbs": s.verbs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::ACCEPT;

    #[test]
    fn kubectl_asks_for_v2_first() {
        let mut headers = HeaderMap::new();
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                      application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        headers.insert(ACCEPT, accept.parse().unwrap());
        assert_eq!(wanted(&headers), Some("v2"));
        headers.insert(ACCEPT, "application/json, */*".parse().unwrap());
        assert_eq!(wanted(&headers), None);
    }
}
