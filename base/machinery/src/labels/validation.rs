//! Validation of labels and of `LabelSelector` objects.

use crate::field::{FieldErrors, Path};
use crate::names;
use serde_json::Value;

/// Keys are qualified names, values label values.
pub fn validate_labels(labels: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        errors.invalid_each(path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or("");
        errors.invalid_each(path, value, names::label_value(value));
    }
}

/// Upstream's `ValidateLabelSelector`; an absent selector is fine here.
pub fn validate_label_selector(selector: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(selector) = selector.filter(|s| !s.is_null()) else { return };
    validate_labels(selector.get("matchLabels"), &path.child("matchLabels"), errors);
    let at = path.child("matchExpressions");
    for (i, e) in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        let path = at.index(i);
        let values = e.get("values").and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
        let operator = e.get("operator").and_then(Value::as_str).unwrap_or("");
        match operator {
            "In" | "NotIn" => {
                if values.is_empty() {
                    errors.required(
                        &path.child("values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    errors.forbidden(
                        &path.child("values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        let key = e.get("key").and_then(Value::as_str).unwrap_or("");
        errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
        for (n, value) in values.iter().filter_map(Value::as_str).enumerate() {
            errors.invalid_each(&path.child("values").index(n), value, names::label_value(value));
        }
    }
}

/// True for a selector with neither labels nor expressions.
pub fn is_empty_selector(selector: Option<&Value>) -> bool {
    let empty = |n: &str| match selector.and_then(|s| s.get(n)) {
        Some(Value::Object(m)) => m.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        _ => true,
    };
    empty("matchLabels") && empty("matchExpressions")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bad_selectors() {
        let selector = json!({"matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["x"]}, {"key": "a", "operator": "Is"}]});
        let mut errors = FieldErrors::new();
        validate_label_selector(Some(&selector), &Path::new("spec.selector"), &mut errors);
        let got: Vec<_> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            [
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                "spec.selector.matchExpressions[2].operator: Invalid value: \"Is\": not a valid selector operator",
            ]
        );
    }
}
