//! The group `node.k8s.io`.

use super::kind::Kind;
use super::support::{at, immutable, text};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_labels;
use machinery::names;
use serde_json::Value;

pub(super) static KINDS: &[Kind] = &[Kind::cluster("node.k8s.io", "RuntimeClass")
    .validate(validate)
    .validate_update(|new, old, _, errors| {
        immutable(at(new, "handler"), at(old, "handler"), &Path::new("handler"), errors);
    })];

fn validate(object: &Value, errors: &mut FieldErrors) {
    let handler = text(object, "handler");
    errors.invalid_each(&Path::new("handler"), handler, names::dns1123_label(handler));
    let selector = at(object, "scheduling").get("nodeSelector");
    validate_labels(selector, &Path::new("scheduling.nodeSelector"), errors);
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use serde_json::json;

    #[test]
    fn checks() {
        let row = find("node.k8s.io", "RuntimeClass").unwrap();
        let class = |h: &str| json!({"metadata": {"name": "x"}, "handler": h});
        assert!(row.validate(&class("runc")).is_empty());
        assert!(
            row.validate(&class("a_b")).0[0]
                .to_string()
                .starts_with("handler: Invalid value: \"a_b\": a lowercase RFC 1123 label")
        );
        assert_eq!(
            row.validate_update(&class("b"), &class("a"), "").0[0].to_string(),
            "handler: Invalid value: \"b\": field is immutable"
        );
    }
}
