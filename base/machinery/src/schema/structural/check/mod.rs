//! Whether a definition may have a schema: structural, and within the rules of `x-kubernetes-*` and of defaults.
//! Source: apiextensions-apiserver's `pkg/apiserver/schema` and `pkg/apis/apiextensions/validation`; field paths and
//! words are its.
//!
//! [`super::compile`] turns whatever passes here into the model; it never has to refuse what was admitted.

mod defaults;
mod invariants;
mod rules;
mod selectable;

use crate::field::{FieldErrors, Path};
use serde_json::Value;

pub use selectable::selectable_fields;

/// Deeper schemas are refused, so that walking one can never exhaust the stack.
pub(super) const DEPTH: usize = 100;

/// What is wrong with one version's `openAPIV3Schema`, which lies at `path`. `status`: the version has the status
/// subresource.
pub fn check(schema: &Value, status: bool, path: &Path<'_>) -> FieldErrors {
    let mut errors = FieldErrors::default();
    if depth(schema, 0) > DEPTH * 2 {
        errors.forbidden(path, format!("schemas may be nested at most {DEPTH} levels deep"));
        return errors;
    }
    if status {
        rules::root_under_status(schema, path, &mut errors);
    }
    if flag(schema, "nullable") {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let mut structural = FieldErrors::default();
    invariants::structural(schema, path, &mut structural);
    if structural.is_empty() {
        defaults::check(schema, path, &mut structural);
    } else {
        // Maps have no order upstream, so its messages are put into one.
        structural.0.sort_by_cached_key(ToString::to_string);
    }
    errors.extend(structural);
    rules::openapi(schema, path, &mut errors);
    // Some are found both ways.
    let mut seen = std::collections::HashSet::new();
    errors.0.retain(|e| seen.insert(e.to_string()));
    errors
}

/// Warnings for a schema that is admitted all the same.
pub fn warnings(schema: &Value) -> Vec<String> {
    let mut out = rules::warnings(schema);
    out.sort();
    out.dedup();
    out
}

/// How deep the JSON is nested, as far as that matters.
fn depth(value: &Value, at: usize) -> usize {
    if at > DEPTH * 2 {
        return at;
    }
    let deeper = |v: &Value| depth(v, at + 1);
    match value {
        Value::Object(map) => map.values().map(deeper).max().unwrap_or(at),
        Value::Array(items) => items.iter().map(deeper).max().unwrap_or(at),
        _ => at,
    }
}

pub(super) fn text<'v>(schema: &'v Value, key: &str) -> &'v str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

pub(super) fn present(schema: &Value, key: &str) -> bool {
    schema.get(key).is_some_and(|v| !v.is_null())
}

pub(super) fn list<'v>(schema: &'v Value, key: &str) -> &'v [Value] {
    schema.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn object<'v>(schema: &'v Value, key: &str) -> Option<&'v Value> {
    schema.get(key).filter(|v| v.is_object())
}

pub(super) fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

#[cfg(test)]
mod tests;
