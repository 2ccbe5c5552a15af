//! The group `node.k8s.io`.

use super::kind::Kind;
use super::support::{at, immutable, items, members, text};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_labels;
use machinery::names;
use serde_json::{Value, json};

pub(super) static KINDS: &[Kind] = &[Kind::cluster("node.k8s.io", "RuntimeClass")
    .validate(validate)
    .validate_update(|new, old, _, errors| {
        immutable(at(new, "handler"), at(old, "handler"), &Path::new("handler"), errors);
    })];

fn validate(object: &Value, errors: &mut FieldErrors) {
    let handler = text(object, "handler");
    let path = Path::new("handler");
    if handler.is_empty() {
        errors.required(&path, "");
    } else {
        errors.invalid_each(&path, handler, names::dns1123_label(handler));
    }
    let overhead = Path::new("overhead.limits");
    for (name, amount) in members(at(object, "overhead"), "podFixed") {
        super::core::container_amount(name, amount, &overhead.key(name), errors);
    }
    let selector = at(object, "scheduling").get("nodeSelector");
    validate_labels(selector, &Path::new("scheduling.nodeSelector"), errors);
    let path = Path::new("scheduling");
    super::core::tolerations(at(object, "scheduling"), &path, errors);
    let all = items(at(object, "scheduling"), "tolerations");
    let list = path.child("tolerations");
    for (i, one) in all.iter().enumerate().filter(|(i, one)| all[..*i].contains(one)) {
        errors.duplicate(&list.index(i), shown(one));
    }
}

/// A toleration as upstream's messages show it.
fn shown(one: &Value) -> Value {
    json!({"Key": text(one, "key"), "Operator": text(one, "operator"), "Value": text(one, "value"),
        "Effect": text(one, "effect"), "TolerationSeconds": at(one, "tolerationSeconds")})
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
