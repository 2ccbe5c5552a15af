//! YAML in and out, as `sigs.k8s.io/yaml` reads and writes it: YAML 1.1 scalars (`yes`, `on`, `0644`), one document.

use serde::de::IgnoredAny;
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, Error};

use super::{DecodeError, Decoded, Strictness};
use crate::schema::{Schema, TypeId};

/// One document as JSON; an empty one is null. The last of duplicate keys wins.
pub fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
    // JSON is YAML, and most of what clients call YAML is JSON.
    if is_json(bytes)
        && let Ok(value) = serde_json::from_slice(bytes)
    {
        return Ok(value);
    }
    read(bytes, DuplicateKeyPolicy::LastWins)
        .map_err(|e| DecodeError::Syntax(format!("error converting YAML to JSON: yaml: {e}")))
}

/// A document as an object of that kind, with the unknown fields and (the first of) the duplicate keys it has.
pub fn decode_as(
    bytes: &[u8],
    schema: &Schema,
    root: TypeId,
    mode: Strictness,
) -> Result<Decoded, DecodeError> {
    if is_json(bytes) && serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
        return super::decode(bytes, schema, root, mode);
    }
    let duplicate = match mode {
        Strictness::Ignore => None,
        _ => duplicate_key(bytes),
    };
    let mut decoded = super::decode_value(decode(bytes)?, schema, root, mode)?;
    decoded.strict_errors.splice(..0, duplicate);
    Ok(decoded)
}

/// The first key that stands twice in a mapping, in upstream's words.
pub fn duplicate_key(bytes: &[u8]) -> Option<String> {
    let error = read(bytes, DuplicateKeyPolicy::Error).err()?;
    let Error::DuplicateMappingKey { key: Some(key), location } = error.without_snippet() else {
        return None;
    };
    let place = format!("line {}: key {key:?} already set in map", location.line());
    Some(format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {place}"))
}

fn is_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

fn read(bytes: &[u8], duplicate_keys: DuplicateKeyPolicy) -> Result<Value, Error> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        strict_booleans: false,
        duplicate_keys: duplicate_keys,
        with_snippet: false
    };
    serde_saphyr::from_slice_with_options(bytes, options)
}

/// Block style, keys in order, lists at their parent's indentation.
pub fn to_string(value: &Value) -> Result<String, DecodeError> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: true, compact_list_indent: true };
    serde_saphyr::to_string_with_options(value, options).map_err(|e| DecodeError::Syntax(e.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_yaml_1_1() {
        let text = b"a: yes\nb: off\nc: 0644\nd: \"yes\"\ne: ~\nf: 1.5\ng: 12\nh: 2024-01-01\ni: 1e3\n";
        let value = decode(text).expect("yaml");
        assert_eq!(
            value,
            json!({"a": true, "b": false, "c": 420, "d": "yes", "e": null, "f": 1.5, "g": 12, "h": "2024-01-01", "i": 1000.0})
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        let value = json!({"a": ["yes", "1", "", "x: y", "multi\nline\n"], "b": {}, "c": [], "d": {"e": null, "f": 1}});
        let text = to_string(&value).expect("writes");
        assert_eq!(decode(text.as_bytes()).expect("reads"), value, "{text}");
    }

    #[test]
    fn broken_documents_are_refused() {
        assert!(decode(b"a: [1").is_err());
        assert!(decode(b"a: b: c").is_err());
        assert_eq!(decode(b" \n"), Ok(Value::Null));
    }

    #[test]
    fn unknown_and_duplicate_keys_are_told() {
        let table = crate::schema::builtin();
        let id = table.kind("", "v1", "ConfigMap").expect("kind");
        let text = b"data:\n  a: x\n  b: z\n  a: 'y'\nextra: 1\n";
        let read = decode_as(text, &table.schema, id, Strictness::Strict).expect("reads");
        assert_eq!(read.value["data"]["a"], "y");
        let duplicate =
            "error converting YAML to JSON: yaml: unmarshal errors:\n  line 4: key \"a\" already set in map";
        assert_eq!(read.strict_errors, [duplicate, "unknown field \"extra\""]);
        let json = br#"{"data": {"a": "1", "a": "2"}}"#;
        let read = decode_as(json, &table.schema, id, Strictness::Strict).expect("reads");
        assert_eq!(read.strict_errors, ["duplicate field \"data.a\""]);
    }
}
