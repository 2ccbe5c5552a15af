//! What an update left as it was may stay wrong (KEP-4008): the counterparts of values in the old object.

use machinery::field::FieldErrors;
use serde_json::Value;

/// A value, its counterpart, and the nearest correlated pair above it.
#[derive(Clone, Copy)]
pub(super) struct Correlation<'a> {
    current: Option<(&'a Value, &'a Value)>,
    parent: Option<(&'a Value, &'a Value)>,
}

impl<'a> Correlation<'a> {
    pub(super) const NONE: Self = Self { current: None, parent: None };

    pub(super) fn root(new: &'a Value, old: &'a Value) -> Self {
        Self { current: Some((new, old)), parent: None }
    }

    pub(super) fn parent_only(self) -> Self {
        Self { current: None, parent: self.parent }
    }

    pub(super) fn member(self, name: &str) -> Self {
        let Some((new, old)) = self.current else { return self };
        // Versions of an object differ in these although nobody changed them.
        if self.parent.is_none() && (name == "apiVersion" || name == "kind") {
            return Self::NONE;
        }
        Self { current: new.get(name).zip(old.get(name)), parent: self.current }
    }

    pub(super) fn item(self, item: &'a Value, counterpart: Option<&'a Value>) -> Self {
        if self.current.is_none() {
            return self;
        }
        Self { current: counterpart.map(|old| (item, old)), parent: self.current }
    }

    /// Errors here are old ones.
    pub(super) fn ratchets(self) -> bool {
        self.current.or(self.parent).is_some_and(|(new, old)| new == old)
    }
}

/// The item of a keyed list with the same keys.
pub(super) fn same_key<'o>(keys: &[String], item: &Value, among: &'o [Value]) -> Option<&'o Value> {
    among.iter().find(|o| keys.iter().all(|k| o.get(k) == item.get(k)))
}

/// Drops the schema's complaints about values that the update did not change; complaints about the whole object, and
/// about what is missing from a changed one, stay.
pub fn unchanged(errors: FieldErrors, schema: &Value, new: &Value, old: &Value) -> FieldErrors {
    let kept = errors.0.into_iter().filter(|e| !is_unchanged(&e.path, schema, new, old)).collect();
    FieldErrors(kept)
}

fn is_unchanged(path: &str, schema: &Value, new: &Value, old: &Value) -> bool {
    if path == "<nil>" || path.is_empty() {
        return false;
    }
    let (mut schema, mut new, mut old, mut rest) = (schema, new, old, path);
    loop {
        if new == old {
            return true;
        }
        if rest.is_empty() {
            return false;
        }
        if let Some(index) = rest.strip_prefix('[') {
            let Some((index, after)) = index.split_once(']') else { return false };
            let (Ok(index), Some(items), Some(before)) =
                (index.parse::<usize>(), new.as_array(), old.as_array())
            else {
                return false;
            };
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys: Vec<String> =
                keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            let Some(item) = items.get(index).filter(|_| !keys.is_empty()) else { return false };
            let Some(counterpart) = same_key(&keys, item, before) else { return false };
            let Some(inner) = schema.get("items") else { return false };
            (schema, new, old, rest) = (inner, item, counterpart, after);
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        // Names may hold dots and brackets: the longest member that fits is meant.
        let Some(members) = new.as_object() else { return false };
        let fits = |name: &&String| {
            rest.strip_prefix(name.as_str()).is_some_and(|r| r.is_empty() || r.starts_with(['.', '[']))
        };
        let Some(name) = members.keys().filter(fits).max_by_key(|n| n.len()) else { return false };
        let property = schema.get("properties").and_then(|p| p.get(name));
        let Some(inner) = property.or_else(|| schema.get("additionalProperties")) else { return false };
        let (Some(member), Some(before)) = (members.get(name), old.get(name)) else { return false };
        rest = &rest[name.len()..];
        (schema, new, old) = (inner, member, before);
    }
}
