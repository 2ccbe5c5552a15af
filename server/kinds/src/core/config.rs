//! Config maps.

use crate::kind::{Kind, Metadata};
use crate::support::{at, members, same};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::names;
use serde_json::Value;

pub(super) const KIND: Kind = Kind::namespaced("", "ConfigMap")
    .metadata(Metadata::Both)
    .changes_first()
    .validate(validate)
    .validate_update(validate_update);

pub(super) const MAX_SIZE: usize = 1024 * 1024;

/// Bytes that base64 text stands for.
pub(super) fn decoded_len(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let (data, binary) = (Path::new("data"), Path::new("binaryData"));
    let mut size = 0;
    for (key, value) in members(object, "data") {
        errors.invalid_each(&data.key(key), key, names::config_key(key));
        if at(object, "binaryData").get(key).is_some() {
            errors.invalid(&data.key(key), key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in members(object, "binaryData") {
        errors.invalid_each(&binary.key(key), key, names::config_key(key));
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long(&Path::new("[]"), MAX_SIZE));
    }
}

const FROZEN: &str = "field is immutable when `immutable` is set";

/// An object that is immutable stays so, and its data too.
pub(super) fn frozen(new: &Value, old: &Value, fields: &[&str], errors: &mut FieldErrors) {
    if at(old, "immutable").as_bool() != Some(true) {
        return;
    }
    if at(new, "immutable").as_bool() != Some(true) {
        errors.forbidden(&Path::new("immutable"), FROZEN);
    }
    for field in fields {
        if !same(new.get(field), old.get(field)) {
            errors.forbidden(&Path::new(field), FROZEN);
        }
    }
}

fn validate_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    frozen(new, old, &["data", "binaryData"], errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;
    use serde_json::json;

    static CONFIG: Kind = KIND;

    #[test]
    fn checks() {
        let meta = json!({"name": "c", "namespace": "d"});
        let bad = json!({"metadata": meta, "data": {"a b": "x"}});
        assert!(
            (&CONFIG).validate(&bad).0[0]
                .to_string()
                .starts_with("data[a b]: Invalid value: \"a b\": a valid config key must")
        );
        let old = json!({"metadata": meta, "immutable": true, "data": {"a": "1"}});
        let new = json!({"metadata": meta, "data": {"a": "2"}});
        let got: Vec<_> =
            (&CONFIG).validate_update(&new, &old, "").0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }
}
