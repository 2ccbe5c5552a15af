//! What an extension server publishes of itself: discovery and OpenAPI. Source: kube-aggregator's discovery manager
//! and its OpenAPI aggregators.

use super::Extension;
use crate::ApiServer;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, ETAG};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one document may weigh, and how long it may take.
const MOST: usize = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The last state of all documents.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Documents {
    /// The group version's entry of aggregated discovery, without its freshness.
    pub discovery: Option<Value>,
    /// The last attempt to read discovery succeeded.
    pub fresh: bool,
    /// Swagger 2.0, as sent.
    pub v2: Option<Bytes>,
    /// What its `/openapi/v3` lists: paths and where they are.
    pub v3: BTreeMap<String, String>,
    discovery_tag: String,
    v2_tag: String,
}

impl Documents {
    /// The server cannot be asked: it is listed, but without resources.
    pub(super) fn stale(known: &Self) -> Self {
        Self { discovery: None, fresh: false, discovery_tag: String::new(), ..known.clone() }
    }

    /// The version's entry in aggregated discovery.
    pub fn entry(&self, version: &str) -> Value {
        let mut entry = self.discovery.clone().unwrap_or_else(|| json!({}));
        entry["version"] = version.into();
        entry["freshness"] = if self.fresh { "Current" } else { "Stale" }.into();
        entry
    }
}

enum Answer {
    Same,
    New { body: Bytes, tag: String, media: String },
    Other(StatusCode),
}

async fn get(
    server: &ApiServer,
    extension: &Extension,
    path: &str,
    accept: &str,
    tag: &str,
) -> Result<Answer, String> {
    let mut headers = vec![("accept", accept.to_owned())];
    if !tag.is_empty() {
        headers.push(("if-none-match", tag.to_owned()));
    }
    let response = extension.ask(server, path, &headers).await?;
    let text = |name| {
        let value = response.headers().get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (tag, media) = (text(ETAG), text(CONTENT_TYPE));
    match response.status() {
        StatusCode::NOT_MODIFIED => Ok(Answer::Same),
        StatusCode::OK => Ok(Answer::New { body: whole(response.into_body()).await?, tag, media }),
        other => Ok(Answer::Other(other)),
    }
}

async fn whole(body: Incoming) -> Result<Bytes, String> {
    let reading = Limited::new(body, MOST).collect();
    let read =
        tokio::time::timeout(PATIENCE, reading).await.map_err(|_| "the document did not end".to_owned())?;
    Ok(read.map_err(|e| e.to_string())?.to_bytes())
}

/// Asks for everything; what did not change, or could not be read, stays.
pub(super) async fn read(server: &ApiServer, extension: &Extension, known: &Documents) -> Documents {
    let mut next = known.clone();
    match discovery(server, extension, &mut next).await {
        Ok(()) => next.fresh = true,
        Err(error) => {
            tracing::debug!(name = %extension.name, %error, "discovery was not read");
            next.fresh = false;
        }
    }
    if let Err(error) = openapi(server, extension, &mut next).await {
        tracing::debug!(name = %extension.name, %error, "OpenAPI was not read");
    }
    next
}

async fn discovery(server: &ApiServer, extension: &Extension, out: &mut Documents) -> Result<(), String> {
    match get(server, extension, "/apis", DISCOVERY, &out.discovery_tag).await? {
        Answer::Same if out.discovery.is_some() => return Ok(()),
        Answer::New { body, tag, media } if media.contains("as=APIGroupDiscoveryList") => {
            let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            out.discovery = find(&list, &extension.group, &extension.version);
            out.discovery_tag = tag;
            return Ok(());
        }
        Answer::Other(StatusCode::SERVICE_UNAVAILABLE) => {
            out.discovery = None;
            return Err("the server answered 503".into());
        }
        _ => {}
    }
    // One that knows no aggregated discovery.
    let path = format!("/apis/{}", extension.api_version());
    match get(server, extension, &path, "application/json", "").await? {
        Answer::New { body, .. } => {
            let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            out.discovery = Some(from_legacy(&list));
            out.discovery_tag.clear();
            Ok(())
        }
        Answer::Other(code) => Err(format!("failed to download legacy discovery for {path}: {code}")),
        Answer::Same => Err(format!("{path} was not asked conditionally")),
    }
}

fn find(list: &Value, group: &str, version: &str) -> Option<Value> {
    let groups = list["items"].as_array()?;
    let of = groups.iter().filter(|g| g["metadata"]["name"] == group);
    let mut versions = of.flat_map(|g| g["versions"].as_array().into_iter().flatten());
    let mut found = versions.find(|v| v["version"] == version)?.clone();
    // Clients of some versions stumble over an absent kind.
    for resource in found["resources"].as_array_mut().into_iter().flatten() {
        fill_kind(resource);
        for sub in resource["subresources"].as_array_mut().into_iter().flatten() {
            fill_kind(sub);
        }
    }
    Some(found)
}

fn fill_kind(entry: &mut Value) {
    if !entry["responseKind"].is_object() {
        entry["responseKind"] = json!({"group": "", "version": "", "kind": ""});
    }
}

/// An `APIResourceList` as a version's entry. Source: apiserver's `ConvertGroupVersionIntoToDiscovery`.
fn from_legacy(list: &Value) -> Value {
    let mut out: Vec<Value> = Vec::new();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let blank = |name: &str, namespaced: &Value| {
        json!({
            "resource": name,
            "scope": if *namespaced == Value::Bool(true) { "Namespaced" } else { "Cluster" },
            "responseKind": {"group": "", "version": "", "kind": ""},
            "singularResource": "",
            "verbs": [],
        })
    };
    for entry in list["resources"].as_array().into_iter().flatten() {
        let name = text(&entry["name"]);
        let kind = json!({
            "group": text(&entry["group"]), "version": text(&entry["version"]), "kind": text(&entry["kind"]),
        });
        let (main, sub) = name.split_once('/').unwrap_or((&name, ""));
        let at = out.iter().position(|r| r["resource"] == main).unwrap_or_else(|| {
            out.push(blank(main, &entry["namespaced"]));
            out.len() - 1
        });
        if !sub.is_empty() {
            let sub = json!({"subresource": sub, "responseKind": kind, "verbs": entry["verbs"]});
            match out[at]["subresources"].as_array_mut() {
                Some(all) => all.push(sub),
                None => out[at]["subresources"] = json!([sub]),
            }
            continue;
        }
        out[at]["responseKind"] = kind;
        out[at]["singularResource"] = text(&entry["singularName"]).into();
        out[at]["verbs"] = entry["verbs"].clone();
        for list in ["shortNames", "categories"] {
            if entry[list].as_array().is_some_and(|l| !l.is_empty()) {
                out[at][list] = entry[list].clone();
            }
        }
    }
    json!({"resources": out})
}

async fn openapi(server: &ApiServer, extension: &Extension, out: &mut Documents) -> Result<(), String> {
    match get(server, extension, "/openapi/v3", "application/json", "").await? {
        Answer::New { body, .. } => {
            let index: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            let paths = index["paths"].as_object().into_iter().flatten();
            let entry = |(path, at): (&String, &Value)| {
                Some((path.clone(), at["serverRelativeURL"].as_str()?.to_owned()))
            };
            out.v3 = paths.filter_map(entry).collect();
        }
        _ => out.v3.clear(),
    }
    match get(server, extension, "/openapi/v2", "application/json", &out.v2_tag).await? {
        Answer::New { body, tag, .. } => {
            out.v2 = Some(body);
            out.v2_tag = tag;
        }
        Answer::Same => {}
        Answer::Other(_) => {
            out.v2 = None;
            out.v2_tag.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_lists_become_entries() {
        let list = json!({"resources": [
            {"name": "foos", "namespaced": true, "kind": "Foo", "verbs": ["get"], "shortNames": ["f"], "singularName": "foo"},
            {"name": "foos/status", "namespaced": true, "kind": "Foo", "verbs": ["update"]},
            {"name": "bars/scale", "namespaced": false, "kind": "Scale", "group": "autoscaling", "version": "v1", "verbs": ["get"]},
        ]});
        let entry = from_legacy(&list);
        let resources = entry["resources"].as_array().unwrap();
        assert_eq!(resources.len(), 2);
        assert_eq!(resources[0]["subresources"][0]["subresource"], "status");
        assert_eq!(
            (&resources[0]["scope"], &resources[0]["singularResource"]),
            (&json!("Namespaced"), &json!("foo"))
        );
        assert_eq!(resources[1]["verbs"], json!([]), "known by its subresource only");
        assert_eq!(resources[1]["subresources"][0]["responseKind"]["group"], "autoscaling");
    }

    #[test]
    fn an_unread_version_is_listed_as_stale() {
        let entry = Documents::default().entry("v1");
        assert_eq!(entry, json!({"version": "v1", "freshness": "Stale"}));
        let list = json!({"items": [{"metadata": {"name": "a.b"}, "versions": [{"version": "v1",
            "resources": [{"resource": "foos"}]}]}]});
        let known = Documents { discovery: find(&list, "a.b", "v1"), fresh: true, ..Documents::default() };
        assert_eq!(known.entry("v1")["resources"][0]["responseKind"]["kind"], "");
        assert_eq!(known.entry("v1")["freshness"], "Current");
    }
}
