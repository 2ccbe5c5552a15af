//! Schemas upstream refuses, and in which words.

use super::*;
use serde_json::json;

fn said(schema: Value) -> Vec<String> {
    check(&schema, false, &Path::new("s")).0.iter().map(ToString::to_string).collect()
}

fn within(property: Value) -> Vec<String> {
    said(json!({"type": "object", "properties": {"p": property}}))
}

#[test]
fn structure_is_given_everywhere() {
    assert_eq!(said(json!({"type": "object"})), [""; 0]);
    assert_eq!(said(json!({})), ["s.type: Required value: must not be empty at the root"]);
    assert_eq!(
        within(json!({"properties": {}})),
        ["s.properties[p].type: Required value: must not be empty for specified object fields"]
    );
    assert_eq!(
        within(json!({"type": "array"})),
        ["s.properties[p].items: Required value: must be specified"]
    );
    assert_eq!(
        within(json!({"type": "array", "items": {}})),
        ["s.properties[p].items.type: Required value: must not be empty for specified array items"]
    );
    assert_eq!(within(json!({"x-kubernetes-int-or-string": true})), [""; 0]);
    assert_eq!(
        within(
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})
        ),
        [""; 0]
    );
    assert_eq!(
        within(json!({"type": "foo"}))[0],
        "s.properties[p].type: Unsupported value: \"foo\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""
    );
}

#[test]
fn junctors_restrict_only() {
    assert_eq!(
        said(json!({"type": "object", "properties": {"a": {"type": "string"}},
            "anyOf": [{"properties": {"a": {"type": "string"}, "b": {}}}]})),
        [
            "s.anyOf[0].properties[a].type: Forbidden: must be empty to be structural",
            "s.properties[b]: Required value: because it is defined in s.anyOf[0].properties[b]",
        ]
    );
}

#[test]
fn embedded_resources_and_metadata() {
    assert_eq!(
        within(
            json!({"type": "string", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true})
        ),
        [
            "s.properties[p].type: Invalid value: \"string\": must be object if x-kubernetes-embedded-resource is true"
        ]
    );
    let metadata = |m: Value| said(json!({"type": "object", "properties": {"metadata": m}}));
    assert_eq!(
        metadata(json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}})),
        [""; 0]
    );
    assert_eq!(
        metadata(json!({"type": "object", "properties": {"labels": {"type": "object"}}})),
        [
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
        ]
    );
}

#[test]
fn lists_and_maps() {
    let list = |more: Value| {
        let mut s =
            json!({"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}});
        for (key, value) in more.as_object().unwrap() {
            s[key] = value.clone();
        }
        within(s)
    };
    assert_eq!(
        list(json!({"x-kubernetes-list-type": "map"})),
        [
            "s.properties[p].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
        ]
    );
    assert_eq!(
        list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]})),
        [
            "s.properties[p].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
        ]
    );
    assert_eq!(
        list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["z"]})),
        [
            "s.properties[p].x-kubernetes-list-map-keys: Invalid value: [\"z\"]: entries must all be names of item properties"
        ]
    );
    assert_eq!(
        list(json!({"x-kubernetes-list-type": "set"})),
        [
            "s.properties[p].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set"
        ]
    );
    assert_eq!(
        within(json!({"type": "string", "x-kubernetes-map-type": "atomic"})),
        [
            "s.properties[p].type: Invalid value: \"string\": must be object if x-kubernetes-map-type is specified"
        ]
    );
}

#[test]
fn defaults_are_checked_and_pruned() {
    let found = within(json!({"type": "integer", "default": "x"}));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("s.properties[p].default: Invalid value: \"string\":"), "{found:?}");
    let found = within(
        json!({"type": "object", "properties": {"a": {"type": "integer", "maximum": 1}}, "default": {"a": 2}}),
    );
    assert_eq!(
        found,
        ["s.properties[p].default.a: Invalid value: 2: a in body should be less than or equal to 1"]
    );
    assert_eq!(
        within(json!({"type": "object", "properties": {"a": {"type": "integer"}}, "default": {"b": 2}})),
        ["s.properties[p].default: Invalid value: {\"b\":2}: must not have unknown fields"]
    );
    assert_eq!(
        said(json!({"type": "object", "properties": {"kind": {"type": "string", "default": "x"}}})),
        ["s.properties[kind].default: Forbidden: must not be set in top-level kind"]
    );
}

#[test]
fn the_root_beside_a_status() {
    let schema = json!({"type": "object", "oneOf": []});
    let found = check(&schema, true, &Path::new("s"));
    assert!(found.0[0].detail.starts_with("only [Description Type Format"), "{found:?}");
    assert!(check(&json!({"type": "object", "required": ["spec"]}), true, &Path::new("s")).is_empty());
}

#[test]
fn selectable_fields_are_scalars_of_the_schema() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "string"}, "l": {"type": "array", "items": {"type": "string"}}}}}});
    let said = |paths: &[&str]| -> Vec<String> {
        let fields: Vec<Value> = paths.iter().map(|p| json!({"jsonPath": p})).collect();
        let mut errors = FieldErrors::default();
        selectable_fields(&fields, &schema, &Path::new("f"), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    };
    assert_eq!(said(&[".spec.a"]), [""; 0]);
    assert_eq!(
        said(&[".spec.b"]),
        ["f[0].jsonPath: Invalid value: \".spec.b\": is an invalid path: does not refer to a valid field"]
    );
    assert_eq!(
        said(&[".spec.l"]),
        [
            "f[0].jsonPath: Invalid value: \".spec.l\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
        ]
    );
    assert_eq!(said(&[".spec.a", ".spec.a"]), ["f[1].jsonPath: Duplicate value: \".spec.a\""]);
}

#[test]
fn unknown_formats_are_warned_of() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "format": "nope"}, "b": {"type": "string", "format": "date-time"}}});
    assert_eq!(warnings(&schema), ["unrecognized format \"nope\""]);
}
