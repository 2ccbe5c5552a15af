//! Schemas of kinds: the `definitions` of v2, the `components/schemas` of v3.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Describe, Dialect, ResourceDoc, custom};
use crate::schema::{Builtin, Field, ListKind, Shape, Special, TypeDef, builtin};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

/// Every definition that `needed` names, and what those name in turn.
pub(super) fn all(
    dialect: Dialect,
    resources: &[ResourceDoc],
    needed: BTreeSet<String>,
    describe: Option<Describe<'_>>,
) -> Map<String, Value> {
    let table = builtin();
    let mut out = Map::new();
    let mut waiting: Vec<String> = needed.into_iter().collect();
    for resource in resources.iter().filter(|r| r.schema.is_some()) {
        custom::definitions(dialect, resource, describe, &mut out);
        waiting.push(format!("{META}.ObjectMeta"));
        waiting.push(format!("{META}.ListMeta"));
    }
    while let Some(name) = waiting.pop() {
        if out.contains_key(&name) {
            continue;
        }
        let mut made = match table.by_name(&name) {
            Some(id) => structure(dialect, table, table.schema.get(id), describe, &mut waiting),
            None => match special(dialect, &name) {
                Some(made) => made,
                None => continue,
            },
        };
        if let Some(text) = describe.and_then(|d| d(&name, "")) {
            made.insert("description".into(), text.into());
        }
        out.insert(name, Value::Object(made));
    }
    out
}

fn structure(
    dialect: Dialect,
    table: &Builtin,
    ty: &TypeDef,
    describe: Option<Describe<'_>>,
    waiting: &mut Vec<String>,
) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("type".into(), "object".into());
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &ty.fields {
        let mut made = property(dialect, table, field, waiting);
        if let Some(text) = describe.and_then(|d| d(&ty.name, &field.name)) {
            made.insert("description".into(), text.into());
        }
        properties.insert(field.name.clone(), Value::Object(made));
        if field.required {
            required.push(Value::from(field.name.clone()));
        }
    }
    if !properties.is_empty() {
        out.insert("properties".into(), Value::Object(properties));
    }
    if !required.is_empty() {
        out.insert("required".into(), Value::Array(required));
    }
    if ty.atomic {
        out.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if ty.union {
        out.insert("x-kubernetes-unions".into(), json!([union(ty)]));
    }
    let kinds = kinds(table, ty);
    if !kinds.is_empty() {
        out.insert("x-kubernetes-group-version-kind".into(), Value::Array(kinds));
    }
    out
}

fn union(ty: &TypeDef) -> Value {
    let mut fields = Map::new();
    let mut out = Map::new();
    for field in &ty.fields {
        if field.union_discriminator {
            out.insert("discriminator".into(), field.name.clone().into());
        } else {
            let mut go = field.name.clone();
            go[..1].make_ascii_uppercase();
            fields.insert(field.name.clone(), go.into());
        }
    }
    out.insert("fields-to-discriminateBy".into(), Value::Object(fields));
    Value::Object(out)
}

/// The groups, versions and kinds a type stands for. Options and watch events stand in every group version.
fn kinds(table: &Builtin, ty: &TypeDef) -> Vec<Value> {
    let row =
        |group: &str, version: &str, kind: &str| json!({"group": group, "kind": kind, "version": version});
    let mut out = Vec::new();
    if matches!(ty.go, "DeleteOptions" | "WatchEvent") && ty.name.starts_with(META) {
        let versions: BTreeSet<_> = table.kinds().map(|k| (k.group, k.version)).collect();
        let versions = versions.into_iter().filter(|(group, _)| *group != "meta.k8s.io");
        return versions.map(|(group, version)| row(group, version, ty.go)).collect();
    }
    for kind in table.kinds().filter(|k| k.group != "meta.k8s.io") {
        if table.schema.get(kind.id).name == ty.name {
            out.push(row(kind.group, kind.version, kind.kind));
        }
    }
    out
}

fn property(
    dialect: Dialect,
    table: &Builtin,
    field: &Field,
    waiting: &mut Vec<String>,
) -> Map<String, Value> {
    let mut out = shape(dialect, table, &field.shape, field, waiting);
    let reference = out.get("$ref").cloned();
    let value = dialect == Dialect::V3 && !field.pointer;
    let default = match &field.default {
        Some(default) => Some(default.clone()),
        None if value => match &field.shape {
            Shape::Struct(_) => Some(json!({})),
            Shape::String if !field.omit_empty => Some("".into()),
            Shape::Bool if !field.omit_empty => Some(false.into()),
            Shape::Int32 | Shape::Int64 | Shape::Double if !field.omit_empty => Some(0.into()),
            _ => None,
        },
        None => None,
    };
    // The published v2 document carries no defaults.
    if let Some(default) = default.filter(|_| dialect == Dialect::V3) {
        out.insert("default".into(), default);
    }
    if let (Some(reference), Dialect::V3) = (reference, dialect) {
        // In v3 nothing may stand beside a reference.
        out.remove("$ref");
        out.insert("allOf".into(), json!([{"$ref": reference}]));
    }
    match &field.shape {
        Shape::List(list) => {
            let word = match &list.kind {
                ListKind::Map(keys) => {
                    out.insert("x-kubernetes-list-map-keys".into(), json!(keys));
                    Some("map")
                }
                ListKind::Set => Some("set"),
                ListKind::Atomic => field.atomic.map(|_| "atomic"),
            };
            if let Some(word) = word {
                out.insert("x-kubernetes-list-type".into(), word.into());
            }
        }
        Shape::Bytes => {
            if field.atomic.is_some() {
                out.insert("x-kubernetes-list-type".into(), "atomic".into());
            }
        }
        Shape::Map(map) if map.atomic => {
            out.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        _ => {
            if let Some(atomic) = field.atomic {
                out.insert("x-kubernetes-map-type".into(), if atomic { "atomic" } else { "granular" }.into());
            }
        }
    }
    let s = &field.strategic;
    let words = [(s.merge, "merge"), (s.replace, "replace"), (s.retain_keys, "retainKeys")];
    let words: Vec<&str> = words.iter().filter(|(has, _)| *has).map(|(_, word)| *word).collect();
    if !words.is_empty() {
        out.insert("x-kubernetes-patch-strategy".into(), words.join(",").into());
    }
    if let Some(key) = &s.merge_key {
        out.insert("x-kubernetes-patch-merge-key".into(), key.clone().into());
    }
    out
}

fn shape(
    dialect: Dialect,
    table: &Builtin,
    shape: &Shape,
    field: &Field,
    waiting: &mut Vec<String>,
) -> Map<String, Value> {
    let mut out = Map::new();
    let mut say = |ty: &str, format: &str| {
        out.insert("type".into(), ty.into());
        if !format.is_empty() {
            out.insert("format".into(), format.into());
        }
    };
    match shape {
        Shape::Bool => say("boolean", ""),
        Shape::Int32 => say("integer", "int32"),
        Shape::Int64 => say("integer", "int64"),
        Shape::Double => say("number", "double"),
        Shape::Bytes => say("string", "byte"),
        Shape::String => {
            say("string", "");
            if !field.enum_values.is_empty() {
                out.insert("enum".into(), json!(field.enum_values));
            }
        }
        Shape::List(list) => {
            out.insert("type".into(), "array".into());
            out.insert("items".into(), inside(dialect, table, &list.item, field, waiting));
        }
        Shape::Map(map) => {
            out.insert("type".into(), "object".into());
            out.insert("additionalProperties".into(), inside(dialect, table, &map.value, field, waiting));
        }
        Shape::Any if !field.go.contains("v1.") => say("object", ""),
        _ => {
            let name = reference(table, shape, field);
            out.insert("$ref".into(), dialect.reference(&name)["$ref"].clone());
            waiting.push(name);
        }
    }
    out
}

/// An item of a list or a value of a map; v3 tells its zero value.
fn inside(
    dialect: Dialect,
    table: &Builtin,
    item: &Shape,
    field: &Field,
    waiting: &mut Vec<String>,
) -> Value {
    let mut out = shape(dialect, table, item, field, waiting);
    if dialect == Dialect::V3 {
        let zero = match item {
            Shape::String => Some(json!("")),
            Shape::Bool => Some(json!(false)),
            Shape::Int32 | Shape::Int64 | Shape::Double => Some(json!(0)),
            Shape::Struct(_) => Some(json!({})),
            _ => None,
        };
        if let Some(zero) = zero {
            if let Some(to) = out.remove("$ref") {
                out.insert("allOf".into(), json!([{"$ref": to}]));
            }
            out.insert("default".into(), zero);
        }
    }
    Value::Object(out)
}

/// The definition a shape refers to.
fn reference(table: &Builtin, shape: &Shape, field: &Field) -> String {
    match shape {
        Shape::Struct(id) => table.schema.get(*id).name.clone(),
        Shape::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".into(),
        Shape::Time => format!("{META}.Time"),
        Shape::MicroTime => format!("{META}.MicroTime"),
        Shape::Duration => format!("{META}.Duration"),
        Shape::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".into(),
        Shape::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension".into(),
        Shape::Special(Special::JsonSchemaPropsOrArray) => format!("{APIEXTENSIONS}.JSONSchemaPropsOrArray"),
        Shape::Special(Special::JsonSchemaPropsOrBool) => format!("{APIEXTENSIONS}.JSONSchemaPropsOrBool"),
        Shape::Special(Special::JsonSchemaPropsOrStringArray) => {
            format!("{APIEXTENSIONS}.JSONSchemaPropsOrStringArray")
        }
        _ if field.go.ends_with("FieldsV1") => format!("{META}.FieldsV1"),
        _ => format!("{APIEXTENSIONS}.JSON"),
    }
}

/// Definitions of the types that are not structures.
fn special(dialect: Dialect, name: &str) -> Option<Map<String, Value>> {
    let v3 = dialect == Dialect::V3;
    let made = match name.rsplit('.').next()? {
        "Quantity" if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        "Quantity" | "Duration" => json!({"type": "string"}),
        "Time" | "MicroTime" => json!({"type": "string", "format": "date-time"}),
        "IntOrString" if v3 => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        "IntOrString" => json!({"type": "string", "format": "int-or-string"}),
        "RawExtension" | "FieldsV1" | "Patch" => json!({"type": "object"}),
        "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => {
            json!({})
        }
        _ => return None,
    };
    match made {
        Value::Object(made) => Some(made),
        _ => None,
    }
}
