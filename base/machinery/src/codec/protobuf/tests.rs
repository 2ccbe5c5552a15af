//! Known bytes, round trips, bad bytes.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::codec::{Strictness, decode as decode_json};
use crate::schema::{TypeId, builtin};

fn kind(group: &str, kind: &str) -> TypeId {
    builtin().kind(group, "v1", kind).expect(kind)
}

fn settled(id: TypeId, value: &Value) -> Value {
    let bytes = serde_json::to_vec(value).expect("JSON");
    decode_json(&bytes, &builtin().schema, id, Strictness::Strict).expect("decodes").value
}

#[test]
fn a_known_object_has_upstreams_bytes() {
    let schema = &builtin().schema;
    let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"b": "2", "a": "1"}});
    let bytes = encode(&value, schema, kind("", "ConfigMap")).expect("encodes");
    let meta = b"\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0";
    let mut message = vec![0x0a, meta.len() as u8];
    message.extend_from_slice(meta);
    message.extend_from_slice(b"\x12\x06\x0a\x01a\x12\x011\x12\x06\x0a\x01b\x12\x012");
    let mut whole = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
    whole.push(message.len() as u8);
    whole.extend_from_slice(&message);
    whole.extend_from_slice(b"\x1a\0\x22\0");
    assert_eq!(bytes, whole);
    assert_eq!(decode(&bytes, schema, kind("", "ConfigMap")), Ok(value));
}

#[test]
fn embedded_and_wrapped_fields_round_trip() {
    let schema = &builtin().schema;
    for (group, name, value) in [
        (
            "",
            "Pod",
            json!({"metadata": {"name": "p", "creationTimestamp": "2024-01-02T03:04:05Z"},
                "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "2Gi"}},
                    "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 3},
                    "env": [{"name": "a", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}]}],
                    "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
                    "terminationGracePeriodSeconds": 0}}),
        ),
        (
            "authorization.k8s.io",
            "SubjectAccessReview",
            json!({"spec": {"user": "u", "extra": {"a": ["1", "2"], "b": []}}}),
        ),
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicy",
            json!({"spec": {"matchConstraints": {"resourceRules": [{"resourceNames": ["x"], "operations": ["CREATE"],
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}}}),
        ),
        (
            "coordination.k8s.io",
            "Lease",
            json!({"spec": {"renewTime": "2024-01-02T03:04:05.678901Z", "leaseTransitions": -1}}),
        ),
        (
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            json!({"spec": {"group": "g", "versions": [{"name": "v1", "served": true, "storage": true, "schema":
                {"openAPIV3Schema": {"type": "object", "properties": {"a": {"items": {"type": "string"}, "minimum": 1.5,
                    "default": [1, null]}, "b": {"additionalProperties": true}, "c": {"enum": [null, 1]}}}}}]}}),
        ),
    ] {
        let id = kind(group, name);
        let value = settled(id, &value);
        let bytes = encode_message(&value, schema, id).expect(name);
        assert_eq!(decode_message(&bytes, schema, id).expect(name), value);
    }
}

#[test]
fn lists_are_assembled_from_messages() {
    let schema = &builtin().schema;
    let (pod, list) = (kind("", "Pod"), kind("", "PodList"));
    let one = settled(pod, &json!({"metadata": {"name": "a"}, "spec": {"containers": []}}));
    let message = encode_message(&one, schema, pod).expect("encodes");
    let metadata = json!({"resourceVersion": "7", "remainingItemCount": 3});
    let bytes = encode_list("v1", "PodList", &metadata, [&message[..], &message[..]]).expect("encodes");
    let whole = json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": [one, one]});
    assert_eq!(bytes, encode(&whole, schema, list).expect("encodes"));
    // An empty list reads back as null, since protobuf cannot tell the two apart.
    assert_eq!(decode(&bytes, schema, list).expect("decodes")["items"][1]["metadata"]["name"], "a");
}

#[test]
fn watch_events_hold_an_enveloped_object() {
    let event = watch_event("ADDED", b"k8s\0x");
    assert_eq!(event, b"\x0a\x05ADDED\x12\x07\x0a\x05k8s\0x");
    assert_eq!(frame(&event)[..4], [0, 0, 0, 16]);
}

#[test]
fn what_has_no_form_says_so() {
    let table = builtin();
    let id = table.kind("meta.k8s.io", "v1", "Table").expect("Table");
    let error = encode(&json!({}), &table.schema, id).expect_err("refused").to_string();
    assert_eq!(error, "io.k8s.apimachinery.pkg.apis.meta.v1.Table has no protobuf form");
    assert_eq!(open(b"{}"), Err(ProtobufError::NoMagic));
}

proptest! {
    #[test]
    fn bad_bytes_never_panic(bytes: Vec<u8>) {
        let _ = decode_message(&bytes, &builtin().schema, kind("", "Pod"));
        let _ = open(&bytes);
    }
}
