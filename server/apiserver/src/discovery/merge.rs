//! Swagger documents of extension servers, merged into ours. Source: kube-openapi's
//! `MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters`.

use crate::resolve::Index;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";
const GVK: &str = "x-kubernetes-group-version-kind";

/// Adds what the extensions publish under `/apis/`, highest priority first. A path there is already stays ours; a
/// definition that means something else gets a name of its own.
pub(super) fn extensions(index: &Index, document: &mut Value) {
    let mut all: Vec<_> = index.extensions().collect();
    all.sort_by(|a, b| {
        (b.group_priority, b.version_priority, &a.name).cmp(&(a.group_priority, a.version_priority, &b.name))
    });
    // Group versions of one server share its document.
    let mut seen = BTreeSet::new();
    for extension in all {
        let Some(bytes) = extension.documents().v2.clone() else { continue };
        if !seen.insert(bytes.clone()) {
            continue;
        }
        match serde_json::from_slice(&bytes) {
            Ok(theirs) => merge(document, theirs),
            Err(error) => tracing::debug!(name = %extension.name, %error, "unreadable OpenAPI"),
        }
    }
}

fn merge(ours: &mut Value, mut theirs: Value) {
    let mut paths: Map<String, Value> = match theirs["paths"].take() {
        Value::Object(paths) => paths.into_iter().filter(|(p, _)| p.starts_with("/apis/")).collect(),
        _ => return,
    };
    paths.retain(|path, _| ours["paths"].get(path).is_none());
    for (section, prefix) in [("definitions", DEFINITIONS), ("parameters", PARAMETERS)] {
        let known = match theirs[section].take() {
            Value::Object(known) => known,
            _ => continue,
        };
        let used = reachable(&paths, &known, prefix);
        let mut renamed = BTreeMap::new();
        for name in &used {
            let Some(same) = ours[section].get(name) else { continue };
            if !equal(same, &known[name]) {
                let free = (2..).map(|n| format!("{name}_v{n}"));
                let mut free = free.filter(|n| ours[section].get(n).is_none() && !known.contains_key(n));
                renamed.insert(name.clone(), free.next().unwrap_or_default());
            }
        }
        let rename =
            |value: &mut Value| each_reference(value, prefix, &mut |name| renamed.get(name).cloned());
        paths.values_mut().for_each(rename);
        if !ours[section].is_object() {
            ours[section] = Value::Object(Map::new());
        }
        let Some(target) = ours[section].as_object_mut() else { continue };
        for name in used {
            let mut value = known[&name].clone();
            rename(&mut value);
            target.entry(renamed.get(&name).cloned().unwrap_or(name)).or_insert(value);
        }
    }
    if let Some(target) = ours["paths"].as_object_mut() {
        target.extend(paths);
    }
}

/// Names the paths refer to, and what those refer to in turn.
fn reachable(paths: &Map<String, Value>, known: &Map<String, Value>, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&Value> = paths.values().collect();
    while let Some(value) = open.pop() {
        let mut names = Vec::new();
        collect(value, prefix, &mut names);
        for name in names {
            if let Some(value) = known.get(name)
                && found.insert(name.to_owned())
            {
                open.push(value);
            }
        }
    }
    found
}

fn collect<'a>(value: &'a Value, prefix: &str, out: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(prefix)));
            map.values().for_each(|v| collect(v, prefix, out));
        }
        Value::Array(all) => all.iter().for_each(|v| collect(v, prefix, out)),
        _ => {}
    }
}

fn each_reference(value: &mut Value, prefix: &str, change: &mut dyn FnMut(&str) -> Option<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(at)) = map.get_mut("$ref")
                && let Some(new) = at.strip_prefix(prefix).and_then(&mut *change)
            {
                *at = format!("{prefix}{new}");
            }
            map.values_mut().for_each(|v| each_reference(v, prefix, change));
        }
        Value::Array(all) => all.iter_mut().for_each(|v| each_reference(v, prefix, change)),
        _ => {}
    }
}

/// The same but for the kinds they are listed under.
fn equal(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let count = |m: &Map<String, Value>| m.len() - usize::from(m.contains_key(GVK));
    count(a) == count(b) && a.iter().all(|(k, v)| k == GVK || b.get(k) == Some(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conflicting_definitions_are_renamed() {
        let mut ours = json!({"paths": {"/apis/a/": {}}, "definitions": {"Meta": {"type": "object"}, "Same": {"type": "string"}}});
        let theirs = json!({
            "paths": {
                "/apis/a/": {"get": 1}, "/version/": {},
                "/apis/b/v1/foos": {"get": {"schema": {"$ref": "#/definitions/Foo"}}},
            },
            "definitions": {
                "Foo": {"properties": {"m": {"$ref": "#/definitions/Meta"}, "s": {"$ref": "#/definitions/Same"}}},
                "Meta": {"type": "object", "description": "another"},
                "Same": {"type": "string", "x-kubernetes-group-version-kind": []},
                "Unused": {},
            },
        });
        merge(&mut ours, theirs);
        let paths: Vec<&String> = ours["paths"].as_object().unwrap().keys().collect();
        assert_eq!(paths, ["/apis/a/", "/apis/b/v1/foos"]);
        assert_eq!(ours["paths"]["/apis/a/"], json!({}), "ours stays");
        let definitions = ours["definitions"].as_object().unwrap();
        assert_eq!(definitions["Meta"], json!({"type": "object"}));
        assert_eq!(definitions["Meta_v2"]["description"], "another");
        assert_eq!(definitions["Foo"]["properties"]["m"]["$ref"], "#/definitions/Meta_v2");
        assert_eq!(definitions["Foo"]["properties"]["s"]["$ref"], "#/definitions/Same");
        assert!(!definitions.contains_key("Unused"));
    }
}
