//! Names and lists, as all of the group's kinds have them.

use crate::storage::driver_name;
use crate::support::{label, subdomain, text};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::names;
use serde_json::Value;

/// The longest domain of a qualified name, and the longest name in one.
pub(super) const LONGEST_DOMAIN: usize = 63;
pub(super) const LONGEST_ID: usize = 32;

/// Whether the list is longer than it may be: of such a list nothing else is told.
pub(super) fn too_many(count: usize, most: usize, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    if count > most {
        errors.push(FieldError::too_many(path, count, most));
    }
    count > most
}

/// Every item of a list of at most `most`.
pub(super) fn each<T>(
    list: &[T],
    most: usize,
    path: &Path<'_>,
    errors: &mut FieldErrors,
    mut check: impl FnMut(&T, &Path<'_>, &mut FieldErrors),
) {
    if too_many(list.len(), most, path, errors) {
        return;
    }
    for (i, item) in list.iter().enumerate() {
        check(item, &path.index(i), errors);
    }
}

/// [`each`], and no two with the same key.
pub(super) fn set<T, K: PartialEq + Into<Value>>(
    list: &[T],
    most: usize,
    path: &Path<'_>,
    errors: &mut FieldErrors,
    check: impl FnMut(&T, &Path<'_>, &mut FieldErrors),
    key: impl Fn(&T) -> K,
) {
    let before = list.len() <= most;
    each(list, most, path, errors, check);
    let mut seen: Vec<K> = Vec::new();
    for (i, item) in list.iter().enumerate().filter(|_| before) {
        let key = key(item);
        if seen.contains(&key) {
            errors.duplicate(&path.index(i), key);
        } else {
            seen.push(key);
        }
    }
}

/// A list of names without repetition.
pub(super) fn name_set(
    list: &[Value],
    most: usize,
    path: &Path<'_>,
    errors: &mut FieldErrors,
    mut check: impl FnMut(&str, &Path<'_>, &mut FieldErrors),
) {
    let check = |v: &Value, path: &Path<'_>, errors: &mut FieldErrors| {
        check(v.as_str().unwrap_or_default(), path, errors);
    };
    set(list, most, path, errors, check, |v| v.as_str().unwrap_or_default().to_owned());
}

pub(super) fn driver(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    driver_name(text(of, "driver"), &path.child("driver"), errors);
}

/// Subdomains, with slashes between them.
pub(super) fn pool_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > 253 {
        errors.push(FieldError::too_long(path, 253));
    }
    for part in name.split('/') {
        subdomain(part, path, errors);
    }
}

pub(super) fn node_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    subdomain(name, path, errors);
}

/// A label where an empty one is told to be required.
pub(super) fn required_label(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        label(name, path, errors);
    }
}

fn identifier(id: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if id.len() > LONGEST_ID {
        errors.push(FieldError::too_long(path, LONGEST_ID));
    }
    errors.invalid_each(path, id, names::c_identifier(id));
}

/// `[domain/]name` of an attribute or a capacity. More than one slash goes unnoticed, as upstream.
pub(super) fn qualified(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => identifier(id, path, errors),
        [domain, id] => {
            if domain.is_empty() {
                errors.invalid(path, "", "the domain must not be empty");
            } else {
                driver_name(domain, path, errors);
            }
            if id.is_empty() {
                errors.invalid(path, "", "the name must not be empty");
            } else {
                identifier(id, path, errors);
            }
        }
        _ => {}
    }
}

/// [`qualified`], with its domain.
pub(super) fn fully_qualified(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    qualified(name, path, errors);
    if !name.contains('/') {
        let message = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(path, name, message);
    }
}

/// A key as a path shows it: with its middle left out where it is longer than a valid one.
pub(super) fn shortened(key: &str, most: usize) -> String {
    if key.len() <= most {
        return key.to_owned();
    }
    let rest = most - 3;
    let (mut head, mut tail) = (rest.div_ceil(2), key.len() - rest / 2);
    while !key.is_char_boundary(head) {
        head -= 1;
    }
    while !key.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}...{}", &key[..head], &key[tail..])
}

/// The form of a UUID, in the words of the Go library that reads it.
pub(super) fn uid(uid: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Err(why) = parse_uid(uid) {
        errors.invalid(path, uid, format!("error validating uid: {why}"));
    } else if uid.len() != 36 || uid.bytes().any(|b| b.is_ascii_uppercase()) {
        let message = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errors.invalid(path, uid, message);
    }
}

fn parse_uid(uid: &str) -> Result<(), String> {
    let bytes = uid.as_bytes();
    let body = match bytes.len() {
        36 => bytes,
        45 if bytes[..9].eq_ignore_ascii_case(b"urn:uuid:") => &bytes[9..],
        45 => {
            let prefix = String::from_utf8_lossy(&bytes[..9]).into_owned();
            return Err(format!("invalid urn prefix: {}", machinery::field::quote(&prefix)));
        }
        38 if bytes[0] == b'{' && bytes[37] == b'}' => &bytes[1..37],
        38 => return Err("invalid bracketed UUID format".into()),
        32 => bytes,
        n => return Err(format!("invalid UUID length: {n}")),
    };
    let dash = |i: usize| body.len() == 36 && matches!(i, 8 | 13 | 18 | 23);
    let good = body.iter().enumerate().all(|(i, b)| if dash(i) { *b == b'-' } else { b.is_ascii_hexdigit() });
    if good { Ok(()) } else { Err("invalid UUID format".into()) }
}

/// Data of a driver's own: a JSON object of at most `most` bytes.
pub(super) fn opaque(data: &Value, most: Option<usize>, path: &Path<'_>, errors: &mut FieldErrors) {
    if data.is_null() {
        errors.required(path, "");
        return;
    }
    if let Some(most) = most.filter(|most| data.to_string().len() > *most) {
        errors.push(FieldError::too_long(path, most));
    } else if !data.is_object() {
        errors.invalid(path, "<value omitted>", "must be a valid JSON object");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(check: impl FnOnce(&Path<'_>, &mut FieldErrors)) -> Vec<String> {
        let mut errors = FieldErrors::new();
        check(&Path::new("p"), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names() {
        assert!(of(|p, e| pool_name("a/b.c", p, e)).is_empty());
        assert_eq!(of(|p, e| pool_name("a/", p, e)).len(), 1);
        assert!(of(|p, e| qualified("d.e/x_y", p, e)).is_empty());
        assert!(of(|p, e| qualified("a/b/c", p, e)).is_empty());
        assert_eq!(
            of(|p, e| qualified("/", p, e)),
            [
                "p: Invalid value: \"\": the domain must not be empty",
                "p: Invalid value: \"\": the name must not be empty"
            ]
        );
        assert_eq!(of(|p, e| fully_qualified("x", p, e)).len(), 1);
        assert_eq!(shortened(&"ab".repeat(20), 16), "abababa...ababab");
    }

    #[test]
    fn uids() {
        let good = "d2719d20-8e1c-4f0c-a5b3-3f1c1a8a2f10";
        assert!(of(|p, e| uid(good, p, e)).is_empty());
        for (bad, why) in [
            ("x".to_owned(), "error validating uid: invalid UUID length: 1"),
            (good.replace('-', "x"), "error validating uid: invalid UUID format"),
            (format!("x{good}y"), "error validating uid: invalid bracketed UUID format"),
            (good.to_uppercase(), "uid must be in RFC 4122"),
            (format!("urn:uuid:{good}"), "uid must be in RFC 4122"),
        ] {
            let found = of(|p, e| uid(&bad, p, e));
            assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
        }
    }

    #[test]
    fn lists() {
        let list = [Value::from("a"), Value::from("b"), Value::from("a")];
        assert_eq!(of(|p, e| name_set(&list, 3, p, e, |_, _, _| {})), ["p[2]: Duplicate value: \"a\""]);
        assert_eq!(
            of(|p, e| name_set(&list, 2, p, e, |_, _, _| {})),
            ["p: Too many: 3: must have at most 2 items"]
        );
    }
}
