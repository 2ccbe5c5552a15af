//! `selectableFields`: paths to scalars. Source: `validation.go`'s `ValidateCustomResourceSelectableFields` and
//! `cel.ValidFieldPath`.

use super::{object, text};
use crate::field::{FieldError, FieldErrors, Path};
use serde_json::Value;

const MOST: usize = 8;

/// Checks a version's `selectableFields` against its schema.
pub fn selectable_fields(fields: &[Value], schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<String> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let at = path.index(index);
        let at = at.child("jsonPath");
        let given = text(field, "jsonPath");
        if given.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let (steps, found) = match resolve(given, schema) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(&at, given, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if steps.first().is_some_and(|s| *s == "metadata") {
            errors.invalid(&at, given, "must not point to fields in metadata");
        }
        if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(&at, given, detail);
        }
        let name = steps.join(".");
        if seen.contains(&name) {
            errors.duplicate(&at, given);
        } else {
            seen.push(name);
        }
    }
    if seen.len() > MOST {
        errors.push(FieldError::too_many(path, seen.len(), MOST));
    }
}

fn resolve<'v, 'p>(path: &'p str, schema: &'v Value) -> Result<(Vec<&'p str>, &'v Value), String> {
    let mut at = schema;
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if rest.starts_with('[') {
            return Err("array notation is not allowed".into());
        }
        let Some(after) = rest.strip_prefix('.') else {
            let token = rest.split(['.', '[']).next().unwrap_or(rest);
            return Err(format!("expected [ or . but got: {token}"));
        };
        if after.is_empty() {
            return Err("unexpected end of JSON path".into());
        }
        let end = after.find(['.', '[', ']']).unwrap_or(after.len());
        let name = &after[..end];
        at = match (at.get("properties"), object(at, "additionalProperties")) {
            (Some(properties), _) => properties.get(name).ok_or("does not refer to a valid field")?,
            (None, Some(values)) => values,
            (None, None) => return Err("does not refer to a valid field".into()),
        };
        steps.push(name);
        rest = &after[end..];
    }
    Ok((steps, at))
}
