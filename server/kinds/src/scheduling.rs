//! The group `scheduling.k8s.io`.

use super::kind::Kind;
use super::support::{at, int, one_of_if_set, preset};
use machinery::field::{FieldErrors, Path};
use machinery::meta;
use serde_json::Value;

pub(super) static KINDS: &[Kind] = &[Kind::cluster("scheduling.k8s.io", "PriorityClass")
    .generation_by(&["value", "globalDefault", "description"])
    .default(|o| preset(o, "preemptionPolicy", "PreemptLowerPriority"))
    .validate(validate)
    .validate_update(|new, old, _, errors| {
        let value = |o: &Value| int(o, "value").unwrap_or(0);
        if value(new) != value(old) {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        super::support::immutable(
            at(new, "preemptionPolicy"),
            at(old, "preemptionPolicy"),
            &Path::new("preemptionPolicy"),
            errors,
        );
    })];

/// The highest priority a user may give.
const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn validate(object: &Value, errors: &mut FieldErrors) {
    let name = meta::name(object);
    let value = int(object, "value").unwrap_or(0);
    if name.starts_with("system-") {
        if !SYSTEM.contains(&(name, value)) {
            errors.forbidden(
                &Path::new("metadata.name"),
                "priority class names with 'system-' prefix are reserved for system use only. error: "
                    .to_string()
                    + &format!("{name} is not a known system priority class"),
            );
        }
    } else if value > HIGHEST {
        errors.forbidden(
            &Path::new("value"),
            format!("maximum allowed value of a user defined priority is {HIGHEST}"),
        );
    }
    one_of_if_set(object, "preemptionPolicy", &["Never", "PreemptLowerPriority"], &Path::root(), errors);
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use serde_json::json;

    #[test]
    fn checks() {
        let row = find("scheduling.k8s.io", "PriorityClass").unwrap();
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        assert!(row.validate(&class("system-node-critical", 2_000_001_000)).is_empty());
        assert!(
            row.validate(&class("system-x", 1)).0[0]
                .to_string()
                .starts_with("metadata.name: Forbidden: priority class names with 'system-' prefix")
        );
        assert_eq!(
            row.validate(&class("x", 1_000_000_001)).0[0].to_string(),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
        );
        assert_eq!(
            row.validate_update(&class("x", 1), &class("x", 2), "").0[0].to_string(),
            "value: Forbidden: may not be changed in an update."
        );
    }
}
