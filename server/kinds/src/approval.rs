//! Groups of the Kubernetes community need an approval, in the `api-approved.kubernetes.io` annotation. Source: KEP-1111.

use machinery::field::{FieldErrors, Path};
use machinery::meta;
use serde_json::Value;

const ANNOTATION: &str = "api-approved.kubernetes.io";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Invalid,
    Approved,
    Bypassed,
    Missing,
}

/// Whether the group belongs to the community.
fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|own| group == *own || group.strip_suffix(own).is_some_and(|before| before.ends_with('.')))
}

/// The state of a definition's approval and why; `None` for groups that need none.
pub fn state(definition: &Value) -> Option<(State, String)> {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    if !is_protected(group) {
        return None;
    }
    let annotation = meta::annotation(definition, ANNOTATION).unwrap_or_default();
    let is_url = annotation.parse::<http::Uri>().is_ok_and(|u| u.scheme().is_some() && u.host().is_some());
    Some(if annotation.is_empty() {
        (State::Missing, format!("protected groups must have approval annotation {ANNOTATION:?}, {SEE}"))
    } else if annotation.starts_with("unapproved") {
        (State::Bypassed, format!("not approved: {annotation:?}"))
    } else if is_url {
        (State::Approved, format!("approved in {annotation}"))
    } else {
        let how = "with either a URL or a reason starting with \"unapproved\"";
        (
            State::Invalid,
            format!("protected groups must have approval annotation {ANNOTATION:?} {how}, {SEE}"),
        )
    })
}

/// Status, reason and message of `KubernetesAPIApprovalPolicyConformant`.
pub fn condition(definition: &Value) -> Option<(&'static str, &'static str, String)> {
    let (state, why) = state(definition)?;
    let (status, reason) = match state {
        State::Invalid => ("False", "InvalidAnnotation"),
        State::Missing => ("False", "MissingAnnotation"),
        State::Approved => ("True", "ApprovedAnnotation"),
        State::Bypassed => ("False", "UnapprovedAnnotation"),
    };
    Some((status, reason, why))
}

pub(crate) fn check(definition: &Value, errors: &mut FieldErrors) {
    let path = Path::new("metadata.annotations");
    match state(definition) {
        Some((State::Missing, why)) => errors.required(&path.key(ANNOTATION), why),
        Some((State::Invalid, why)) => {
            let value = meta::annotation(definition, ANNOTATION).unwrap_or_default();
            errors.invalid(&path.key(ANNOTATION), value, why);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn communities_groups_are_known_by_their_ends() {
        assert!(is_protected("k8s.io") && is_protected("x.k8s.io") && is_protected("a.kubernetes.io"));
        assert!(!is_protected("notk8s.io") && !is_protected("k8s.io.example.com"));
    }

    #[test]
    fn approvals_are_told_apart() {
        let of = |annotation: &str| {
            let d =
                json!({"metadata": {"annotations": {ANNOTATION: annotation}}, "spec": {"group": "x.k8s.io"}});
            condition(&d).map(|(status, reason, _)| (status, reason)).unwrap()
        };
        assert_eq!(of(""), ("False", "MissingAnnotation"));
        assert_eq!(of("unapproved, testing"), ("False", "UnapprovedAnnotation"));
        assert_eq!(of("https://github.com/kubernetes/kubernetes/pull/1"), ("True", "ApprovedAnnotation"));
        assert_eq!(of("bogus"), ("False", "InvalidAnnotation"));
        assert_eq!(condition(&json!({"spec": {"group": "example.com"}})), None);
    }
}
