//! Paths: what each resource answers to.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::operations::{Action, Operation, parameters};
use super::{Dialect, ResourceDoc, SubresourceDoc, base, custom};
use crate::schema::builtin;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const CONNECT: &[(&str, &str)] = &[
    ("delete", "Delete"),
    ("get", "Get"),
    ("head", "Head"),
    ("options", "Options"),
    ("patch", "Patch"),
    ("post", "Post"),
    ("put", "Put"),
];

/// `apps`, `v1` -> `AppsV1`; the core group is called core.
pub(super) fn camel(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    let words = group.split(['.', '-']).chain([version]);
    words.map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// `rbacAuthorization_v1`.
fn tag(group: &str, version: &str) -> String {
    let name = camel(group, "");
    let name = name[..1].to_lowercase() + &name[1..];
    if version.is_empty() { name } else { format!("{name}_{version}") }
}

/// The definition behind a kind, built-in or custom.
fn definition(resource: &ResourceDoc, group: &str, version: &str, kind: &str) -> Option<String> {
    let table = builtin();
    match table.kind(group, version, kind) {
        Some(id) => Some(table.schema.get(id).name.clone()),
        None => resource.schema.as_ref().map(|_| custom::name(group, version, kind)),
    }
}

fn plain(path: &str, id: String, tag: String, answer: &str, dialect: Dialect, out: &mut Map<String, Value>) {
    let operation = Operation {
        action: Action::Plain,
        id,
        tag,
        description: "what is served here".into(),
        gvk: None,
        body: None,
        answer: Some(answer.to_string()),
    };
    out.insert(path.to_string(), json!({"get": operation.build(dialect)}));
}

/// `/api/`, `/apis/`, `/version/`.
pub(super) fn general(dialect: Dialect, needed: &mut BTreeSet<String>) -> Map<String, Value> {
    let mut out = Map::new();
    for (path, id, tag, answer) in [
        ("/api/", "getCoreAPIVersions", "core", format!("{META}.APIVersions")),
        ("/apis/", "getAPIVersions", "apis", format!("{META}.APIGroupList")),
        ("/version/", "getCodeVersion", "version", "io.k8s.apimachinery.pkg.version.Info".into()),
    ] {
        plain(path, id.into(), tag.into(), &answer, dialect, &mut out);
        needed.insert(answer);
    }
    out
}

/// `/apis/GROUP/` and `/apis/GROUP/VERSION/` of every group (v2).
pub(super) fn groups(resources: &[ResourceDoc], out: &mut Map<String, Value>, needed: &mut BTreeSet<String>) {
    for resource in resources {
        let path = format!("/apis/{}/", resource.group);
        if !resource.group.is_empty() && !out.contains_key(&path) {
            let answer = format!("{META}.APIGroup");
            let id = format!("get{}APIGroup", camel(&resource.group, ""));
            plain(&path, id, tag(&resource.group, ""), &answer, Dialect::V2, out);
            needed.insert(answer);
        }
        group_version(Dialect::V2, &resource.group, &resource.version, out, needed);
    }
}

pub(super) fn group_version(
    dialect: Dialect,
    group: &str,
    version: &str,
    out: &mut Map<String, Value>,
    needed: &mut BTreeSet<String>,
) {
    let path = format!("/{}/", base(group, version));
    if !out.contains_key(&path) {
        let answer = format!("{META}.APIResourceList");
        let id = format!("get{}APIResources", camel(group, version));
        plain(&path, id, tag(group, version), &answer, dialect, out);
        needed.insert(answer);
    }
}

/// Where an operation stands.
struct Place<'a> {
    dialect: Dialect,
    resource: &'a ResourceDoc,
    kind: Option<String>,
}

impl Place<'_> {
    fn id(&self, verb: &str, middle: &str, rest: &str) -> String {
        let r = self.resource;
        let scope = if r.namespaced { "Namespaced" } else { "" };
        format!("{verb}{}{middle}{scope}{}{rest}", camel(&r.group, &r.version), r.kind)
    }

    fn operation(&self, action: Action, id: String, description: &str) -> Value {
        let r = self.resource;
        let meta = |name: &str| Some(format!("{META}.{name}"));
        let body = match action {
            Action::Post | Action::Put => self.kind.clone(),
            Action::Patch => meta("Patch"),
            Action::Delete | Action::DeleteCollection => meta("DeleteOptions"),
            _ => None,
        };
        let answer = match action {
            Action::Delete | Action::DeleteCollection => meta("Status"),
            Action::List => self.list(),
            _ => self.kind.clone(),
        };
        Operation {
            action,
            id,
            tag: tag(&r.group, &r.version),
            description: format!("{description} {}", r.kind),
            gvk: Some((&r.group, &r.version, &r.kind)),
            body,
            answer,
        }
        .build(self.dialect)
    }

    fn list(&self) -> Option<String> {
        let r = self.resource;
        let kind = if r.list_kind.is_empty() { format!("{}List", r.kind) } else { r.list_kind.clone() };
        definition(r, &r.group, &r.version, &kind)
    }
}

/// Every path of one resource.
pub(super) fn resource(
    dialect: Dialect,
    r: &ResourceDoc,
    out: &mut Map<String, Value>,
    needed: &mut BTreeSet<String>,
) {
    let place = Place { dialect, resource: r, kind: definition(r, &r.group, &r.version, &r.kind) };
    let has = |verb: &str| r.verbs.iter().any(|v| v == verb);
    needed.extend(place.kind.clone());
    needed.extend(["DeleteOptions", "Status", "Patch", "WatchEvent"].map(|n| format!("{META}.{n}")));
    let root = format!("/{}", base(&r.group, &r.version));
    let scope = if r.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", r.plural);
    let space: &[&str] = if r.namespaced { &["namespace"] } else { &[] };
    let mut at = Map::new();
    if has("list") {
        needed.extend(place.list());
        at.insert(
            "get".into(),
            place.operation(Action::List, place.id("list", "", ""), "list or watch objects of kind"),
        );
    }
    if has("create") {
        at.insert("post".into(), place.operation(Action::Post, place.id("create", "", ""), "create a"));
    }
    if has("deletecollection") {
        let id = place.id("delete", "Collection", "");
        at.insert("delete".into(), place.operation(Action::DeleteCollection, id, "delete collection of"));
    }
    insert(dialect, collection.clone(), at, &[space, &["pretty"]].concat(), out);
    if has("list") && r.namespaced {
        let id = format!("list{}{}ForAllNamespaces", camel(&r.group, &r.version), r.kind);
        let mut at = Map::new();
        at.insert("get".into(), place.operation(Action::List, id, "list or watch objects of kind"));
        insert(dialect, format!("{root}/{}", r.plural), at, &["pretty"], out);
    }
    let item = format!("{collection}/{{name}}");
    let mut at = Map::new();
    for (verb, method, action, word, description) in [
        ("get", "get", Action::Get, "read", "read the specified"),
        ("update", "put", Action::Put, "replace", "replace the specified"),
        ("patch", "patch", Action::Patch, "patch", "partially update the specified"),
        ("delete", "delete", Action::Delete, "delete", "delete a"),
    ] {
        if has(verb) {
            at.insert(method.into(), place.operation(action, place.id(word, "", ""), description));
        }
    }
    insert(dialect, item.clone(), at, &[&["name"], space, &["pretty"]].concat(), out);
    for sub in &r.subresources {
        subresource(&place, sub, &item, space, out, needed);
    }
}

fn insert(
    dialect: Dialect,
    path: String,
    mut at: Map<String, Value>,
    names: &[&str],
    out: &mut Map<String, Value>,
) {
    if !at.is_empty() {
        at.insert("parameters".into(), Value::Array(parameters(dialect, names)));
        out.insert(path, Value::Object(at));
    }
}

fn subresource(
    place: &Place,
    sub: &SubresourceDoc,
    item: &str,
    space: &[&str],
    out: &mut Map<String, Value>,
    needed: &mut BTreeSet<String>,
) {
    let r = place.resource;
    let group = if sub.group.is_empty() && sub.version.is_empty() { &r.group } else { &sub.group };
    let version = if sub.version.is_empty() { &r.version } else { &sub.version };
    let kind = definition(r, group, version, &sub.kind);
    needed.extend(kind.clone());
    let title = capital(&sub.name);
    let options: &[&str] = match sub.name.as_str() {
        "exec" => &["command", "container", "stderr", "stdin", "stdout", "tty"],
        "attach" => &["container", "stderr", "stdin", "stdout", "tty"],
        "portforward" => &["ports"],
        "proxy" => &["path"],
        "log" => &[
            "container",
            "follow",
            "insecureSkipTLSVerifyBackend",
            "limitBytes",
            "previous",
            "sinceSeconds",
            "stream",
            "tailLines",
            "timestamps",
        ],
        _ => &["pretty"],
    };
    let build = |action, id, gvk, answer: Option<String>, body: Option<String>| {
        Operation {
            action,
            id,
            tag: tag(&r.group, &r.version),
            description: format!("{} of the specified {}", sub.name, r.kind),
            gvk: Some(gvk),
            body,
            answer,
        }
        .build(place.dialect)
    };
    let mut at = Map::new();
    if matches!(sub.name.as_str(), "exec" | "attach" | "portforward" | "proxy") {
        for (method, word) in
            CONNECT.iter().filter(|(m, _)| sub.name == "proxy" || matches!(*m, "get" | "post"))
        {
            let id = place.id("connect", word, &title);
            let gvk = (r.group.as_str(), r.version.as_str(), sub.kind.as_str());
            at.insert(method.to_string(), build(Action::Connect, id, gvk, None, None));
        }
    } else if sub.name == "log" {
        let gvk = (r.group.as_str(), r.version.as_str(), r.kind.as_str());
        at.insert("get".into(), build(Action::Read, place.id("read", "", "Log"), gvk, None, None));
    } else {
        for (verb, method, action, word) in [
            ("get", "get", Action::Get, "read"),
            ("update", "put", Action::Put, "replace"),
            ("patch", "patch", Action::Patch, "patch"),
            ("create", "post", Action::Post, "create"),
        ] {
            if sub.verbs.iter().any(|v| v == verb) {
                let body = match action {
                    Action::Get => None,
                    Action::Patch => Some(format!("{META}.Patch")),
                    _ => kind.clone(),
                };
                let gvk = (group.as_str(), version.as_str(), sub.kind.as_str());
                let id = place.id(word, "", &title);
                at.insert(method.into(), build(action, id, gvk, kind.clone(), body));
            }
        }
    }
    insert(place.dialect, format!("{item}/{}", sub.name), at, &[&["name"], space, options].concat(), out);
}
