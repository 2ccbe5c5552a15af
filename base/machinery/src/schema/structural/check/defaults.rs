//! Defaults that would be refused where they are given. Source: `schema/defaulting/validation.go`.

use super::super::{compile, prune, validator};
use super::{flag, object, present, properties};
use crate::field::{FieldError, FieldErrors, Path};
use serde_json::{Value, json};

pub(super) fn check(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    walk(schema, path, true, false, errors);
}

fn walk(s: &Value, path: &Path<'_>, embedded: bool, inside_meta: bool, errors: &mut FieldErrors) {
    let embedded = embedded || flag(s, "x-kubernetes-embedded-resource");
    let inside_meta = inside_meta && !embedded;
    if present(s, "default") && !inside_meta {
        one(s, &path.child("default"), errors);
    }
    // None may stand in `additionalProperties` of metadata, and none is followed elsewhere.
    if let Some(items) = object(s, "items") {
        walk(items, &path.child("items"), false, inside_meta, errors);
    }
    let at = path.child("properties");
    for (name, property) in properties(s) {
        let meta = embedded && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
        walk(property, &at.key(name), false, inside_meta || meta, errors);
    }
}

fn one(s: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let default = &s["default"];
    // The value as the only member of an object, whose schema says of it what this one does.
    let mut says = s.clone();
    if let Some(says) = says.as_object_mut() {
        says.remove("default");
    }
    let outer = json!({"type": "object", "properties": {"default": says}});
    let holder = json!({"default": default});
    let mut found = validator(&outer).validate(&holder);
    for error in &mut found.0 {
        relocate(error, path);
    }
    let valid = found.is_empty();
    if let Ok((compiled, root)) = compile(&outer, &Path::root())
        && valid
        && let Ok(pruned) = prune(&compiled, root, holder.clone())
        && pruned["default"] != *default
    {
        errors.invalid(path, default.clone(), "must not have unknown fields");
    }
    errors.extend(found);
}

/// From within the holder to where the default stands.
fn relocate(error: &mut FieldError, path: &Path<'_>) {
    let inner = error.path.strip_prefix("default").unwrap_or(&error.path).to_owned();
    let name = inner.trim_start_matches('.');
    if let Some(rest) = error.detail.strip_prefix(&error.path) {
        error.detail = format!("{name}{rest}");
    }
    error.path = format!("{path}{inner}");
}
