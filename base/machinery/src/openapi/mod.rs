//! The published OpenAPI, v2 and v3, built from the schema and a list of what is served.
//!
//! Everything is made on request and kept by nobody: the server holds the compressed bytes it serves and nothing
//! else. Descriptions come from a [`Describe`] that the caller passes; without one the documents have none.

mod custom;
mod definitions;
mod operations;
mod paths;
mod protobuf;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

pub use protobuf::encode as document_protobuf;

/// Media types under which clients ask for the v2 document in protobuf. The first is not a valid media type (clients
/// that parse the answer's refuse it), so the answer always says the second.
pub const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// One served resource of one version.
#[derive(Clone, Debug, Default)]
pub struct ResourceDoc {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub namespaced: bool,
    /// As discovery says them: `create`, `delete`, `deletecollection`, `get`, `list`, `patch`, `update`, `watch`.
    pub verbs: Vec<String>,
    pub subresources: Vec<SubresourceDoc>,
    /// A custom resource's own schema (`openAPIV3Schema`); built-in kinds have none.
    pub schema: Option<Value>,
    /// A custom resource's list kind; empty means the kind with `List` behind it.
    pub list_kind: String,
    /// A custom resource's selectable fields, without the leading dot.
    pub selectable_fields: Vec<String>,
}

/// A sub-resource; `group` and `version` are those of its kind.
#[derive(Clone, Debug, Default)]
pub struct SubresourceDoc {
    pub name: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// Where descriptions come from: a definition's (`field` empty) or a property's.
pub type Describe<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// The two dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    pub(crate) fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The whole v2 document.
pub fn v2(resources: &[ResourceDoc], describe: Option<Describe<'_>>) -> Value {
    let mut needed = BTreeSet::new();
    let mut all = paths::general(Dialect::V2, &mut needed);
    paths::groups(resources, &mut all, &mut needed);
    for resource in resources {
        paths::resource(Dialect::V2, resource, &mut all, &mut needed);
    }
    let definitions = definitions::all(Dialect::V2, resources, needed, describe);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": all,
        "definitions": definitions,
        "parameters": operations::shared(),
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
        }},
        "security": [{"BearerToken": []}],
    })
}

/// The v2 document as gnostic's `openapi.v2.Document`, which kubectl before 1.27 requires.
pub fn v2_protobuf(resources: &[ResourceDoc], describe: Option<Describe<'_>>) -> Vec<u8> {
    protobuf::encode(&v2(resources, describe))
}

/// The v3 documents there are: path under `/openapi/v3` -> (group, version). The core group is empty.
pub fn v3_paths(resources: &[ResourceDoc]) -> Vec<(String, String, String)> {
    let mut seen = BTreeSet::new();
    for r in resources {
        seen.insert((base(&r.group, &r.version), r.group.clone(), r.version.clone()));
    }
    seen.into_iter().collect()
}

/// `/openapi/v3`: where each group version's document is. `hash` gives the document's content hash, by path, so
/// that clients may cache it for good.
pub fn v3_index(resources: &[ResourceDoc], hash: &dyn Fn(&str) -> String) -> Value {
    let mut paths = Map::new();
    for (path, _, _) in v3_paths(resources) {
        let url = format!("/openapi/v3/{path}?hash={}", hash(&path));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// One group version's v3 document.
pub fn v3_group_version(
    resources: &[ResourceDoc],
    group: &str,
    version: &str,
    describe: Option<Describe<'_>>,
) -> Option<Value> {
    let own: Vec<ResourceDoc> =
        resources.iter().filter(|r| r.group == group && r.version == version).cloned().collect();
    if own.is_empty() {
        return None;
    }
    let mut needed = BTreeSet::new();
    let mut all = Map::new();
    paths::group_version(Dialect::V3, group, version, &mut all, &mut needed);
    for resource in &own {
        paths::resource(Dialect::V3, resource, &mut all, &mut needed);
    }
    let schemas = definitions::all(Dialect::V3, &own, needed, describe);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": all,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header",
                "description": "Bearer Token authentication",
            }},
        },
    }))
}

/// `api/v1`, `apis/apps/v1`.
pub(crate) fn base(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

#[cfg(test)]
mod tests;
