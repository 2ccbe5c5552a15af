//! Custom kinds in the published documents. Source: apiextensions-apiserver's `controller/openapi/builder` and
//! `controller/openapi/v2`.

use serde_json::{Map, Value, json};

use super::{Describe, Dialect, ResourceDoc};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// `stable.example.com`, `v1`, `CronTab` -> `com.example.stable.v1.CronTab`.
pub(super) fn name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

/// The words for what every kind has: those of a built-in one.
#[derive(Clone, Copy)]
struct Words<'a> {
    dialect: Dialect,
    describe: Option<Describe<'a>>,
}

impl Words<'_> {
    fn text(self, field: &str) -> Value {
        let said = self.describe.and_then(|d| d("io.k8s.api.core.v1.ConfigMap", field));
        let mut out = json!({"type": "string"});
        if let Some(said) = said {
            out["description"] = said.into();
        }
        out
    }

    fn meta(self, of: &str, like: &str) -> Value {
        let reference = self.dialect.reference(&format!("{META}.{of}"));
        let mut out = match self.dialect {
            Dialect::V2 => reference,
            Dialect::V3 => json!({"allOf": [reference]}),
        };
        if let Some(said) = self.describe.and_then(|d| d(like, "metadata")) {
            out["description"] = said.into();
        }
        out
    }

    fn object_meta(self) -> Value {
        self.meta("ObjectMeta", "io.k8s.api.core.v1.ConfigMap")
    }
}

/// The kind and its list.
pub(super) fn definitions(
    dialect: Dialect,
    r: &ResourceDoc,
    describe: Option<Describe<'_>>,
    out: &mut Map<String, Value>,
) {
    let Some(schema) = &r.schema else { return };
    let words = Words { dialect, describe };
    let open = dialect == Dialect::V2 && flag(schema, PRESERVE);
    let mut object = if open {
        // Any property named here would have old clients refuse all others.
        json!({"type": "object"})
    } else {
        let mut object = published(dialect, schema);
        embedded(words, &mut object);
        property(&mut object, "apiVersion", words.text("apiVersion"));
        property(&mut object, "kind", words.text("kind"));
        property(&mut object, "metadata", words.object_meta());
        object
    };
    let gvk = |kind: &str| json!([{"group": r.group, "kind": kind, "version": r.version}]);
    object["x-kubernetes-group-version-kind"] = gvk(&r.kind);
    let own = name(&r.group, &r.version, &r.kind);
    let kind = if r.list_kind.is_empty() { format!("{}List", r.kind) } else { r.list_kind.clone() };
    let more = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    let mut list = json!({
        "description": format!("{kind} is a list of {}", r.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": words.text("apiVersion"),
            "kind": words.text("kind"),
            "metadata": words.meta("ListMeta", "io.k8s.api.core.v1.ConfigMapList"),
            "items": {
                "description": format!("List of {}. More info: {more}", r.plural),
                "type": "array",
                "items": dialect.reference(&own),
            },
        },
        "x-kubernetes-group-version-kind": gvk(&kind),
    });
    if !r.selectable_fields.is_empty() {
        let fields: Vec<Value> = r.selectable_fields.iter().map(|f| json!({"fieldPath": f})).collect();
        for made in [&mut object, &mut list] {
            made["x-kubernetes-selectable-fields"] = fields.clone().into();
        }
    }
    out.insert(own, object);
    out.insert(name(&r.group, &r.version, &kind), list);
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

fn property(schema: &mut Value, name: &str, value: Value) {
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"][name] = value;
}

/// What an embedded resource has, whether its schema says so or not.
fn embedded(words: Words<'_>, schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(all)) => all.values_mut().for_each(|v| embedded(words, v)),
            ("items" | "additionalProperties", value) => embedded(words, value),
            _ => {}
        }
    }
    if !flag(schema, EMBEDDED) || (words.dialect == Dialect::V2 && flag(schema, PRESERVE)) {
        return;
    }
    property(schema, "apiVersion", words.text("apiVersion"));
    property(schema, "kind", words.text("kind"));
    property(schema, "metadata", words.object_meta());
    let mut required = schema["required"].as_array().cloned().unwrap_or_default();
    for name in ["kind", "apiVersion"] {
        if !required.iter().any(|r| r == name) {
            required.push(name.into());
        }
    }
    schema["required"] = required.into();
}

/// The schema as a document has it. OpenAPI v2 knows nothing nullable and no alternatives; where fields may be unknown
/// nothing is said of them there, so that old clients do not refuse them.
fn published(dialect: Dialect, schema: &Value) -> Value {
    let Value::Object(schema) = schema else { return json!({}) };
    let v2 = dialect == Dialect::V2;
    let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
    let mut out = Map::new();
    for (key, value) in schema {
        let kept = match key.as_str() {
            "example" | "externalDocs" => continue,
            "anyOf" | "oneOf" | "allOf" | "not" | "nullable" if v2 => continue,
            "properties" => {
                let each = value.as_object().into_iter().flatten();
                Value::Object(each.map(|(name, schema)| (name.clone(), published(dialect, schema))).collect())
            }
            "items" => published(dialect, value),
            "additionalProperties" if value.is_object() => published(dialect, value),
            _ => value.clone(),
        };
        out.insert(key.clone(), kept);
    }
    if flag(INT_OR_STRING) && !v2 {
        either(&mut out);
    }
    if !v2 {
        return Value::Object(out);
    }
    let nullable = |s: Option<&Value>| s.is_some_and(|s| s["nullable"] == Value::Bool(true));
    let mut required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    required.retain(|name| !nullable(schema.get("properties").and_then(|p| p.get(name.as_str()?))));
    if nullable(schema.get("additionalProperties")) {
        required.clear();
    }
    out.remove("required");
    if !required.is_empty() {
        out.insert("required".into(), required.into());
    }
    if flag("nullable") {
        out.remove("type");
    }
    if flag("nullable") || flag(PRESERVE) {
        out.remove("items");
        out.remove("properties");
    }
    let ty = out.get("type").and_then(Value::as_str).unwrap_or_default();
    if (ty == "array" && !out.contains_key("items")) || (ty == "object" && flag(PRESERVE)) {
        out.remove("type");
    }
    Value::Object(out)
}

/// Says "int or string" in words every reader of OpenAPI v3 understands.
fn either(schema: &mut Map<String, Value>) {
    let both = json!([{"type": "integer"}, {"type": "string"}]);
    let said = |any: Option<&Value>| any == Some(&both);
    let in_all = schema.get("allOf").and_then(|all| all.get(0)).is_some_and(|first| said(first.get("anyOf")));
    if said(schema.get("anyOf")) || in_all {
        return;
    }
    if schema.get("anyOf").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        schema.insert("anyOf".into(), both);
        return;
    }
    let mut all = vec![json!({"anyOf": both})];
    all.extend(schema.get("allOf").and_then(Value::as_array).cloned().unwrap_or_default());
    schema.insert("allOf".into(), all.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_dialects_differ_as_upstreams_do() {
        let schema = json!({"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "integer", "nullable": true, "default": 1}, "b": {INT_OR_STRING: true},
            "c": {"type": "object", PRESERVE: true, "properties": {"x": {"type": "string"}}}}});
        let v2 = published(Dialect::V2, &schema);
        assert_eq!(
            v2,
            json!({"type": "object", "required": ["b"], "properties": {
                "a": {"default": 1}, "b": {INT_OR_STRING: true}, "c": {PRESERVE: true}}})
        );
        let v3 = published(Dialect::V3, &schema);
        assert_eq!(v3["properties"]["b"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
        assert_eq!(v3["properties"]["c"], schema["properties"]["c"]);
    }

    #[test]
    fn embedded_resources_have_what_all_have() {
        let schema = json!({"type": "object", "properties": {"t": {"type": "object", EMBEDDED: true,
            "properties": {"spec": {"type": "object"}}}}});
        let r = ResourceDoc {
            group: "a.b".into(),
            version: "v1".into(),
            kind: "Foo".into(),
            plural: "foos".into(),
            schema: Some(schema),
            selectable_fields: vec!["spec.x".into()],
            ..ResourceDoc::default()
        };
        let mut out = Map::new();
        definitions(Dialect::V3, &r, None, &mut out);
        let t = &out["b.a.v1.Foo"]["properties"]["t"];
        assert_eq!(t["required"], json!(["kind", "apiVersion"]));
        assert!(t["properties"]["metadata"]["allOf"].is_array());
        assert_eq!(out["b.a.v1.FooList"]["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.x"}]));
        let open = ResourceDoc { schema: Some(json!({"type": "object", PRESERVE: true})), ..r };
        definitions(Dialect::V2, &open, None, &mut out);
        assert!(out["b.a.v1.Foo"]["properties"].is_null());
    }
}
