//! The group `apps`.

use super::core::{claim_spec, pod_defaults, pod_spec};
use super::kind::Kind;
use super::support::{
    at, at_most_hundred, count_or_percent, has, immutable, int, is_zero, items, items_mut, nonnegative,
    one_of, preset, same, some_mut, text, with_spec,
};
use machinery::field::{FieldErrors, Path};
use machinery::labels::Selector;
use machinery::labels::validation::{is_empty_selector, validate_label_selector};
use machinery::meta;
use serde_json::{Value, json};

pub(super) static KINDS: &[Kind] = &[
    Kind::namespaced("apps", "Deployment")
        .status()
        .generation()
        .default(deployment_defaults)
        .validate(validate_deployment)
        .warn(super::core::warnings::template)
        .validate_update(selector_update),
    Kind::namespaced("apps", "ReplicaSet")
        .status_counting(&["replicas"])
        .generation()
        .default(replica_set_defaults)
        .validate(validate_replica_set)
        .warn(super::core::warnings::template)
        .validate_update(selector_update)
        .select(|o| vec![("status.replicas", int(at(o, "status"), "replicas").unwrap_or(0).to_string())]),
    Kind::namespaced("apps", "StatefulSet")
        .status_counting(&["availableReplicas", "replicas"])
        .generation()
        .on_create(drop_unavailable)
        .on_update(|o, old, _| {
            if at(at(at(at(old, "spec"), "updateStrategy"), "rollingUpdate"), "maxUnavailable").is_null() {
                drop_unavailable(o);
            }
        })
        .default(stateful_defaults)
        .validate(validate_stateful)
        .warn(super::core::warnings::template)
        .validate_update(stateful_update),
    Kind::namespaced("apps", "DaemonSet")
        .status_counting(&[
            "currentNumberScheduled",
            "desiredNumberScheduled",
            "numberMisscheduled",
            "numberReady",
        ])
        .generation()
        .on_create(|o| meta::set_annotation(o, TEMPLATE_GENERATION, "1"))
        .on_update(template_generation)
        .default(daemon_defaults)
        .validate(validate_daemon)
        .warn(super::core::warnings::template)
        .validate_update(selector_update),
    Kind::namespaced("apps", "ControllerRevision")
        .validate(|o, errors| {
            if !has(o, "data") {
                errors.required(&Path::new("data"), "data is mandatory");
            }
            nonnegative(o, "revision", &Path::root(), errors);
        })
        .validate_update(|new, old, _, errors| {
            immutable(at(new, "data"), at(old, "data"), &Path::new("data"), errors)
        }),
];

const SPEC: Path<'static> = Path::new("spec");

fn deployment_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "replicas", 1);
        preset(spec, "strategy", json!({}));
        let strategy = &mut spec["strategy"];
        preset(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            preset(strategy, "rollingUpdate", json!({}));
            preset(&mut strategy["rollingUpdate"], "maxUnavailable", "25%");
            preset(&mut strategy["rollingUpdate"], "maxSurge", "25%");
        }
        preset(spec, "revisionHistoryLimit", 10);
        preset(spec, "progressDeadlineSeconds", 600);
        pod_defaults::template(spec);
    });
}

fn replica_set_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "replicas", 1);
        pod_defaults::template(spec);
    });
}

fn stateful_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "podManagementPolicy", "OrderedReady");
        preset(spec, "updateStrategy", json!({}));
        let strategy = &mut spec["updateStrategy"];
        preset(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(update) = some_mut(strategy, "rollingUpdate")
        {
            preset(update, "partition", 0);
        }
        preset(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
        for when in ["whenDeleted", "whenScaled"] {
            preset(&mut spec["persistentVolumeClaimRetentionPolicy"], when, "Retain");
        }
        preset(spec, "replicas", 1);
        preset(spec, "revisionHistoryLimit", 10);
        for claim in items_mut(spec, "volumeClaimTemplates") {
            preset(claim, "apiVersion", "v1");
            preset(claim, "kind", "PersistentVolumeClaim");
            if let Some(claim_spec) = some_mut(claim, "spec") {
                preset(claim_spec, "volumeMode", "Filesystem");
            }
            preset(claim, "status", json!({}));
            preset(&mut claim["status"], "phase", "Pending");
        }
        pod_defaults::template(spec);
    });
}

/// The gate of `maxUnavailable` of stateful sets is off.
fn drop_unavailable(object: &mut Value) {
    let update = object.pointer_mut("/spec/updateStrategy/rollingUpdate").and_then(Value::as_object_mut);
    if let Some(update) = update {
        update.remove("maxUnavailable");
    }
}

/// A number that older clients read, shown as an annotation since its field is gone.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(object: &mut Value, old: &Value, subresource: &str) {
    let before: i64 = meta::annotation(old, TEMPLATE_GENERATION).and_then(|g| g.parse().ok()).unwrap_or(0);
    let template = |o: &Value| at(at(o, "spec"), "template").clone();
    let changed = subresource.is_empty() && template(object) != template(old);
    let now = before + i64::from(changed);
    meta::set_annotation(object, TEMPLATE_GENERATION, &now.to_string());
}

fn daemon_defaults(object: &mut Value) {
    if meta::annotation(object, TEMPLATE_GENERATION).is_none() {
        meta::set_annotation(object, TEMPLATE_GENERATION, "0");
    }
    with_spec(object, |spec| {
        preset(spec, "updateStrategy", json!({}));
        let strategy = &mut spec["updateStrategy"];
        preset(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate" {
            preset(strategy, "rollingUpdate", json!({}));
            preset(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
            preset(&mut strategy["rollingUpdate"], "maxSurge", 0);
        }
        preset(spec, "revisionHistoryLimit", 10);
        pod_defaults::template(spec);
    });
}

/// A selector that is there, sound and not empty.
fn selector(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let path = SPEC.child("selector");
    let selector = at(spec, "selector");
    if selector.is_null() {
        if kind != "daemonset" {
            errors.required(&path, "");
        }
        return;
    }
    validate_label_selector(Some(selector), &path, errors);
    if is_empty_selector(Some(selector)) {
        errors.invalid(&path, selector.clone(), format!("empty selector is invalid for {kind}"));
    }
}

/// The template, and that the selector takes what it makes.
fn template(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let path = SPEC.child("template");
    let value = at(spec, "template");
    match Selector::from_object(spec.get("selector")) {
        Err(_) if kind == "DaemonSet" => {}
        Err(_) => {
            errors.invalid(&SPEC.child("selector"), at(spec, "selector").clone(), "invalid label selector")
        }
        Ok(selector) => pod_spec::selected(&selector, value, &path, errors),
    }
    pod_spec::template(value, &path, errors);
    pod_spec::always_running(value, kind, &path, errors);
}

fn validate_deployment(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    nonnegative(spec, "replicas", &SPEC, errors);
    selector(spec, "deployment", errors);
    template(spec, "ReplicaSet", errors);
    let strategy = at(spec, "strategy");
    let path = SPEC.child("strategy");
    match text(strategy, "type") {
        "Recreate" if has(strategy, "rollingUpdate") => errors.forbidden(
            &path.child("rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        "Recreate" => {}
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            if has(strategy, "rollingUpdate") {
                rolling(at(strategy, "rollingUpdate"), &path, errors);
            } else {
                errors.required(&path, "this should be defaulted and never be nil");
            }
        }
        other => errors.not_supported(&path, strategy_shown(strategy, other), &["Recreate", "RollingUpdate"]),
    }
    for name in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        nonnegative(spec, name, &SPEC, errors);
    }
    let ready = int(spec, "minReadySeconds").unwrap_or(0);
    if let Some(deadline) = int(spec, "progressDeadlineSeconds").filter(|d| *d <= ready) {
        errors.invalid(
            &SPEC.child("progressDeadlineSeconds"),
            deadline,
            "must be greater than minReadySeconds",
        );
    }
}

fn strategy_shown(strategy: &Value, kind: &str) -> Value {
    let update = at(strategy, "rollingUpdate");
    let shown = match update {
        Value::Null => Value::Null,
        _ => json!({"MaxUnavailable": at(update, "maxUnavailable"), "MaxSurge": at(update, "maxSurge")}),
    };
    json!({"Type": kind, "RollingUpdate": shown})
}

fn rolling(update: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (surge, unavailable) = (at(update, "maxSurge"), at(update, "maxUnavailable"));
    count_or_percent(unavailable, &path.child("maxUnavailable"), errors);
    count_or_percent(surge, &path.child("maxSurge"), errors);
    if is_zero(surge) && is_zero(unavailable) {
        errors.invalid(
            &path.child("maxUnavailable"),
            unavailable.clone(),
            "may not be 0 when `maxSurge` is 0",
        );
    }
    at_most_hundred(unavailable, &path.child("maxUnavailable"), errors);
}

fn validate_replica_set(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    nonnegative(spec, "replicas", &SPEC, errors);
    nonnegative(spec, "minReadySeconds", &SPEC, errors);
    selector(spec, "deployment", errors);
    template(spec, "ReplicaSet", errors);
}

fn validate_daemon(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    selector(spec, "daemonset", errors);
    template(spec, "DaemonSet", errors);
    nonnegative(spec, "minReadySeconds", &SPEC, errors);
    let strategy = at(spec, "updateStrategy");
    let path = SPEC.child("updateStrategy");
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            if !has(strategy, "rollingUpdate") {
                errors.required(&path, "");
            } else {
                let update = at(strategy, "rollingUpdate");
                let (surge, unavailable) = (at(update, "maxSurge"), at(update, "maxUnavailable"));
                count_or_percent(unavailable, &path.child("maxUnavailable"), errors);
                at_most_hundred(unavailable, &path.child("maxUnavailable"), errors);
                count_or_percent(surge, &path.child("maxSurge"), errors);
                at_most_hundred(surge, &path.child("maxSurge"), errors);
                let none = |v: &Value| v.is_null() || is_zero(v);
                match (none(unavailable), none(surge)) {
                    (false, false) => {
                        errors.invalid(
                            &path.child("maxSurge"),
                            surge.clone(),
                            "may not be set when maxUnavailable is non-zero",
                        );
                    }
                    (true, true) => {
                        errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0")
                    }
                    _ => {}
                }
            }
        }
        other => errors.not_supported(&path, strategy_shown(strategy, other), &["RollingUpdate", "OnDelete"]),
    }
    nonnegative(spec, "revisionHistoryLimit", &SPEC, errors);
}

fn validate_stateful(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    match text(spec, "podManagementPolicy") {
        "" => errors.required(&SPEC.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => {
            errors.invalid(&SPEC.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'")
        }
    }
    let strategy = at(spec, "updateStrategy");
    let path = SPEC.child("updateStrategy");
    match text(strategy, "type") {
        "" => errors.required(&path, ""),
        "OnDelete" if has(strategy, "rollingUpdate") => errors.invalid(
            &path.child("rollingUpdate"),
            at(strategy, "rollingUpdate").clone(),
            "only allowed for updateStrategy 'RollingUpdate'",
        ),
        "OnDelete" => {}
        "RollingUpdate" => {
            let update = at(strategy, "rollingUpdate");
            let path = path.child("rollingUpdate");
            nonnegative(update, "partition", &path, errors);
            if has(update, "maxUnavailable") {
                let most = at(update, "maxUnavailable");
                count_or_percent(most, &path.child("maxUnavailable"), errors);
                at_most_hundred(most, &path.child("maxUnavailable"), errors);
                if is_zero(most) {
                    errors.invalid(&path.child("maxUnavailable"), most.clone(), "cannot be 0");
                }
            }
        }
        _ => errors.invalid(&path, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let retention = at(spec, "persistentVolumeClaimRetentionPolicy");
    if !retention.is_null() {
        let path = SPEC.child("persistentVolumeClaimRetentionPolicy");
        for when in ["whenDeleted", "whenScaled"] {
            one_of(retention, when, &["Retain", "Delete"], &path, errors);
        }
    }
    let service = text(spec, "serviceName");
    if !service.is_empty() {
        let path = SPEC.child("serviceName");
        errors.invalid_each(&path, service, machinery::names::dns1123_label(service));
    }
    nonnegative(spec, "replicas", &SPEC, errors);
    nonnegative(spec, "minReadySeconds", &SPEC, errors);
    nonnegative(at(spec, "ordinals"), "start", &SPEC.child("ordinals"), errors);
    selector(spec, "statefulset", errors);
    stateful_template(spec, errors);
    let claims = SPEC.child("volumeClaimTemplates");
    for (i, claim) in items(spec, "volumeClaimTemplates").iter().enumerate() {
        let at_i = claims.index(i);
        let name = text(at(claim, "metadata"), "name");
        if name.is_empty() {
            errors.required(&at_i.child("metadata.name"), "");
        }
        claim_spec(at(claim, "spec"), &at_i.child("spec"), errors);
    }
}

/// The claims become volumes of the pods, which the template itself does not name.
fn stateful_template(spec: &Value, errors: &mut FieldErrors) {
    let mut with_claims = spec.clone();
    let claims: Vec<Value> = items(spec, "volumeClaimTemplates")
        .iter()
        .map(|c| {
            let name = at(at(c, "metadata"), "name").clone();
            json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
        })
        .collect();
    if let Some(pod) = with_claims.pointer_mut("/template/spec").filter(|p| p.is_object()) {
        let mut volumes = items(pod, "volumes").to_vec();
        // A claim takes the place of a volume of its name.
        volumes.retain(|v| !claims.iter().any(|c| text(c, "name") == text(v, "name")));
        volumes.extend(claims);
        pod["volumes"] = volumes.into();
    }
    template(&with_claims, "StatefulSet", errors);
}

fn selector_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    if subresource.is_empty() {
        immutable(at(spec, "selector"), at(before, "selector"), &SPEC.child("selector"), errors);
    }
    if subresource == "status" {
        replica_status(at(new, "status"), &Path::new("status"), errors);
    }
}

/// Counts are not negative and parts not greater than the whole.
pub(super) fn replica_status(status: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for name in [
        "replicas",
        "fullyLabeledReplicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "observedGeneration",
        "collisionCount",
        "currentNumberScheduled",
        "desiredNumberScheduled",
        "numberMisscheduled",
        "numberReady",
    ] {
        nonnegative(status, name, path, errors);
    }
    let get = |name: &str| int(status, name).unwrap_or(0);
    if status.get("replicas").is_none() {
        return;
    }
    for name in ["fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        if get(name) > get("replicas") {
            errors.invalid(&path.child(name), get(name), "cannot be greater than status.replicas");
        }
    }
    if get("availableReplicas") > get("readyReplicas") {
        errors.invalid(
            &path.child("availableReplicas"),
            get("availableReplicas"),
            "cannot be greater than readyReplicas",
        );
    }
}

const STATEFUL_MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
    "revisionHistoryLimit",
];

fn stateful_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if subresource == "status" {
        replica_status(at(new, "status"), &Path::new("status"), errors);
    }
    if !subresource.is_empty() {
        return;
    }
    let (mut spec, before) = (at(new, "spec").clone(), at(old, "spec"));
    for member in STATEFUL_MUTABLE {
        super::kind::carry(&mut spec, before, member);
    }
    if !same(Some(&spec), Some(before)) {
        errors.forbidden(
            &SPEC,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;

    fn object(kind: &str, spec: Value) -> Value {
        let mut base = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}});
        machinery::patch::merge_patch::apply(&mut base, &spec);
        let mut object = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": base});
        let row = find("apps", kind).unwrap();
        row.default(&mut object);
        row.prepare_for_create(&mut object);
        object
    }

    fn errors(kind: &str, spec: Value) -> Vec<String> {
        find("apps", kind).unwrap().validate(&object(kind, spec)).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_sound() {
        for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"] {
            assert_eq!(errors(kind, json!({})), [""; 0], "{kind}");
        }
        let d = object("Deployment", json!({}));
        assert_eq!(
            d["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(
            (&d["spec"]["revisionHistoryLimit"], &d["spec"]["progressDeadlineSeconds"]),
            (&json!(10), &json!(600))
        );
        assert_eq!(d["metadata"]["generation"], 1);
    }

    #[test]
    fn classic_mistakes() {
        for (kind, spec, want) in [
            (
                "Deployment",
                json!({"replicas": -1}),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "Deployment",
                json!({"selector": {"matchLabels": {"a": "c"}}}),
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ),
            (
                "Deployment",
                json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ),
            (
                "Deployment",
                json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                "Deployment",
                json!({"progressDeadlineSeconds": 10, "minReadySeconds": 10}),
                "spec.progressDeadlineSeconds: Invalid value: 10: must be greater than minReadySeconds",
            ),
            (
                "Deployment",
                json!({"template": {"spec": {"restartPolicy": "Never"}}}),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                "StatefulSet",
                json!({"podManagementPolicy": "x"}),
                "spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'",
            ),
            (
                "DaemonSet",
                json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
            ),
        ] {
            assert_eq!(errors(kind, spec), [want]);
        }
        let none = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {"template": {"spec": {"containers": []}}}});
        let first = find("apps", "Deployment").unwrap().validate(&none).0[0].to_string();
        assert_eq!(first, "spec.selector: Required value");
    }

    #[test]
    fn claims_are_volumes() {
        let spec = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
            "template": {"spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}}});
        assert_eq!(errors("StatefulSet", spec), [""; 0]);
    }

    #[test]
    fn updates() {
        let row = find("apps", "Deployment").unwrap();
        let old = object("Deployment", json!({}));
        let mut new = old.clone();
        new["spec"]["selector"]["matchLabels"] = json!({"a": "b", "c": "d"});
        let got = row.validate_update(&new, &old, "").0.last().map(ToString::to_string).unwrap_or_default();
        assert_eq!(
            got,
            "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field is immutable"
        );
        let mut scaled = old.clone();
        scaled["spec"]["replicas"] = 3.into();
        scaled["status"] = json!({"replicas": 9});
        row.prepare_for_update(&mut scaled, &old, "");
        assert_eq!((&scaled["metadata"]["generation"], &scaled["status"]), (&json!(2), &json!({})));
        let set = find("apps", "StatefulSet").unwrap();
        let old = object("StatefulSet", json!({}));
        let mut new = old.clone();
        new["spec"]["serviceName"] = "x".into();
        assert!(
            set.validate_update(&new, &old, "").0[0].to_string().starts_with(
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas',"
            )
        );
    }
}
