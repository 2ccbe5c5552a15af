//! The table against the published OpenAPI of Kubernetes, when that file is at hand.

use std::path::PathBuf;

use machinery::openapi::{ResourceDoc, SubresourceDoc, v2};
use machinery::schema::{Field, ListKind, Shape, builtin};
use serde_json::Value;

fn published(file: &str) -> Option<Value> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let beside = ["../../../shared/openapi", "../../../../shared/openapi"].map(|up| here.join(up).join(file));
    let named = std::env::var_os("IRONCLAD_OPENAPI_DIR").map(|dir| PathBuf::from(dir).join(file));
    let Some(path) = named.into_iter().chain(beside).find(|p| p.exists()) else {
        println!("skipped: no published {file} beside the checkout; name its folder in IRONCLAD_OPENAPI_DIR");
        return None;
    };
    let bytes = std::fs::read(path).expect("readable");
    Some(serde_json::from_slice(&bytes).expect("JSON"))
}

fn reference(shape: &Shape) -> Option<String> {
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1";
    Some(match shape {
        Shape::Struct(id) => builtin().schema.get(*id).name.clone(),
        Shape::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".into(),
        Shape::Time => format!("{meta}.Time"),
        Shape::MicroTime => format!("{meta}.MicroTime"),
        Shape::Duration => format!("{meta}.Duration"),
        Shape::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".into(),
        Shape::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension".into(),
        _ => return None,
    })
}

fn agrees(shape: &Shape, said: &Value) -> bool {
    let ty = said["type"].as_str().unwrap_or_default();
    let format = said["format"].as_str().unwrap_or_default();
    if let Some(to) = said["$ref"].as_str() {
        let to = to.trim_start_matches("#/definitions/");
        return match shape {
            Shape::Any => to.ends_with(".FieldsV1") || to.ends_with(".v1.JSON"),
            Shape::Special(_) => to.contains(".JSONSchemaPropsOr"),
            _ => reference(shape).as_deref() == Some(to),
        };
    }
    match shape {
        Shape::Bool => ty == "boolean",
        Shape::Int32 => (ty, format) == ("integer", "int32"),
        Shape::Int64 => (ty, format) == ("integer", "int64"),
        Shape::Double => (ty, format) == ("number", "double"),
        Shape::String => ty == "string" && format.is_empty(),
        Shape::Bytes => (ty, format) == ("string", "byte"),
        Shape::List(list) => ty == "array" && agrees(&list.item, &said["items"]),
        Shape::Map(map) => ty == "object" && agrees(&map.value, &said["additionalProperties"]),
        _ => false,
    }
}

fn list_kind(said: &Value) -> ListKind {
    let keys = said["x-kubernetes-list-map-keys"].as_array();
    let keys = keys.map(|k| k.iter().filter_map(Value::as_str).map(str::to_string).collect());
    match said["x-kubernetes-list-type"].as_str() {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(keys.unwrap_or_default()),
        _ => ListKind::Atomic,
    }
}

fn check(at: &str, field: &Field, said: &Value, wrong: &mut Vec<String>) {
    if !agrees(&field.shape, said) {
        wrong.push(format!("{at}: {:?} is published as {said}", field.shape));
    }
    if let Shape::List(list) = &field.shape
        && list_kind(said) != list.kind
    {
        wrong.push(format!("{at}: {:?} is published as {:?}", list.kind, list_kind(said)));
    }
    let atomic = match &field.shape {
        Shape::Map(map) => map.atomic,
        Shape::List(_) | Shape::Bytes => false,
        _ => field.atomic == Some(true),
    };
    if atomic != (said["x-kubernetes-map-type"] == "atomic") {
        wrong.push(format!("{at}: atomic {atomic}"));
    }
    let s = &field.strategic;
    let words = [(s.merge, "merge"), (s.replace, "replace"), (s.retain_keys, "retainKeys")];
    let strategies: Vec<&str> = words.iter().filter(|(has, _)| *has).map(|(_, word)| *word).collect();
    if strategies.join(",") != said["x-kubernetes-patch-strategy"].as_str().unwrap_or_default() {
        wrong.push(format!("{at}: patch strategy {}", strategies.join(",")));
    }
    if s.merge_key.as_deref() != said["x-kubernetes-patch-merge-key"].as_str() {
        wrong.push(format!("{at}: merge key {:?}", s.merge_key));
    }
}

#[test]
fn the_table_agrees_with_the_published_openapi() {
    let Some(swagger) = published("swagger.json") else { return };
    let special =
        ["FieldsV1", "MicroTime", "Time", "Patch", "JSON", "Quantity", "IntOrString", "RawExtension"];
    let table = builtin();
    let mut wrong = Vec::new();
    let definitions = swagger["definitions"].as_object().expect("definitions");
    assert!(definitions.len() > 700);
    let mut properties = 0;
    for (name, said) in definitions {
        let last = name.rsplit('.').next().unwrap_or_default();
        if special.contains(&last) || last.starts_with("JSONSchemaPropsOr") {
            continue;
        }
        let Some(id) = table.by_name(name) else {
            wrong.push(format!("{name}: missing"));
            continue;
        };
        let ty = table.schema.get(id);
        if ty.atomic != (said["x-kubernetes-map-type"] == "atomic") {
            wrong.push(format!("{name}: map type {}", said["x-kubernetes-map-type"]));
        }
        let empty = serde_json::Map::new();
        let published = said["properties"].as_object().unwrap_or(&empty);
        for field in ty.fields.iter().filter(|f| !published.contains_key(&f.name)) {
            wrong.push(format!("{name}.{}: not published", field.name));
        }
        for (property, said_of_it) in published {
            properties += 1;
            let at = format!("{name}.{property}");
            let Some(field) = ty.field(property) else {
                wrong.push(format!("{at}: missing"));
                continue;
            };
            let required =
                said["required"].as_array().is_some_and(|r| r.iter().any(|r| r == property.as_str()));
            if field.required != required {
                wrong.push(format!("{at}: required is {}", field.required));
            }
            check(&at, field, said_of_it, &mut wrong);
        }
        for gvk in said["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let word = |key: &str| gvk[key].as_str().unwrap_or_default();
            let served = table.kinds().any(|k| k.group == word("group") && k.version == word("version"));
            if served && table.kind(word("group"), word("version"), word("kind")) != Some(id) {
                wrong.push(format!("{name}: kind {gvk} is not registered"));
            }
        }
    }
    println!("{} definitions, {properties} properties", definitions.len());
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

fn without_prose(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .iter()
                .filter(|(key, v)| {
                    !(*key == "description" && v.is_string() || *key == "enum" && v.is_array())
                })
                .map(|(key, v)| (key.clone(), without_prose(v)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_prose).collect()),
        other => other.clone(),
    }
}

/// What discovery says is served, as the API server would tell it.
fn served(discovery: &Value) -> Vec<ResourceDoc> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let verbs = |v: &Value| v["verbs"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let mut out = Vec::new();
    for group in list(&discovery["items"]) {
        for version in list(&group["versions"]) {
            for resource in list(&version["resources"]) {
                let subresources = list(&resource["subresources"]).into_iter().map(|sub| SubresourceDoc {
                    name: text(&sub["subresource"]),
                    group: text(&sub["responseKind"]["group"]),
                    version: text(&sub["responseKind"]["version"]),
                    kind: text(&sub["responseKind"]["kind"]),
                    verbs: verbs(&sub),
                });
                out.push(ResourceDoc {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: verbs(&resource),
                    subresources: subresources.collect(),
                    ..ResourceDoc::default()
                });
            }
        }
    }
    out
}

/// The core group, which aggregated discovery keeps elsewhere, as its published paths tell it.
fn core(swagger: &Value) -> Vec<ResourceDoc> {
    let mut out: std::collections::BTreeMap<String, ResourceDoc> = Default::default();
    for (path, said) in swagger["paths"].as_object().expect("paths") {
        let Some(rest) = path.strip_prefix("/api/v1/").filter(|r| !r.is_empty() && !r.starts_with("watch"))
        else {
            continue;
        };
        let mut parts: Vec<&str> = rest.split('/').collect();
        let namespaced = parts.get(1) == Some(&"{namespace}") && parts.len() > 2;
        if namespaced {
            parts.drain(..2);
        }
        let doc = out.entry(parts[0].to_string()).or_default();
        (doc.version, doc.plural) = ("v1".into(), parts[0].into());
        doc.namespaced |= namespaced;
        for said in said.as_object().into_iter().flatten().filter(|(m, _)| *m != "parameters").map(|(_, v)| v)
        {
            let kind = &said["x-kubernetes-group-version-kind"];
            let text = |key: &str| kind[key].as_str().unwrap_or_default().to_string();
            let verb = match said["x-kubernetes-action"].as_str().unwrap_or_default() {
                "post" => "create",
                "put" => "update",
                "connect" => "get",
                other => other,
            };
            match parts.get(2) {
                None => {
                    doc.kind = text("kind");
                    doc.verbs.push(verb.into());
                }
                Some(name) => {
                    if doc.subresources.iter().all(|s| s.name != *name) {
                        let (group, version, kind) = (text("group"), text("version"), text("kind"));
                        doc.subresources.push(SubresourceDoc {
                            name: name.to_string(),
                            group,
                            version,
                            kind,
                            verbs: vec![],
                        });
                    }
                    let sub = doc.subresources.iter_mut().find(|s| s.name == *name);
                    sub.expect("just added").verbs.push(verb.into());
                }
            }
        }
    }
    out.into_values().collect()
}

#[test]
fn the_v2_document_agrees_with_the_published_one() {
    let Some(swagger) = published("swagger.json") else { return };
    let Some(discovery) = published("aggregated_v2.json") else { return };
    let mut resources = served(&discovery);
    resources.extend(core(&swagger));
    let document = without_prose(&v2(&resources, None));
    let swagger = without_prose(&swagger);
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (name, said) in swagger["definitions"].as_object().expect("definitions") {
        let made = &document["definitions"][name];
        if made.is_null() || name.ends_with(".DeleteOptions") || name.ends_with(".WatchEvent") {
            continue;
        }
        checked += 1;
        if made != said {
            wrong.push(format!("{name}: {}", difference(said, made)));
        }
    }
    let (mut operations, mut missing) = (0, 0);
    for (path, said) in swagger["paths"].as_object().expect("paths") {
        for (method, said) in said.as_object().into_iter().flatten().filter(|(m, _)| *m != "parameters") {
            let made = &document["paths"][path][method];
            if made.is_null() {
                missing += 1;
                continue;
            }
            operations += 1;
            for key in ["operationId", "tags", "x-kubernetes-action", "x-kubernetes-group-version-kind"] {
                if made[key] != said[key] {
                    wrong.push(format!("{path} {method} {key}: {} is published as {}", made[key], said[key]));
                }
            }
        }
    }
    println!("{checked} definitions, {operations} operations; {missing} published ones are not made");
    assert!(checked > 400 && operations > 400);
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

/// The first place where two values differ.
fn difference(a: &Value, b: &Value) -> String {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<_> = x.keys().chain(y.keys()).collect();
            let at = keys.into_iter().find(|k| x.get(*k) != y.get(*k)).cloned().unwrap_or_default();
            match (x.get(&at), y.get(&at)) {
                (Some(a), Some(b)) => format!(".{at}{}", difference(a, b)),
                (a, b) => format!(".{at}: published {a:?}, made {b:?}"),
            }
        }
        _ => format!(": published {a}, made {b}"),
    }
}
