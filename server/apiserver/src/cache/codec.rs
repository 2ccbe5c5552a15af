//! The stored form of an object and its way to the final bytes.
//!
//! Stored: one compact JSON object, `kind`, `apiVersion` and `metadata` first, `metadata.resourceVersion` absent
//! (the store's revision is the resource version, known only once the write is done). Final: the same bytes with
//! `"resourceVersion":"<n>"` as the first member of `metadata`. The splice finds its place without parsing what
//! comes after it, and accepts any member order.

use bytes::Bytes;
use serde_json::Value;

const MEMBER: &[u8] = b"\"resourceVersion\":\"";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    #[error("the object has no metadata")]
    NoMetadata,
    #[error("the stored value is not a JSON object")]
    NotAnObject,
    #[error("the object cannot be written as JSON: {0}")]
    Unwritable(String),
}

/// The stored form of `object`: `metadata.resourceVersion` is left out, the rest unchanged.
pub fn encode_for_store(object: &Value) -> Result<Bytes, CodecError> {
    let map = object.as_object().ok_or(CodecError::NotAnObject)?;
    let metadata = map.get("metadata").and_then(Value::as_object).ok_or(CodecError::NoMetadata)?;
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    for name in ["kind", "apiVersion"] {
        if let Some(value) = map.get(name) {
            member(&mut out, name, value)?;
        }
    }
    separate(&mut out);
    out.extend_from_slice(b"\"metadata\":{");
    for (name, value) in metadata.iter().filter(|(name, _)| *name != "resourceVersion") {
        member(&mut out, name, value)?;
    }
    out.push(b'}');
    for (name, value) in
        map.iter().filter(|(name, _)| !matches!(name.as_str(), "kind" | "apiVersion" | "metadata"))
    {
        member(&mut out, name, value)?;
    }
    out.push(b'}');
    Ok(out.into())
}

fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

fn member(out: &mut Vec<u8>, name: &str, value: &Value) -> Result<(), CodecError> {
    separate(out);
    let unwritable = |e: serde_json::Error| CodecError::Unwritable(e.to_string());
    serde_json::to_writer(&mut *out, name).map_err(unwritable)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value).map_err(unwritable)
}

/// The final bytes: `stored` with `revision` as its `metadata.resourceVersion`.
pub fn splice_revision(stored: &[u8], revision: u64) -> Result<Bytes, CodecError> {
    splice(stored, revision).map(|(bytes, _)| bytes)
}

/// As [`splice_revision`]; also tells where the digits start, for [`respliced`].
pub(super) fn splice(stored: &[u8], revision: u64) -> Result<(Bytes, usize), CodecError> {
    let open = metadata_open(stored)?;
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(revision).as_bytes();
    let (head, tail) = stored.split_at(open + 1);
    let empty = skip_space(stored, open + 1).is_none_or(|at| stored[at] == b'}');
    let mut out = Vec::with_capacity(stored.len() + MEMBER.len() + digits.len() + 2);
    out.extend_from_slice(head);
    out.extend_from_slice(MEMBER);
    let at = out.len();
    out.extend_from_slice(digits);
    out.extend_from_slice(if empty { b"\"" } else { b"\"," });
    out.extend_from_slice(tail);
    out.shrink_to_fit();
    Ok((out.into(), at))
}

/// `json` with the digits at `at` replaced by `revision`.
pub(super) fn respliced(json: &[u8], at: usize, revision: u64) -> Bytes {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(revision).as_bytes();
    let old = json[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    [&json[..at], digits, &json[at + old..]].concat().into()
}

/// The stored form back from final bytes: what a writer compares a new object with to see that nothing changed.
pub fn strip_revision(json: &[u8]) -> Bytes {
    let Ok(open) = metadata_open(json) else { return Bytes::copy_from_slice(json) };
    let (head, tail) = json.split_at(open + 1);
    let Some(rest) = tail.strip_prefix(MEMBER) else { return Bytes::copy_from_slice(json) };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = &rest[digits..];
    let rest = rest.strip_prefix(b"\",").or_else(|| rest.strip_prefix(b"\"")).unwrap_or(rest);
    [head, rest].concat().into()
}

/// Index of the `{` that opens the top-level `metadata` object.
fn metadata_open(json: &[u8]) -> Result<usize, CodecError> {
    let value = member_start(json, b"metadata")?;
    if json[value] == b'{' { Ok(value) } else { Err(CodecError::NoMetadata) }
}

/// The bytes of a top-level member's value; what follows it is not looked at.
pub(super) fn member_value<'j>(json: &'j [u8], name: &[u8]) -> Result<&'j [u8], CodecError> {
    let start = member_start(json, name)?;
    let end = value_end(json, start).ok_or(CodecError::NotAnObject)?;
    Ok(&json[start..end])
}

/// Where the value of a top-level member starts.
fn member_start(json: &[u8], wanted: &[u8]) -> Result<usize, CodecError> {
    let mut at = skip_space(json, 0).filter(|&at| json[at] == b'{').ok_or(CodecError::NotAnObject)? + 1;
    loop {
        at = skip_space(json, at).ok_or(CodecError::NotAnObject)?;
        match json[at] {
            b',' => at += 1,
            b'"' => {
                let end = string_end(json, at).ok_or(CodecError::NotAnObject)?;
                let name = &json[at + 1..end - 1];
                let colon =
                    skip_space(json, end).filter(|&at| json[at] == b':').ok_or(CodecError::NotAnObject)?;
                let value = skip_space(json, colon + 1).ok_or(CodecError::NotAnObject)?;
                if name == wanted {
                    return Ok(value);
                }
                at = value_end(json, value).ok_or(CodecError::NotAnObject)?;
            }
            _ => return Err(CodecError::NoMetadata),
        }
    }
}

fn skip_space(json: &[u8], from: usize) -> Option<usize> {
    json[from..].iter().position(|b| !b.is_ascii_whitespace()).map(|n| from + n)
}

/// Index after the string that opens at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Index after the value that starts at `at`.
fn value_end(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match json.get(at)? {
            b'"' => {
                at = string_end(json, at)?;
                if depth == 0 {
                    return Some(at);
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\u{e9}\n\"\\\\{}]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z\"\\\\{}]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        (
            prop::collection::btree_map("[a-zA-Z\"]{1,9}", value(), 0..6),
            prop::collection::btree_map("[a-z]{1,6}", value(), 0..4),
        )
            .prop_map(|(mut map, metadata)| {
                map.insert("metadata".into(), Value::Object(metadata.into_iter().collect()));
                Value::Object(map.into_iter().collect())
            })
    }

    proptest! {
        #[test]
        fn splice_equals_parse_and_set(object in object(), first in any::<u64>(), second in any::<u64>()) {
            let mut want = object.clone();
            want["metadata"]["resourceVersion"] = first.to_string().into();
            let stored = encode_for_store(&want).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Value>(&stored).unwrap(), &object);

            let (json, at) = splice(&stored, first).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Value>(&json).unwrap(), &want);
            prop_assert_eq!(strip_revision(&json), stored);

            want["metadata"]["resourceVersion"] = second.to_string().into();
            prop_assert_eq!(serde_json::from_slice::<Value>(&respliced(&json, at, second)).unwrap(), want);

            // Any member order and spacing, as another writer of the same store may leave it.
            let pretty = serde_json::to_vec_pretty(&object).unwrap();
            let spliced = splice_revision(&pretty, second).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Value>(&spliced).unwrap()["metadata"]["resourceVersion"], &json!(second.to_string()));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(prop_oneof![Just(b'{'), Just(b'"'), Just(b'\\'), Just(b':'), any::<u8>()], 0..40)) {
            let _ = splice_revision(&bytes, 1);
            let _ = strip_revision(&bytes);
        }
    }

    #[test]
    fn members_are_found_without_parsing_the_rest() {
        let json = br#"{"kind":"A","apiVersion":"b/v1","metadata":{"name":"}","l":{"x":[1,{}]}},"spec":{"metadata":1}"#;
        assert_eq!(member_value(json, b"apiVersion").unwrap(), br#""b/v1""#);
        assert_eq!(member_value(json, b"metadata").unwrap(), br#"{"name":"}","l":{"x":[1,{}]}}"#);
        assert_eq!(member_value(b"{}", b"metadata"), Err(CodecError::NoMetadata));
        assert_eq!(member_value(b"[]", b"metadata"), Err(CodecError::NotAnObject));
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert_eq!(splice_revision(b"", 1), Err(CodecError::NotAnObject));
        assert_eq!(splice_revision(b"[]", 1), Err(CodecError::NotAnObject));
        assert_eq!(splice_revision(b"{}", 1), Err(CodecError::NoMetadata));
        assert_eq!(splice_revision(br#"{"metadata":3}"#, 1), Err(CodecError::NoMetadata));
        assert_eq!(encode_for_store(&json!({"kind": "Pod"})), Err(CodecError::NoMetadata));
    }
}
