//! Objects within custom objects (`x-kubernetes-embedded-resource`): their type and metadata are checked as if they
//! stood alone. Source: apiextensions-apiserver's `schema/objectmeta`.

use machinery::field::{FieldErrors, Path};
use machinery::{meta, names};
use serde_json::{Value, json};

const EMBEDDED: &str = "x-kubernetes-embedded-resource";

/// Whether the schema speaks of any.
pub fn any(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.get(EMBEDDED) == Some(&Value::Bool(true)) || map.values().any(any),
        Value::Array(all) => all.iter().any(any),
        _ => false,
    }
}

/// What is wrong with those in `object`.
pub fn validate(schema: &Value, object: &Value) -> FieldErrors {
    let mut errors = FieldErrors::default();
    walk(schema, object, &Path::root(), &mut errors);
    errors
}

fn walk(schema: &Value, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match value {
        Value::Object(members) => {
            if schema[EMBEDDED] == Value::Bool(true) {
                resource(value, path, errors);
            }
            for (name, member) in members {
                if let Some(says) = schema["properties"].get(name) {
                    walk(says, member, &path.child(name), errors);
                } else if schema["additionalProperties"].is_object() {
                    walk(&schema["additionalProperties"], member, &path.key(name), errors);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(&schema["items"], item, &path.index(index), errors);
            }
        }
        _ => {}
    }
}

fn resource(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at_version = path.child("apiVersion");
    match &value["apiVersion"] {
        Value::Null => errors.required(&at_version, ""),
        Value::String(version) if version.is_empty() => {
            errors.invalid(&at_version, "", "must not be empty");
        }
        Value::String(version) if version.matches('/').count() > 1 => {
            errors.invalid(
                &at_version,
                version.as_str(),
                format!("unexpected GroupVersion string: {version}"),
            );
        }
        Value::String(_) => {}
        other => errors.invalid(&at_version, other.clone(), "must be a string"),
    }
    let at_kind = path.child("kind");
    match &value["kind"] {
        Value::Null => errors.required(&at_kind, ""),
        Value::String(kind) if kind.is_empty() => errors.invalid(&at_kind, "", "must not be empty"),
        Value::String(kind) => {
            let bad = names::dns1035_label(&kind.to_lowercase());
            if !bad.is_empty() {
                let detail = format!("may have mixed case, but should otherwise match: {}", bad.join(","));
                errors.invalid(&at_kind, kind.as_str(), detail);
            }
        }
        other => errors.invalid(&at_kind, other.clone(), "must be a string"),
    }
    if let Value::Object(metadata) = &value["metadata"] {
        let mut metadata = metadata.clone();
        // One without a name is complete too.
        if metadata.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
            metadata.insert("name".into(), "fakename".into());
        }
        let namespaced = metadata.get("namespace").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
        let found = meta::validate(
            &json!({"metadata": metadata}),
            namespaced,
            names::path_segment,
            &path.child("metadata"),
        );
        errors.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_objects_are_objects() {
        let schema = json!({"properties": {"spec": {"properties": {"items": {"type": "array", "items": {
            EMBEDDED: true}}}}}});
        assert!(any(&schema) && !any(&schema["properties"]["spec"]["properties"]["none"]));
        let said = |item: Value| -> Vec<String> {
            let found = validate(&schema, &json!({"spec": {"items": [item]}}));
            found.0.iter().map(ToString::to_string).collect()
        };
        assert!(
            said(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}})).is_empty()
        );
        assert_eq!(
            said(json!({"kind": "A_B"})),
            [
                "spec.items[0].apiVersion: Required value",
                "spec.items[0].kind: Invalid value: \"A_B\": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            ]
        );
        assert_eq!(
            said(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a/b"}})),
            ["spec.items[0].metadata.name: Invalid value: \"a/b\": may not contain '/'"]
        );
    }
}
