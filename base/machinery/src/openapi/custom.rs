//! Custom kinds in the published documents.

use serde_json::{Map, Value, json};

use super::{Dialect, ResourceDoc};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// `stable.example.com`, `v1`, `CronTab` -> `com.example.stable.v1.CronTab`.
pub(super) fn name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

/// The kind and its list.
pub(super) fn definitions(dialect: Dialect, r: &ResourceDoc, out: &mut Map<String, Value>) {
    let Some(schema) = &r.schema else { return };
    let mut object = match if dialect == Dialect::V2 { simplify(schema) } else { schema.clone() } {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    let text = json!({"type": "string"});
    let meta = |name: &str| match dialect {
        Dialect::V2 => dialect.reference(&format!("{META}.{name}")),
        Dialect::V3 => json!({"allOf": [dialect.reference(&format!("{META}.{name}"))]}),
    };
    object.entry("type").or_insert_with(|| "object".into());
    let properties = object.entry("properties").or_insert_with(|| json!({}));
    if let Value::Object(properties) = properties {
        properties.insert("apiVersion".into(), text.clone());
        properties.insert("kind".into(), text.clone());
        properties.insert("metadata".into(), meta("ObjectMeta"));
    }
    let gvk = |kind: &str| json!([{"group": r.group, "kind": kind, "version": r.version}]);
    object.insert("x-kubernetes-group-version-kind".into(), gvk(&r.kind));
    let own = name(&r.group, &r.version, &r.kind);
    let kind = if r.list_kind.is_empty() { format!("{}List", r.kind) } else { r.list_kind.clone() };
    let list = json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text, "kind": text, "metadata": meta("ListMeta"),
            "items": {"type": "array", "items": dialect.reference(&own)},
        },
        "x-kubernetes-group-version-kind": gvk(&kind),
    });
    out.insert(own, Value::Object(object));
    out.insert(name(&r.group, &r.version, &kind), list);
}

/// What OpenAPI v2 can say of a v3 schema: nothing nullable, no alternatives; where fields may be unknown, nothing
/// is said of them, so that old clients do not prune.
fn simplify(schema: &Value) -> Value {
    let Value::Object(schema) = schema else { return json!({}) };
    let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
    let mut out = Map::new();
    for (key, value) in schema {
        let kept = match key.as_str() {
            "anyOf" | "oneOf" | "allOf" | "not" | "nullable" | "default" | "x-kubernetes-validations" => {
                continue;
            }
            "properties" => {
                let each = value.as_object().into_iter().flatten();
                Value::Object(each.map(|(name, schema)| (name.clone(), simplify(schema))).collect())
            }
            "items" => simplify(value),
            "additionalProperties" if value.is_object() => simplify(value),
            _ => value.clone(),
        };
        out.insert(key.clone(), kept);
    }
    if flag("x-kubernetes-preserve-unknown-fields") {
        out.remove("properties");
        out.remove("items");
        out.remove("type");
    }
    if flag("x-kubernetes-int-or-string") || flag("nullable") {
        out.remove("type");
        out.remove("properties");
        out.remove("items");
    }
    Value::Object(out)
}
