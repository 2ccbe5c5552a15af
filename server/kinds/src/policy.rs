//! The group `policy`.

use super::kind::{Kind, Metadata};
use super::support::{at, at_most_hundred, conditions, count_or_percent, has, nonnegative, one_of_pointer};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::names;
use serde_json::Value;

pub(super) static KINDS: &[Kind] = &[Kind::namespaced("policy", "PodDisruptionBudget")
    .metadata(Metadata::Plain)
    .named(names::path_segment)
    .status_counting(&["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"])
    .generation()
    .validate(validate)
    .validate_update(|new, _, subresource, errors| {
        if subresource == "status" {
            let (path, status) = (Path::new("status"), at(new, "status"));
            conditions(status, &path, errors);
            for name in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
                nonnegative(status, name, &path, errors);
            }
        }
    })];

fn validate(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = at(object, "spec");
    if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
        errors.invalid(&path, spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for name in ["minAvailable", "maxUnavailable"] {
        if has(spec, name) {
            count_or_percent(at(spec, name), &path.child(name), errors);
            at_most_hundred(at(spec, name), &path.child(name), errors);
        }
    }
    validate_label_selector(spec.get("selector"), &path.child("selector"), errors);
    one_of_pointer(spec, "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], &path, errors);
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use serde_json::json;

    #[test]
    fn checks() {
        let row = find("policy", "PodDisruptionBudget").unwrap();
        let object = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {"minAvailable": "101%"}});
        assert_eq!(
            row.validate(&object).0[0].to_string(),
            "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"
        );
        let object = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {"minAvailable": 1, "maxUnavailable": 1}});
        assert!(
            row.validate(&object).0[0]
                .to_string()
                .ends_with("minAvailable and maxUnavailable cannot be both set")
        );
    }
}
