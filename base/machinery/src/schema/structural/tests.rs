//! Custom schemas: pruning, defaults, refusals, values.

use serde_json::json;

use super::*;
use crate::codec::decode;
use crate::field::Path;
use crate::schema::defaults;

fn compiled(schema: Value) -> (Schema, TypeId) {
    compile(&schema, &Path::new("schema")).expect("structural")
}

fn crontab() -> Value {
    json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "properties": {
            "cron": {"type": "string", "pattern": "^[0-9* ]+$"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
            "port": {"x-kubernetes-int-or-string": true},
            "note": {"type": "string", "nullable": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "hosts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "weight": {"type": "number", "default": 0.5}}}},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true},
            "mode": {"type": "string", "enum": ["A", "B"]},
        }},
        "status": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {}},
    }})
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let (schema, root) = compiled(crontab());
    let object = json!({
        "apiVersion": "g/v1", "kind": "CronTab", "metadata": {"name": "a", "bogus": 1}, "extra": true,
        "spec": {"x": 1, "cron": "*", "replicas": "three", "note": null, "port": null, "labels": {"a": "b"},
            "free": {"anything": [1], "known": {"a": "1", "b": 2}},
            "hosts": [{"name": "h", "y": 2}],
            "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "t", "z": 1}, "spec": {"q": 1}}},
    });
    let bytes = serde_json::to_vec(&object).expect("JSON");
    let read = decode(&bytes, &schema, root, Strictness::Strict).expect("decodes");
    let mut errors = read.strict_errors.clone();
    errors.sort();
    assert_eq!(
        errors,
        [
            r#"unknown field "extra""#,
            r#"unknown field "metadata.bogus""#,
            r#"unknown field "spec.free.known.b""#,
            r#"unknown field "spec.hosts[0].y""#,
            r#"unknown field "spec.template.metadata.z""#,
            r#"unknown field "spec.x""#,
        ]
    );
    assert_eq!(
        read.value,
        json!({
            "apiVersion": "g/v1", "kind": "CronTab", "metadata": {"name": "a"},
            "spec": {"cron": "*", "replicas": "three", "note": null, "labels": {"a": "b"},
                "free": {"anything": [1], "known": {"a": "1"}}, "hosts": [{"name": "h"}],
                "template": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "t"}, "spec": {"q": 1}}},
        })
    );
    assert_eq!(prune(&schema, root, object).expect("prunes"), read.value);
}

#[test]
fn defaults_reach_into_lists() {
    let (schema, root) = compiled(crontab());
    let mut object = json!({"spec": {"hosts": [{"name": "h"}, {"name": "i", "weight": 0}]}});
    defaults::apply(&schema, root, &mut object);
    assert_eq!(
        object,
        json!({"spec": {"replicas": 1, "hosts": [{"name": "h", "weight": 0.5}, {"name": "i", "weight": 0}]}})
    );
}

#[test]
fn what_is_not_structural_is_told() {
    let refuse = |schema: Value| {
        let errors = compile(&schema, &Path::new("schema")).expect_err("refused");
        errors.0.iter().map(|e| e.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(refuse(json!({})), ["schema.type: Required value: must not be empty at the root"]);
    assert_eq!(
        refuse(json!({"type": "object", "properties": {"a": {}, "b": {"type": "array", "items": {}}}})),
        [
            "schema.properties[a].type: Required value: must not be empty for specified object fields",
            "schema.properties[b].items.type: Required value: must not be empty for specified array items",
        ]
    );
    let both = json!({"type": "object", "properties": {"a": {"type": "object", "additionalProperties": true,
        "properties": {"b": {"type": "string"}}}}});
    assert_eq!(
        refuse(both),
        [
            "schema.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"
        ]
    );
    let mut deep = json!({"type": "string"});
    for _ in 0..200 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    assert_eq!(refuse(deep).len(), 1);
}

#[test]
fn values_are_checked_in_upstreams_words() {
    let schema = validator(&crontab());
    let check = |object: Value| {
        let mut errors: Vec<String> = schema.validate(&object).0.iter().map(|e| e.to_string()).collect();
        errors.sort();
        errors
    };
    assert_eq!(check(json!({"spec": {"replicas": 3, "mode": "A", "note": null}})), Vec::<String>::new());
    assert_eq!(check(json!({"metadata": 1})), ["spec: Required value"]);
    assert_eq!(
        check(json!({"spec": {"replicas": "x"}})),
        [
            r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#
        ]
    );
    assert_eq!(
        check(json!({"spec": {"replicas": 11, "cron": "x", "mode": "C"}})),
        [
            "spec.cron: Invalid value: \"x\": spec.cron in body should match '^[0-9* ]+$'",
            r#"spec.mode: Unsupported value: "C": supported values: "A", "B""#,
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ]
    );
    assert_eq!(
        check(json!({"spec": {"hosts": [{"name": "a"}, {"name": "a"}, {}]}})),
        [r#"spec.hosts[1]: Duplicate value: {"name":"a"}"#, "spec.hosts[2].name: Required value"]
    );
}
