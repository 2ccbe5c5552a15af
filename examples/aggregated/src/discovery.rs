//! Which resources there are, in the old form and in the aggregated one.

use serde_json::{Value, json};

pub const GROUP: &str = "library.example.com";
pub const VERSION: &str = "v1";
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

pub fn group(typed: bool) -> Value {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    let mut group = json!({"name": GROUP, "versions": [version], "preferredVersion": version});
    if typed {
        group["kind"] = "APIGroup".into();
        group["apiVersion"] = "v1".into();
    }
    group
}

pub fn groups() -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(false)]})
}

pub fn resources() -> Value {
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [
            {"name": "books", "singularName": "book", "namespaced": true, "kind": "Book", "verbs": VERBS,
             "shortNames": ["bk"], "categories": ["all"]},
            {"name": "books/echo", "singularName": "", "namespaced": true, "kind": "Book", "verbs": ["get", "create"]},
        ],
    })
}

pub fn aggregated() -> Value {
    let kind = json!({"group": GROUP, "version": VERSION, "kind": "Book"});
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": [{
            "metadata": {"name": GROUP, "creationTimestamp": null},
            "versions": [{"version": VERSION, "freshness": "Current", "resources": [{
                "resource": "books", "responseKind": kind, "scope": "Namespaced", "singularResource": "book",
                "verbs": VERBS, "shortNames": ["bk"], "categories": ["all"],
                "subresources": [{"subresource": "echo", "responseKind": kind, "verbs": ["get", "create"]}],
            }]}],
        }],
    })
}
