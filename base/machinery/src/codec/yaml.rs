//! YAML in and out, as `sigs.k8s.io/yaml` reads and writes it: YAML 1.1 scalars (`yes`, `on`, `0644`), one document.

use serde_json::Value;

use super::DecodeError;

/// One document as JSON; an empty one is null. The last of duplicate keys wins.
pub fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    // JSON is YAML, and most of what clients call YAML is JSON.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
        && let Ok(value) = serde_json::from_slice(bytes)
    {
        return Ok(value);
    }
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        strict_booleans: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        with_snippet: false
    };
    serde_saphyr::from_slice_with_options(bytes, options)
        .map_err(|e| DecodeError::Syntax(format!("error converting YAML to JSON: yaml: {e}")))
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
}
