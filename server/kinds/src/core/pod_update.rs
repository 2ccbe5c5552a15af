//! What may change of a pod, and what of its ephemeral containers. Source: upstream's `ValidatePodUpdate` and
//! `ValidatePodEphemeralContainersUpdate`.

use super::affinity;
use crate::kind::carry;
use crate::support::{at, exactly, int, items, map_mut, members, text};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use serde_json::{Value, json};

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A change of a pod itself.
pub(super) fn spec(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    for list in ["containers", "initContainers"] {
        let (now, then) = (items(spec, list), items(before, list));
        if now.len() != then.len() {
            errors.forbidden(&path.child(list), "pod updates may not add or remove containers");
            return;
        }
        let at_list = path.child(list);
        for (i, c) in now.iter().enumerate() {
            let image = text(c, "image");
            if image.is_empty() {
                errors.required(&at_list.index(i).child("image"), "");
            }
        }
    }
    let deadline = path.child("activeDeadlineSeconds");
    match (int(spec, "activeDeadlineSeconds"), int(before, "activeDeadlineSeconds")) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.invalid(&deadline, n, names::range_message(0, i64::from(i32::MAX)));
            return;
        }
        (Some(n), Some(o)) if o < n => {
            errors.invalid(&deadline, n, "must be less than or equal to previous value");
            return;
        }
        (None, Some(_)) => {
            errors.invalid(&deadline, Value::Null, "must not update from a positive integer to nil value")
        }
        _ => {}
    }
    let added = items(spec, "tolerations");
    for toleration in items(before, "tolerations") {
        // Only how long a taint is borne may change on one that is there.
        let like = |t: &&Value| {
            ["key", "operator", "value", "effect"].iter().all(|m| text(t, m) == text(toleration, m))
        };
        if !added.iter().any(|t| like(&t)) {
            errors.forbidden(
                &path.child("tolerations"),
                "existing toleration can not be modified except its tolerationSeconds",
            );
            return;
        }
    }
    affinity::tolerations(spec, &path, errors);
    let gates = path.child("schedulingGates");
    for (i, gate) in items(spec, "schedulingGates").iter().enumerate() {
        if !items(before, "schedulingGates").iter().any(|g| text(g, "name") == text(gate, "name")) {
            let name = text(gate, "name");
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&gates.index(i).child("name"), detail);
        }
    }
    if exactly(Some(spec), Some(before)) {
        return;
    }
    let mut munged = spec.clone();
    for list in ["containers", "initContainers"] {
        for (i, c) in items(before, list).iter().enumerate() {
            if let Some(target) = munged.get_mut(list).and_then(|l| l.get_mut(i)) {
                carry(target, c, "image");
            }
        }
    }
    for member in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        carry(&mut munged, before, member);
    }
    if int(before, "terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && int(spec, "terminationGracePeriodSeconds") == Some(1)
    {
        carry(&mut munged, before, "terminationGracePeriodSeconds");
    }
    if !items(before, "schedulingGates").is_empty() {
        gated(&mut munged, before, errors);
    }
    if !exactly(Some(&munged), Some(before)) {
        errors.forbidden_change(&path, UPDATABLE, before, &munged);
    }
}

/// While gates hold a pod, where it may run may be narrowed.
fn gated(munged: &mut Value, before: &Value, errors: &mut FieldErrors) {
    let kept = members(before, "nodeSelector").all(|(k, v)| at(munged, "nodeSelector").get(k) == Some(v));
    if !kept {
        errors.invalid(
            &Path::new("spec.nodeSelector"),
            at(munged, "nodeSelector").clone(),
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        );
    }
    carry(munged, before, "nodeSelector");
    let then = at(at(before, "affinity"), "nodeAffinity").clone();
    let now = at(at(munged, "affinity"), "nodeAffinity");
    if exactly(Some(&then), Some(now)) {
        return;
    }
    narrowed(now, &then, errors);
    if map_mut(munged, "affinity").is_some() {
        carry(&mut munged["affinity"], at(before, "affinity"), "nodeAffinity");
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Terms stay as many as they were, and grow only at their ends.
fn narrowed(now: &Value, then: &Value, errors: &mut FieldErrors) {
    let terms = |affinity| items(at(affinity, REQUIRED), "nodeSelectorTerms");
    let (now, then) = (terms(now), terms(then));
    let path = Path::new("spec.affinity.nodeAffinity");
    let path = path.child(REQUIRED);
    let path = path.child("nodeSelectorTerms");
    if !then.is_empty() && now.len() != then.len() {
        let shown = if now.is_empty() { Value::Null } else { now.iter().map(shown).collect() };
        errors.invalid(
            &path,
            shown,
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        );
        return;
    }
    for (i, (now, then)) in now.iter().zip(then).enumerate() {
        let grown = |list: &str| {
            let (now, then) = (items(now, list), items(then, list));
            now.len() >= then.len() && now.iter().zip(then).all(|(n, t)| exactly(Some(n), Some(t)))
        };
        let lists = ["matchExpressions", "matchFields"];
        let never_matched = lists.iter().all(|l| items(then, l).is_empty());
        let matches_now = lists.iter().any(|l| !items(now, l).is_empty());
        if (never_matched && matches_now) || !lists.iter().all(|l| grown(l)) {
            errors.invalid(
                &path.index(i),
                shown(now),
                "only additions are allowed (no mutations or deletions)",
            );
        }
    }
}

/// A term as upstream's messages show it.
fn shown(term: &Value) -> Value {
    let list = |name: &str| -> Value {
        let all = items(term, name);
        if all.is_empty() {
            return Value::Null;
        }
        let one = |e: &Value| json!({"Key": text(e, "key"), "Operator": text(e, "operator"), "Values": at(e, "values")});
        all.iter().map(one).collect()
    };
    json!({"MatchExpressions": list("matchExpressions"), "MatchFields": list("matchFields")})
}

/// Ephemeral containers are added, never changed or removed.
pub(super) fn ephemeral(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec.ephemeralContainers");
    let now = items(at(new, "spec"), "ephemeralContainers");
    for container in items(at(old, "spec"), "ephemeralContainers") {
        let name = text(container, "name");
        match now.iter().find(|c| text(c, "name") == name) {
            None => errors.forbidden(
                &path,
                format!(
                    "existing ephemeral containers {} may not be removed\n",
                    machinery::field::quote(name)
                ),
            ),
            Some(c) if !exactly(Some(c), Some(container)) => errors.forbidden_change(
                &path,
                format!("existing ephemeral containers {} may not be changed", machinery::field::quote(name)),
                container,
                c,
            ),
            Some(_) => {}
        }
    }
}
