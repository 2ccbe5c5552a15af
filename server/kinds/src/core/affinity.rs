//! Where a pod may run: selectors, affinity, tolerations, spreading.

use crate::support::{at, has, int, items, one_of_if_set, one_of_pointer, text, texts};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::names;
use serde_json::Value;

fn requirement(e: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let values = items(e, "values");
    match text(e, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
            &path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(
                &path.child("values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            );
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
}

/// A term of a node selector. `values`: those of expressions are checked too.
fn node_term(term: &Value, values_too: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    for (i, e) in items(term, "matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions");
        requirement(e, &at.index(i), errors);
        let key = text(e, "key");
        errors.invalid_each(&at.index(i).child("key"), key, names::qualified_name(key));
        let at_i = at.index(i);
        let at_values = at_i.child("values");
        for (n, value) in texts(e, "values").enumerate().filter(|_| values_too) {
            errors.invalid_each(&at_values.index(n), value, names::label_value(value));
        }
    }
    for (i, e) in items(term, "matchFields").iter().enumerate() {
        let list = path.child("matchFields");
        let at = list.index(i);
        let values = items(e, "values");
        match text(e, "operator") {
            "In" | "NotIn" if values.len() != 1 => errors.required(
                &at.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            "In" | "NotIn" => {}
            other => errors.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
        if text(e, "key") != "metadata.name" {
            errors.invalid(&at.child("key"), text(e, "key"), "not a valid field selector key");
            continue;
        }
        let at_values = at.child("values");
        for (n, value) in texts(e, "values").enumerate() {
            errors.invalid_each(&at_values.index(n), value, names::dns1123_subdomain(value));
        }
    }
}

/// A required node selector, of pods and persistent volumes.
pub(crate) fn node_selector(selector: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let terms = items(selector, "nodeSelectorTerms");
    let at = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&at, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, true, &at.index(i), errors);
    }
}

fn weight(preference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let weight = int(preference, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// Keys whose values are taken from the pod's own labels: they narrow a selector, so there has to be one.
fn label_keys(of: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child(member);
    if !items(of, member).is_empty() && !has(of, "labelSelector") {
        errors.forbidden(&path, "must not be specified when labelSelector is not set");
        return;
    }
    for (i, key) in texts(of, member).enumerate() {
        errors.invalid_each(&path.index(i), key, names::qualified_name(key));
    }
}

fn pod_term(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_label_selector(term.get("labelSelector"), &path.child("labelSelector"), errors);
    validate_label_selector(term.get("namespaceSelector"), &path.child("namespaceSelector"), errors);
    for name in texts(term, "namespaces") {
        errors.invalid_each(&path.child("namespace"), name, names::name_is_label(name, false));
    }
    label_keys(term, "matchLabelKeys", path, errors);
    label_keys(term, "mismatchLabelKeys", path, errors);
    let twice = texts(term, "matchLabelKeys").enumerate();
    for (i, key) in twice.filter(|(_, k)| texts(term, "mismatchLabelKeys").any(|m| m == *k)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(&path.child("matchLabelKeys").index(i), key, detail);
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    errors.invalid_each(&path.child("topologyKey"), key, names::qualified_name(key));
}

pub(super) fn affinity(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let affinity = at(spec, "affinity");
    let root = path.child("affinity");
    let node = at(affinity, "nodeAffinity");
    let node_path = root.child("nodeAffinity");
    if has(node, "requiredDuringSchedulingIgnoredDuringExecution") {
        let name = "requiredDuringSchedulingIgnoredDuringExecution";
        node_selector(at(node, name), &node_path.child(name), errors);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (i, p) in items(node, preferred).iter().enumerate() {
        let list = node_path.child(preferred);
        let at_i = list.index(i);
        weight(p, &at_i, errors);
        node_term(at(p, "preference"), false, &at_i.child("preference"), errors);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let value = at(affinity, name);
        let base = root.child(name);
        let required = base.child("requiredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in items(value, "requiredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
            pod_term(term, &required.index(i), errors);
        }
        let preferring = base.child(preferred);
        for (i, p) in items(value, preferred).iter().enumerate() {
            let at_i = preferring.index(i);
            weight(p, &at_i, errors);
            pod_term(at(p, "podAffinityTerm"), &at_i.child("podAffinityTerm"), errors);
        }
    }
}

pub(crate) fn tolerations(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("tolerations");
    for (i, t) in items(spec, "tolerations").iter().enumerate() {
        let at = list.index(i);
        let key = text(t, "key");
        if !key.is_empty() {
            errors.invalid_each(&at.child("key"), key, names::qualified_name(key));
        }
        let operator = text(t, "operator");
        if key.is_empty() && operator != "Exists" {
            errors.invalid(
                &at.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if has(t, "tolerationSeconds") && text(t, "effect") != "NoExecute" {
            errors.invalid(
                &at.child("effect"),
                text(t, "effect"),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "" | "Equal" => {
                let bad = names::label_value(text(t, "value"));
                if !bad.is_empty() {
                    errors.invalid(&at.child("operator"), text(t, "value"), bad.join(";"));
                }
            }
            "Exists" => {
                if !text(t, "value").is_empty() {
                    errors.invalid(
                        &at.child("operator"),
                        t.clone(),
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            "Gt" | "Lt" => {
                if text(t, "value").parse::<i64>().is_err() {
                    errors.invalid(&at.child("value"), text(t, "value"), "must be a valid decimal integer");
                }
            }
            other => errors.not_supported(&at.child("operator"), other, &["Equal", "Exists"]),
        }
        one_of_if_set(t, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], &at, errors);
    }
}

pub(super) fn spread(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("topologySpreadConstraints");
    for (i, c) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = list.index(i);
        let skew = int(c, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid(&at.child("maxSkew"), skew, "must be greater than zero");
        }
        let key = text(c, "topologyKey");
        if key.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        let action = text(c, "whenUnsatisfiable");
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
            errors.not_supported(
                &at.child("whenUnsatisfiable"),
                action,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        let repeated = items(spec, "topologySpreadConstraints")[i + 1..]
            .iter()
            .any(|c| (text(c, "topologyKey"), text(c, "whenUnsatisfiable")) == (key, action));
        if repeated {
            errors.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = int(c, "minDomains") {
            if domains <= 0 {
                errors.invalid(&at.child("minDomains"), domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                errors.invalid(
                    &at.child("minDomains"),
                    domains,
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"),
                );
            }
        }
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of_pointer(c, name, &["Honor", "Ignore"], &at, errors);
        }
        label_keys(c, "matchLabelKeys", &at, errors);
        validate_label_selector(c.get("labelSelector"), &at.child("labelSelector"), errors);
    }
}
