//! Objects in all their encodings, and the four languages of change.
//!
//! The first byte of an input chooses the kind (`0`..`9` among ten that have every shape), the rest is the body. Two
//! documents are divided by a line of `---`.

use machinery::apply::{self as ssa, Context};
use machinery::codec::{Strictness, decode, decode_value, protobuf as wire, yaml as text};
use machinery::patch::{json_patch as rfc6902, merge_patch as rfc7386, strategic};
use machinery::schema::{Schema, TypeId, builtin, defaults};
use serde_json::Value;

const KINDS: [(&str, &str, &str); 10] = [
    ("", "v1", "ConfigMap"),
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("apps", "v1", "Deployment"),
    ("", "v1", "Secret"),
    ("networking.k8s.io", "v1", "Ingress"),
    ("batch", "v1", "CronJob"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("", "v1", "Node"),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration"),
];

fn kind(data: &[u8]) -> Option<(usize, &'static Schema, TypeId, &[u8])> {
    let (first, rest) = data.split_first()?;
    let at = usize::from(first.wrapping_sub(b'0')) % KINDS.len();
    let (group, version, kind) = KINDS[at];
    Some((at, &builtin().schema, builtin().kind(group, version, kind)?, rest))
}

fn two(data: &[u8]) -> Option<(Value, Value)> {
    let text = std::str::from_utf8(data).ok()?;
    let (a, b) = text.split_once("\n---\n")?;
    Some((serde_json::from_str(a).ok()?, serde_json::from_str(b).ok()?))
}

/// Decoded is a fixed point of decoding, unknown fields are named once and gone, and protobuf carries the same object.
pub fn json(data: &[u8]) {
    let Some((_, schema, root, body)) = kind(data) else { return };
    let Ok(read) = decode(body, schema, root, Strictness::Strict) else {
        return;
    };
    object(&read.value, schema, root);
    // The same walk over a value finds the same object, and what it complains of but for duplicates, which a value lacks.
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        let again = decode_value(value, schema, root, Strictness::Strict).expect("a value of what was read");
        if !read.strict_errors.iter().any(|e| e.starts_with("duplicate")) {
            assert_eq!(again.value, read.value);
        }
    }
}

fn object(value: &Value, schema: &Schema, root: TypeId) {
    let bytes = serde_json::to_vec(value).expect("JSON");
    let again = decode(&bytes, schema, root, Strictness::Strict).expect("what was decoded decodes");
    assert_eq!(again.strict_errors, Vec::<String>::new());
    assert_eq!(again.value, *value, "decoding is a fixed point");
    let mut defaulted = value.clone();
    defaults::apply(schema, root, &mut defaulted);
    let mut twice = defaulted.clone();
    defaults::apply(schema, root, &mut twice);
    assert_eq!(twice, defaulted, "defaults are set once");
    if let Ok(message) = wire::encode_message(value, schema, root) {
        let back = wire::decode_message(&message, schema, root).expect("what was written reads");
        // The message of an object does not say what it is; its envelope does.
        let mut bare = value.clone();
        if let Some(map) = bare.as_object_mut() {
            map.remove("apiVersion");
            map.remove("kind");
        }
        assert_eq!(back, bare, "protobuf carries the object");
    }
}

/// Bytes that read as a message are an object that writes and reads back the same.
pub fn protobuf(data: &[u8]) {
    let Some((_, schema, root, body)) = kind(data) else { return };
    let _ = wire::open(body);
    let Ok(value) = wire::decode_message(body, schema, root) else { return };
    let bytes = wire::encode_message(&value, schema, root).expect("what was read writes");
    let again = wire::decode_message(&bytes, schema, root).expect("what was written reads");
    assert_eq!(again, value);
    assert_eq!(wire::encode_message(&again, schema, root).expect("writes"), bytes, "one form of one object");
}

/// What YAML reads it also writes, to the same value.
pub fn yaml(data: &[u8]) {
    let Ok(value) = text::decode(data) else { return };
    let written = text::to_string(&value).expect("what was read writes");
    let again = text::decode(written.as_bytes()).unwrap_or_else(|e| panic!("{e}: {written:?} of {value}"));
    assert_eq!(again, value, "{written:?}");
}

/// No panic; a patch that tests what is there changes nothing.
pub fn json_patch(data: &[u8]) {
    let Some((mut document, patch)) = two(data) else { return };
    let whole = serde_json::json!([{"op": "test", "path": "", "value": document}]);
    let before = document.clone();
    assert_eq!(rfc6902::apply(&mut document, &whole), Ok(()));
    assert_eq!(document, before);
    let _ = rfc6902::apply(&mut document, &patch);
}

/// A difference applied arrives; applied again changes nothing; a patch applied twice is one applied once.
pub fn merge_patch(data: &[u8]) {
    let Some((a, b)) = two(data) else { return };
    let mut once = a.clone();
    rfc7386::apply(&mut once, &b);
    let mut twice = once.clone();
    rfc7386::apply(&mut twice, &b);
    assert_eq!(twice, once);
    if has_null(&b) || !a.is_object() || !b.is_object() {
        return;
    }
    let difference = rfc7386::diff(&a, &b);
    let mut arrived = a.clone();
    rfc7386::apply(&mut arrived, &difference);
    assert_eq!(arrived, b, "by {difference}");
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(map) => map.values().any(has_null),
        _ => false,
    }
}

/// No panic, and an empty patch changes nothing.
pub fn strategic_patch(data: &[u8]) {
    let Some((_, schema, root, body)) = kind(data) else { return };
    let Some((original, patch)) = two(body) else { return };
    let Ok(original) = decode_value(original, schema, root, Strictness::Ignore) else { return };
    let same = strategic::apply(original.value.clone(), serde_json::json!({}), schema, root);
    assert_eq!(same.as_ref(), Ok(&original.value));
    let _ = strategic::apply(original.value, patch, schema, root);
}

/// Applying again changes nothing, owners and times included; forcing never conflicts; what was applied is there.
pub fn apply(data: &[u8]) {
    let Some((at, schema, root, body)) = kind(data) else { return };
    let Some((live, config)) = two(body) else { return };
    let (group, version, name) = KINDS[at];
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let typed = |mut value: Value| {
        let map = value.as_object_mut()?;
        map.insert("apiVersion".into(), api_version.clone().into());
        map.insert("kind".into(), name.into());
        Some(value)
    };
    let (Some(live), Some(config)) = (typed(live), typed(config)) else { return };
    let Ok(live) = decode_value(live, schema, root, Strictness::Ignore) else { return };
    if decode_value(config.clone(), schema, root, Strictness::Ignore).is_err() {
        return;
    }
    let context = |manager, force| Context {
        schema,
        root,
        manager,
        api_version: &api_version,
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        force,
        reset: &[&["status"]],
        builtin: true,
        others: None,
    };
    let mut live = live.value;
    ssa::strip(&mut live);
    ssa::update(None, &mut live, &context("before", false));
    let _ = ssa::apply(Some(&live), &config, &context("me", false));
    match ssa::apply(Some(&live), &config, &context("me", true)) {
        Ok(first) => {
            let later = Context { now: "2027-01-01T00:00:00Z", ..context("me", false) };
            let again = ssa::apply(Some(&first), &config, &later).expect("the same again is no conflict");
            assert_eq!(again, first, "applying is idempotent");
        }
        Err(error) => assert!(!matches!(error, ssa::ApplyError::Conflicts(_)), "force met {error:?}"),
    }
}
