//! The group `rbac.authorization.k8s.io`.

use super::kind::{Kind, Metadata};
use super::support::{at, items, items_mut, preset, same, some_mut, subdomain, text};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::names;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::namespaced(GROUP, "Role")
        .metadata(Metadata::Both)
        .named(names::path_segment)
        .validate(|o, errors| rules(o, true, errors)),
    Kind::cluster(GROUP, "ClusterRole").metadata(Metadata::Both).named(names::path_segment).validate(
        |o, errors| {
            rules(o, false, errors);
            let selectors = Path::new("aggregationRule.clusterRoleSelectors");
            let rule = at(o, "aggregationRule");
            if !rule.is_null() && items(rule, "clusterRoleSelectors").is_empty() {
                errors.required(
                    &selectors,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                );
            }
            for (i, selector) in items(rule, "clusterRoleSelectors").iter().enumerate() {
                validate_label_selector(Some(selector), &selectors.index(i), errors);
            }
        },
    ),
    Kind::namespaced(GROUP, "RoleBinding")
        .metadata(Metadata::Both)
        .named(names::path_segment)
        .default(binding_defaults)
        .validate(|o, errors| binding(o, true, errors))
        .validate_update(role_ref_update),
    Kind::cluster(GROUP, "ClusterRoleBinding")
        .metadata(Metadata::Both)
        .named(names::path_segment)
        .default(binding_defaults)
        .validate(|o, errors| binding(o, false, errors))
        .validate_update(role_ref_update),
];

fn rules(object: &Value, namespaced: bool, errors: &mut FieldErrors) {
    let list = Path::new("rules");
    for (i, rule) in items(object, "rules").iter().enumerate() {
        let path = list.index(i);
        if items(rule, "verbs").is_empty() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        let urls = items(rule, "nonResourceURLs");
        if !urls.is_empty() {
            if namespaced {
                errors.invalid(
                    &path.child("nonResourceURLs"),
                    urls.to_vec(),
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
            let others =
                ["apiGroups", "resources", "resourceNames"].iter().any(|f| !items(rule, f).is_empty());
            if others {
                errors.invalid(
                    &path.child("nonResourceURLs"),
                    urls.to_vec(),
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if items(rule, "apiGroups").is_empty() {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if items(rule, "resources").is_empty() {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn binding_defaults(object: &mut Value) {
    if let Some(role) = some_mut(object, "roleRef") {
        preset(role, "apiGroup", GROUP);
    }
    for subject in items_mut(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            preset(subject, "apiGroup", GROUP);
        }
    }
}

fn binding(object: &Value, namespaced: bool, errors: &mut FieldErrors) {
    let role = at(object, "roleRef");
    let path = Path::new("roleRef");
    if text(role, "apiGroup") != GROUP {
        errors.not_supported(&path.child("apiGroup"), text(role, "apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        errors.not_supported(&path.child("kind"), text(role, "kind"), kinds);
    }
    let name = text(role, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.invalid_each(&path.child("name"), name, names::path_segment(name, false));
    }
    let list = Path::new("subjects");
    for (i, subject) in items(object, "subjects").iter().enumerate() {
        let path = list.index(i);
        let name = text(subject, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        let group = text(subject, "apiGroup");
        match text(subject, "kind") {
            "ServiceAccount" => {
                if !name.is_empty() {
                    subdomain(name, &path.child("name"), errors);
                }
                if !group.is_empty() {
                    errors.not_supported(&path.child("apiGroup"), group, &[""]);
                }
                if !namespaced && text(subject, "namespace").is_empty() {
                    errors.required(&path.child("namespace"), "");
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
                }
            }
            other => errors.not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
        }
    }
}

fn role_ref_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    if !same(new.get("roleRef"), old.get("roleRef")) {
        errors.invalid(&Path::new("roleRef"), at(new, "roleRef").clone(), "cannot change roleRef");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;
    use serde_json::json;

    #[test]
    fn checks() {
        let role = find(GROUP, "ClusterRole").unwrap();
        let object = |rules: Value| json!({"metadata": {"name": "system:x"}, "rules": rules});
        assert!(
            role.validate(&object(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])))
                .is_empty()
        );
        let got: Vec<_> =
            role.validate(&object(json!([{"apiGroups": [""]}]))).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ]
        );
        let row = find(GROUP, "RoleBinding").unwrap();
        let mut b = json!({"metadata": {"name": "x", "namespace": "d"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]});
        row.default(&mut b);
        assert!(row.validate(&b).is_empty(), "{:?}", row.validate(&b));
        let mut other = b.clone();
        other["roleRef"]["name"] = "s".into();
        assert!(row.validate_update(&other, &b, "").0[0].to_string().ends_with(": cannot change roleRef"));
        assert_eq!(
            role.validate(&json!({"metadata": {"name": "a/b"}})).0[0].to_string(),
            "metadata.name: Invalid value: \"a/b\": may not contain '/'"
        );
    }
}
