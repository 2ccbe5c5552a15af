//! The group `coordination.k8s.io`.

use super::kind::Kind;
use super::support::{at, has, int, text};
use machinery::field::{FieldErrors, Path};
use serde_json::Value;

pub(super) static KINDS: &[Kind] = &[Kind::namespaced("coordination.k8s.io", "Lease").validate(validate)];

fn validate(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = at(object, "spec");
    if let Some(n) = int(spec, "leaseDurationSeconds").filter(|n| *n <= 0) {
        errors.invalid(&path.child("leaseDurationSeconds"), n, "must be greater than 0");
    }
    if let Some(n) = int(spec, "leaseTransitions").filter(|n| *n < 0) {
        errors.invalid(&path.child("leaseTransitions"), n, "must be greater than or equal to 0");
    }
    if has(spec, "holderIdentity") && text(spec, "holderIdentity").is_empty() && has(spec, "strategy") {
        errors.invalid(&path.child("holderIdentity"), "", "must not be empty");
    }
    if has(spec, "preferredHolder") && text(spec, "strategy").is_empty() {
        errors.forbidden(&path.child("preferredHolder"), "may only be specified when `strategy` is defined");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use serde_json::json;

    #[test]
    fn checks() {
        let row = find("coordination.k8s.io", "Lease").unwrap();
        let lease = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}});
        let got: Vec<_> = row.validate(&lease).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }
}
