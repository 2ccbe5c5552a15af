//! The table against the published OpenAPI of Kubernetes, when that file is at hand.

use std::path::PathBuf;

use machinery::schema::{Field, ListKind, Shape, builtin};
use serde_json::Value;

fn published() -> Option<Value> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let beside =
        ["../../../shared", "../../../../shared"].map(|up| here.join(up).join("openapi/swagger.json"));
    let named = std::env::var_os("IRONCLAD_SWAGGER").map(PathBuf::from);
    let Some(path) = named.into_iter().chain(beside).find(|p| p.exists()) else {
        println!("skipped: no published OpenAPI beside the checkout; name one in IRONCLAD_SWAGGER");
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
    let Some(swagger) = published() else { return };
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
