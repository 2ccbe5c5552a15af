//! Reading and checking values the way Go structs are read: absent, null and zero are one thing unless a pointer
//! says otherwise.

use machinery::field::{FieldErrors, Path};
use machinery::names;
use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The member, or null.
pub(super) fn at<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&NULL)
}

/// The member's text, or empty.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

pub(super) fn int(value: &Value, name: &str) -> Option<i64> {
    value.get(name).and_then(Value::as_i64)
}

pub(super) fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn members<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(name).and_then(Value::as_object).into_iter().flatten()
}

/// The strings of a list.
pub(super) fn texts<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a str> {
    items(value, name).iter().filter_map(Value::as_str)
}

/// A pointer that is not nil.
pub(super) fn is_set(value: Option<&Value>, name: &str) -> bool {
    value.and_then(|v| v.get(name)).is_some_and(|v| !v.is_null())
}

pub(super) fn has(value: &Value, name: &str) -> bool {
    is_set(Some(value), name)
}

/// Upstream's semantic equality: null, absent, empty lists and empty maps are equal.
pub(super) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    fn nothing(v: &Value) -> bool {
        match v {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.values().all(nothing),
            Value::String(s) => s.is_empty(),
            Value::Bool(b) => !b,
            Value::Number(n) => n.as_i64() == Some(0),
        }
    }
    match (a, b) {
        (None, None) => true,
        (Some(v), None) | (None, Some(v)) => nothing(v),
        (Some(Value::Object(x)), Some(Value::Object(y))) => {
            x.iter().all(|(k, v)| same(Some(v), y.get(k)))
                && y.iter().all(|(k, v)| x.contains_key(k) || nothing(v))
        }
        (Some(Value::Array(x)), Some(Value::Array(y))) => {
            x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(Some(v), Some(w)))
        }
        (Some(x), Some(y)) => x == y || ((x.is_null() || y.is_null()) && nothing(x) && nothing(y)),
    }
}

/// Equality where a pointer to a zero value is not nil: only null, absent, and empty lists and maps are equal. For
/// objects that were decoded, of which plain zero values are gone already.
pub(super) fn exactly(a: Option<&Value>, b: Option<&Value>) -> bool {
    fn nothing(v: &Value) -> bool {
        match v {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.values().all(nothing),
            _ => false,
        }
    }
    match (a, b) {
        (None, None) => true,
        (Some(v), None) | (None, Some(v)) => nothing(v),
        (Some(Value::Object(x)), Some(Value::Object(y))) => {
            x.iter().all(|(k, v)| exactly(Some(v), y.get(k)))
                && y.iter().all(|(k, v)| x.contains_key(k) || nothing(v))
        }
        (Some(Value::Array(x)), Some(Value::Array(y))) => {
            x.len() == y.len() && x.iter().zip(y).all(|(v, w)| exactly(Some(v), Some(w)))
        }
        (Some(x), Some(y)) => x == y || (nothing(x) && nothing(y)),
    }
}

/// The member as a map, made if it is absent or null. `None` when it is something else.
pub(super) fn map_mut<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    let member = value.as_object_mut()?.entry(name).or_insert(Value::Null);
    if member.is_null() {
        *member = Value::Object(Map::new());
    }
    member.as_object_mut()
}

/// The member, for changing; `None` when absent or null.
pub(super) fn some_mut<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    value.get_mut(name).filter(|v| !v.is_null())
}

pub(super) fn items_mut<'a>(value: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets the member unless it is there; an empty text is not there.
pub(super) fn preset(value: &mut Value, name: &str, default: impl Into<Value>) {
    let Some(map) = value.as_object_mut() else { return };
    let there = match map.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(s)) => !s.is_empty(),
        Some(_) => true,
    };
    if !there {
        map.insert(name.to_string(), default.into());
    }
}

/// [`preset`] for pointers: an empty text was given, and stays.
pub(super) fn preset_pointer(value: &mut Value, name: &str, default: impl Into<Value>) {
    if value.get(name).is_none_or(Value::is_null) {
        preset(value, name, default);
    }
}

/// [`preset`] for integers that are no pointers: zero is not there either.
pub(super) fn preset_int(value: &mut Value, name: &str, default: i64) {
    if int(value, name).unwrap_or(0) == 0
        && let Some(map) = value.as_object_mut()
    {
        map.insert(name.to_string(), default.into());
    }
}

/// `spec` of an object, made if it is not there.
pub(super) fn with_spec(object: &mut Value, f: impl FnOnce(&mut Value)) {
    if map_mut(object, "spec").is_some()
        && let Some(spec) = object.get_mut("spec")
    {
        f(spec);
    }
}

/// Refuses a change of `member` with "field is immutable".
pub(super) fn immutable(new: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !same(Some(new), Some(old)) {
        errors.invalid(path, new.clone(), "field is immutable");
    }
}

/// Refuses a negative number.
pub(super) fn nonnegative(value: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(n) = int(value, name).filter(|n| *n < 0) {
        errors.invalid(&path.child(name), n, "must be greater than or equal to 0");
    }
}

/// Refuses a text outside of `supported` (listed as given); an empty one is required.
pub(super) fn one_of(
    value: &Value,
    name: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    match text(value, name) {
        "" => errors.required(&path.child(name), ""),
        other if supported.contains(&other) => {}
        other => errors.not_supported(&path.child(name), other, supported),
    }
}

/// As [`one_of`], and absent is fine.
pub(super) fn one_of_if_set(
    value: &Value,
    name: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if !text(value, name).is_empty() {
        one_of(value, name, supported, path, errors);
    }
}

/// As [`one_of`] for a pointer: absent is fine, an empty text is not.
pub(super) fn one_of_pointer(
    value: &Value,
    name: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if let Some(given) = value.get(name).and_then(Value::as_str).filter(|v| !supported.contains(v)) {
        errors.not_supported(&path.child(name), given, supported);
    }
}

/// As [`one_of`] for fields of which upstream says an empty text is no supported value.
pub(super) fn supported_only(
    value: &Value,
    name: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if !supported.contains(&text(value, name)) {
        errors.not_supported(&path.child(name), text(value, name), supported);
    }
}

pub(super) fn required(value: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text(value, name).is_empty() {
        errors.required(&path.child(name), "");
    }
}

pub(super) fn label(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    errors.invalid_each(path, value, names::dns1123_label(value));
}

pub(super) fn subdomain(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    errors.invalid_each(path, value, names::dns1123_subdomain(value));
}

/// Refuses a number outside of `low..=high`.
pub(super) fn in_range(
    value: &Value,
    name: &str,
    low: i64,
    high: i64,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if let Some(n) = int(value, name).filter(|n| !(low..=high).contains(n)) {
        errors.invalid(&path.child(name), n, names::range_message(low, high));
    }
}

pub(super) fn port_number(port: i64, path: &Path<'_>, errors: &mut FieldErrors) {
    for message in names::port_number(port) {
        errors.invalid(path, port, message);
    }
}

/// An IntOrString port: a number or an IANA service name.
pub(super) fn port_or_name(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match value {
        Value::String(name) => errors.invalid_each(path, name, names::port_name(name)),
        other => port_number(other.as_i64().unwrap_or(0), path, errors),
    }
}

/// An IntOrString that counts: a number of at least zero, or a percentage.
pub(super) fn count_or_percent(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match value {
        Value::String(s) => errors.invalid_each(path, s, names::percent(s)),
        Value::Number(n) if n.as_i64().unwrap_or(0) < 0 => {
            errors.invalid(path, value.clone(), "must be greater than or equal to 0");
        }
        _ => {}
    }
}

/// A percentage may not pass a hundred.
pub(super) fn at_most_hundred(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let percent = value.as_str().and_then(|s| s.strip_suffix('%')).and_then(|s| s.parse::<i64>().ok());
    if percent.is_some_and(|p| p > 100) {
        errors.invalid(path, value.clone(), "must not be greater than 100%");
    }
}

/// Whether an IntOrString is `0` or `0%`.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.strip_suffix('%').and_then(|s| s.parse::<i64>().ok()) == Some(0),
        _ => false,
    }
}

/// An IP address in the spelling upstream accepts.
pub(super) fn is_ip(value: &str) -> bool {
    value.parse::<std::net::IpAddr>().is_ok()
}

pub(super) const IP_MESSAGE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub(super) fn ip(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if !is_ip(value) {
        errors.invalid(path, value, IP_MESSAGE);
    }
}

pub(super) fn is_cidr(value: &str) -> bool {
    let Some((address, length)) = value.split_once('/') else { return false };
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    length.parse::<u32>().is_ok_and(|l| l <= most)
}

pub(super) fn cidr(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if !is_cidr(value) {
        errors.invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}
