//! `ObjectMeta` as it lies in a [`Value`]: accessors that never allocate, and upstream's validation of it.

use crate::field::{FieldErrors, Path, quote};
use crate::labels::validation::validate_labels;
use crate::names::{self, NameCheck};
use serde_json::{Map, Value};

/// Most bytes the annotations of one object may hold together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

static EMPTY: &[Value] = &[];

fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get("metadata")?.get(name)
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    member(object, name).and_then(Value::as_str).unwrap_or("")
}

fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    member(object, name).and_then(Value::as_array).map_or(EMPTY, Vec::as_slice)
}

/// Empty when absent, as all texts here.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

pub fn creation_timestamp(object: &Value) -> &str {
    text(object, "creationTimestamp")
}

pub fn generation(object: &Value) -> i64 {
    member(object, "generation").and_then(Value::as_i64).unwrap_or(0)
}

pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    member(object, "deletionTimestamp").and_then(Value::as_str)
}

pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    member(object, "deletionGracePeriodSeconds").and_then(Value::as_i64)
}

pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    member(object, "labels").and_then(Value::as_object)
}

pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    member(object, "annotations").and_then(Value::as_object)
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

pub fn owner_references(object: &Value) -> &[Value] {
    list(object, "ownerReferences")
}

/// The owner reference that has `controller: true`.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|r| r.get("controller").and_then(Value::as_bool) == Some(true))
}

pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "finalizers").iter().filter_map(Value::as_str)
}

pub fn managed_fields(object: &Value) -> &[Value] {
    list(object, "managedFields")
}

/// `apiVersion` and `kind`.
pub fn type_meta(object: &Value) -> (&str, &str) {
    let get = |n: &str| object.get(n).and_then(Value::as_str).unwrap_or("");
    (get("apiVersion"), get("kind"))
}

/// `apps/v1` to `("apps", "v1")`, `v1` to `("", "v1")`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The metadata of an object, made if it is not there. A `metadata` that is no map is replaced.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(map) = object else { unreachable!("made an object above") };
    let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    let Value::Object(metadata) = metadata else { unreachable!("made an object above") };
    metadata
}

/// Sets a member of the metadata.
pub fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    metadata_mut(object).insert(name.to_string(), value.into());
}

/// Removes and returns a member of the metadata.
pub fn take(object: &mut Value, name: &str) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove(name)
}

/// Sets a label, making the map if need be.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    set_entry(object, "labels", key, value);
}

pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    set_entry(object, "annotations", key, value);
}

fn set_entry(object: &mut Value, map: &str, key: &str, value: &str) {
    let entry = metadata_mut(object).entry(map).or_insert_with(|| Value::Object(Map::new()));
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    if let Value::Object(entry) = entry {
        entry.insert(key.to_string(), Value::from(value));
    }
}

/// Upstream's `ValidateObjectMeta`, for creates. `path` is usually `metadata`; `object` holds the metadata as
/// its member of that name.
pub fn validate(object: &Value, namespaced: bool, check: NameCheck, path: &Path<'_>) -> FieldErrors {
    let empty = Value::Null;
    validate_meta(object.get("metadata").unwrap_or(&empty), namespaced, check, path)
}

/// The same over the metadata itself.
pub fn validate_meta(meta: &Value, namespaced: bool, check: NameCheck, path: &Path<'_>) -> FieldErrors {
    let get = |n: &str| meta.get(n).and_then(Value::as_str).unwrap_or("");
    let mut errors = FieldErrors::new();
    let generate = get("generateName");
    if !generate.is_empty() {
        errors.invalid_each(&path.child("generateName"), generate, check(generate, true));
    }
    let name = get("name");
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        errors.invalid_each(&path.child("name"), name, check(name, false));
    }
    let namespace = get("namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.required(&path.child("namespace"), "");
        } else {
            errors.invalid_each(&path.child("namespace"), namespace, names::name_is_label(namespace, false));
        }
    } else if !namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|g| *g < 0) {
        errors.invalid(&path.child("generation"), generation, "must be greater than or equal to 0");
    }
    validate_labels(meta.get("labels"), &path.child("labels"), &mut errors);
    validate_annotations(meta.get("annotations"), &path.child("annotations"), &mut errors);
    validate_owners(meta.get("ownerReferences"), &path.child("ownerReferences"), &mut errors);
    validate_finalizers(meta.get("finalizers"), &path.child("finalizers"), &mut errors);
    validate_managed_fields(meta.get("managedFields"), &path.child("managedFields"), &mut errors);
    errors
}

/// Upstream's `ValidateObjectMetaUpdate`.
pub fn validate_update(object: &Value, old: &Value, path: &Path<'_>) -> FieldErrors {
    let (empty_new, empty_old) = (Value::Null, Value::Null);
    let new = object.get("metadata").unwrap_or(&empty_new);
    let old = old.get("metadata").unwrap_or(&empty_old);
    let mut errors = FieldErrors::new();
    if old.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        let has = |meta: &Value, f: &str| {
            meta.get("finalizers").and_then(Value::as_array).is_some_and(|l| l.iter().any(|x| x == f))
        };
        let mut extra: Vec<&str> = new
            .get("finalizers")
            .and_then(Value::as_array)
            .map_or(EMPTY, Vec::as_slice)
            .iter()
            .filter_map(Value::as_str)
            .filter(|f| !has(old, f))
            .collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let quoted: Vec<String> = extra.iter().map(|f| quote(f)).collect();
            errors.forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    quoted.join(", ")
                ),
            );
        }
    }
    let version = new.get("resourceVersion").and_then(Value::as_str).unwrap_or("");
    if version.is_empty() {
        errors.invalid(&path.child("resourceVersion"), "", "must be specified for an update");
    }
    let generation = |m: &Value| m.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation(new) < generation(old) {
        errors.invalid(&path.child("generation"), generation(new), "must not be decremented");
    }
    for field in ["name", "namespace", "uid"] {
        let get = |m: &Value| m.get(field).and_then(Value::as_str).unwrap_or("").to_string();
        if get(new) != get(old) {
            errors.invalid(&path.child(field), get(new), "field is immutable");
        }
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let get = |m: &Value| m.get(field).cloned().unwrap_or(Value::Null);
        if get(new) != get(old) {
            errors.invalid(&path.child(field), get(new), "field is immutable");
        }
    }
    validate_labels(new.get("labels"), &path.child("labels"), &mut errors);
    validate_annotations(new.get("annotations"), &path.child("annotations"), &mut errors);
    validate_owners(new.get("ownerReferences"), &path.child("ownerReferences"), &mut errors);
    validate_managed_fields(new.get("managedFields"), &path.child("managedFields"), &mut errors);
    errors
}

/// Annotation keys are qualified names without regard to case; the whole map has a size limit.
pub fn validate_annotations(annotations: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(map) = annotations.and_then(Value::as_object) else { return };
    let mut size = 0;
    for (key, value) in map {
        if key.bytes().any(|b| b.is_ascii_uppercase()) {
            errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        } else {
            errors.invalid_each(path, key, names::qualified_name(key));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(crate::field::FieldError::too_long(path, ANNOTATIONS_LIMIT));
    }
}

/// Drops owners named twice (the whole reference the same); the uids of those that were dropped.
pub fn dedup_owners(object: &mut Value) -> Vec<String> {
    let owners = object.get_mut("metadata").and_then(|m| m.get_mut("ownerReferences"));
    let Some(owners) = owners.and_then(Value::as_array_mut).filter(|o| o.len() > 1) else {
        return Vec::new();
    };
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut dropped = Vec::new();
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            dropped.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    dropped
}

/// Finalizers without a domain must be those that Kubernetes itself knows: what kinds of the built-in groups add to
/// [`validate`] and [`validate_update`].
pub fn validate_known_finalizers(object: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    for (i, finalizer) in list.into_iter().flatten().filter_map(Value::as_str).enumerate() {
        if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.child("finalizers").index(i), finalizer, detail);
        }
    }
}

fn validate_owners(owners: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(owners) = owners.and_then(Value::as_array) else { return };
    let mut controller: Option<String> = None;
    for owner in owners {
        let get = |n: &str| owner.get(n).and_then(Value::as_str).unwrap_or("");
        let (group, version) = split_api_version(get("apiVersion"));
        if version.is_empty() {
            errors.invalid(&path.child("apiVersion"), get("apiVersion"), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if get(field).is_empty() {
                errors.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if group.is_empty() && version == "v1" && get("kind") == "Event" {
            errors.invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let current = format!("{}/{}", get("kind"), get("name"));
            match &controller {
                Some(first) => errors.invalid(
                    path,
                    Value::Array(owners.clone()),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {current}"
                    ),
                ),
                None => controller = Some(current),
            }
        }
    }
}

fn validate_finalizers(finalizers: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(list) = finalizers.and_then(Value::as_array) else { return };
    for finalizer in list.iter().filter_map(Value::as_str) {
        errors.invalid_each(path, finalizer, names::qualified_name(finalizer));
    }
    let has = |name: &str| list.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(
            path,
            Value::Array(list.clone()),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn validate_managed_fields(entries: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(entries) = entries.and_then(Value::as_array) else { return };
    for (i, entry) in entries.iter().enumerate() {
        let path = path.index(i);
        let get = |n: &str| entry.get(n).and_then(Value::as_str).unwrap_or("");
        let operation = get("operation");
        if operation != "Apply" && operation != "Update" {
            errors.invalid(&path.child("operation"), operation, "must be `Apply` or `Update`");
        }
        let fields_type = get("fieldsType");
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.invalid(&path.child("fieldsType"), fields_type, "must be `FieldsV1`");
        }
        validate_field_manager(get("manager"), &path.child("manager"), errors);
        if get("subresource").len() > 256 {
            errors.push(crate::field::FieldError::too_long(&path.child("subresource"), 256));
        }
    }
}

/// Upstream's `ValidateFieldManager`; for `fieldManager` options too.
pub fn validate_field_manager(manager: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if manager.len() > 128 {
        errors.push(crate::field::FieldError::too_long(path, 128));
    }
    for (position, c) in manager.char_indices() {
        if c.is_control() || (c.is_whitespace() && c != ' ') {
            let code = c as u32;
            errors.invalid(path, manager, format!("invalid character U+{code:04X} (at position {position})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const META: Path<'static> = Path::new("metadata");

    fn messages(errors: FieldErrors) -> Vec<String> {
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn create() {
        let good = json!({"metadata": {"name": "a", "namespace": "default", "labels": {"a/b": "c"}}});
        assert!(messages(validate(&good, true, names::name_is_subdomain, &META)).is_empty());
        let bad = json!({"metadata": {"namespace": "x", "labels": {"a b": "c d"}, "generation": -1,
            "ownerReferences": [{"controller": true, "kind": "A", "name": "a", "apiVersion": "v1", "uid": "1"},
                                {"controller": true, "kind": "B", "name": "b", "apiVersion": "v1", "uid": "2"}],
            "finalizers": ["orphan", "foregroundDeletion"], "managedFields": [{"operation": "x", "manager": "a\n"}]}});
        let got = messages(validate(&bad, false, names::name_is_subdomain, &META));
        assert_eq!(got[0], "metadata.name: Required value: name or generateName is required");
        assert_eq!(got[1], "metadata.namespace: Forbidden: not allowed on this type");
        assert_eq!(got[2], "metadata.generation: Invalid value: -1: must be greater than or equal to 0");
        assert!(got[3].starts_with("metadata.labels: Invalid value: \"a b\": name part must consist of"));
        assert!(got[4].starts_with("metadata.labels: Invalid value: \"c d\": a valid label must be"));
        assert!(got[5].contains(
            "Only one reference can have Controller set to true. Found \"true\" in references for A/a and B/b"
        ));
        assert!(got[6].ends_with("finalizer orphan and foregroundDeletion cannot be both set"));
        assert_eq!(
            got[7],
            "metadata.managedFields[0].operation: Invalid value: \"x\": must be `Apply` or `Update`"
        );
        assert_eq!(
            got[8],
            "metadata.managedFields[0].manager: Invalid value: \"a\\n\": invalid character U+000A (at position 1)"
        );
    }

    #[test]
    fn update() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "2020-01-01T00:00:00Z", "generation": 2}});
        let new = json!({"metadata": {"name": "b", "uid": "1", "deletionTimestamp": "2020-01-01T00:00:00Z", "generation": 1, "finalizers": ["x/y"]}});
        assert_eq!(
            messages(validate_update(&new, &old, &META)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
            ]
        );
    }
}
