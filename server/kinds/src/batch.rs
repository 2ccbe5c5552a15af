//! The group `batch`.

mod cron;
mod policies;
mod schedule;
mod status;
mod zones;

use super::core::{pod_defaults, pod_spec};
use super::kind::{Check, Kind};
use super::support::{
    at, flag, has, immutable, int, items, items_mut, nonnegative, one_of_pointer, preset, preset_pointer,
    same, some_mut, text, with_spec,
};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::labels::Selector;
use machinery::labels::validation::validate_label_selector;
use machinery::{meta, names};
use serde_json::{Value, json};

pub(super) static KINDS: &[Kind] = &[
    Kind::namespaced("batch", "Job")
        .status()
        .generation()
        .default(|o| {
            with_spec(o, job_spec_defaults);
            labels_from_template(o);
        })
        .on_create(create_job)
        // The job is checked by the strategy, and its spec again before its change is.
        .checks(&[Check::Meta, Check::Whole, Check::MetaChange, Check::Change])
        .validate(validate_job)
        .warn(job_warnings)
        .validate_update(job_update)
        .select(|o| vec![("status.successful", int(at(o, "status"), "succeeded").unwrap_or(0).to_string())]),
    Kind::namespaced("batch", "CronJob")
        .status()
        .generation()
        .default(cron::defaults)
        .warn(cron::warnings)
        .validate(|o, errors| {
            cron::validate(o, "", errors);
            if meta::name(o).len() > 52 {
                errors.invalid(
                    &Path::new("metadata.name"),
                    meta::name(o),
                    "must be no more than 52 characters",
                );
            }
        })
        .checks(&[Check::MetaChange, Check::Change])
        .validate_update(|new, old, subresource, errors| {
            if subresource.is_empty() {
                cron::validate(new, text(at(old, "spec"), "schedule"), errors);
            }
        }),
];

const SPEC: Path<'static> = Path::new("spec");

fn job_spec_defaults(spec: &mut Value) {
    // One pod, unless told otherwise.
    if !has(spec, "completions") && !has(spec, "parallelism") {
        preset(spec, "completions", 1);
        preset(spec, "parallelism", 1);
    }
    preset(spec, "parallelism", 1);
    let unlimited = has(spec, "backoffLimitPerIndex");
    preset(spec, "backoffLimit", if unlimited { i64::from(i32::MAX) } else { 6 });
    preset_pointer(spec, "completionMode", "NonIndexed");
    preset(spec, "suspend", false);
    preset(spec, "manualSelector", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    preset_pointer(spec, "podReplacementPolicy", replacement);
    if let Some(policy) = some_mut(spec, "podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            for pattern in items_mut(rule, "onPodConditions") {
                preset(pattern, "status", "True");
            }
        }
    }
    pod_defaults::template(spec);
}

fn labels_from_template(object: &mut Value) {
    let labels = at(at(at(at(object, "spec"), "template"), "metadata"), "labels").clone();
    if labels.as_object().is_some_and(|l| !l.is_empty()) && meta::labels(object).is_none_or(|l| l.is_empty())
    {
        meta::set(object, "labels", labels);
    }
}

/// Unless the client minds the selector itself, pods are told apart by the job's uid.
fn create_job(object: &mut Value) {
    let (uid, name) = (meta::uid(object).to_string(), meta::name(object).to_string());
    if flag(at(object, "spec"), "manualSelector") || uid.is_empty() {
        return;
    }
    let Some(spec) = some_mut(object, "spec") else { return };
    if spec.get("template").is_none_or(|t| !t.is_object()) {
        spec["template"] = json!({});
    }
    let before = at(at(&spec["template"], "metadata"), "labels").clone();
    for (key, value) in [
        ("controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        if meta::label(&spec["template"], key).is_none() {
            meta::set_label(&mut spec["template"], key, value);
        }
    }
    if !has(spec, "selector") {
        spec["selector"] = json!({});
    }
    if !spec["selector"]["matchLabels"].is_object() {
        spec["selector"]["matchLabels"] = json!({});
    }
    if !has(&spec["selector"]["matchLabels"], "batch.kubernetes.io/controller-uid") {
        spec["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"] = uid.into();
    }
    // A job without labels of its own has its pods'.
    let labels = spec["template"]["metadata"]["labels"].clone();
    let own = at(at(object, "metadata"), "labels");
    if own.as_object().is_none_or(|l| l.is_empty()) || *own == before {
        meta::set(object, "labels", labels);
    }
}

const MOST_INDEXED: i64 = 100_000;
const MOST_OF_MANY: i64 = 10_000;

fn job_spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        nonnegative(spec, name, path, errors);
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if has(spec, "managedBy") {
        let manager = text(spec, "managedBy");
        let at_manager = path.child("managedBy");
        domain_prefixed_path(manager, &at_manager, errors);
        if manager.len() > 63 {
            errors.push(FieldError::too_long(&at_manager, 63));
        }
    }
    one_of_pointer(spec, "completionMode", &["NonIndexed", "Indexed"], path, errors);
    let indexed = text(spec, "completionMode") == "Indexed";
    if indexed {
        indexed_job(spec, path, errors);
    } else if !has(spec, "completionMode") || text(spec, "completionMode") == "NonIndexed" {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if has(spec, name) {
                errors.invalid(&path.child(name), at(spec, name).clone(), "requires indexed completion mode");
            }
        }
    }
    policies::failure(spec, path, errors);
    let success = path.child("successPolicy");
    if has(spec, "successPolicy") {
        if indexed {
            policies::success(spec, &success, errors);
        } else {
            errors.invalid(&success, at(spec, "successPolicy").clone(), "requires indexed completion mode");
        }
    }
    let replacements: &[&str] =
        if has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    one_of_pointer(spec, "podReplacementPolicy", replacements, path, errors);
    let template = path.child("template");
    pod_spec::template(at(spec, "template"), &template, errors);
    let policy = text(at(at(spec, "template"), "spec"), "restartPolicy");
    let at_policy = template.child("spec.restartPolicy");
    match policy {
        "OnFailure" if has(spec, "podFailurePolicy") => errors.invalid(
            &at_policy,
            policy,
            "only \"Never\" is supported when podFailurePolicy is specified",
        ),
        "OnFailure" | "Never" => {}
        "" | "Always" => errors.required(&at_policy, "valid values: \"OnFailure\", \"Never\""),
        other => errors.not_supported(&at_policy, other, &["OnFailure", "Never"]),
    }
}

/// What jobs whose pods have numbers may ask for.
fn indexed_job(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (completions, failures) = (int(spec, "completions"), int(spec, "maxFailedIndexes"));
    let (at_parallelism, at_failures) = (path.child("parallelism"), path.child("maxFailedIndexes"));
    if completions.is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    if let Some(n) = int(spec, "parallelism").filter(|n| *n > MOST_INDEXED) {
        let message = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.invalid(&at_parallelism, n, message);
    }
    if let (Some(all), Some(n)) = (completions, failures)
        && n > all
    {
        errors.invalid(&at_failures, n, "must be less than or equal to completions");
    }
    if let Some(n) = failures.filter(|n| *n > MOST_INDEXED) {
        errors.invalid(&at_failures, n, "must be less than or equal to 100000");
    }
    if completions.is_some_and(|n| n > MOST_INDEXED) && has(spec, "backoffLimitPerIndex") {
        let message = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
        if failures.is_none() {
            errors.required(&at_failures, "must be specified when completions is above 100000");
        }
        if let Some(n) = int(spec, "parallelism").filter(|n| *n > MOST_OF_MANY) {
            errors.invalid(&at_parallelism, n, message);
        }
        if let Some(n) = failures.filter(|n| *n > MOST_OF_MANY) {
            errors.invalid(&at_failures, n, message);
        }
    }
}

/// A name such as `acme.io/foo`.
fn domain_prefixed_path(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let (host, rest) = name.split_once('/').unwrap_or_default();
    if host.is_empty() || rest.is_empty() {
        errors.invalid(path, name, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    }
    errors.invalid_each(path, host, names::dns1123_subdomain(host));
    let good = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(good) {
        let message = names::regex_message("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
        errors.invalid(path, rest, message);
    }
}

/// The labels that pods of a job without a selector of its owner's bear.
fn generated_selector(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    if flag(spec, "manualSelector") || !has(spec, "selector") {
        return;
    }
    let (uid, name) = (meta::uid(object), meta::name(object));
    if uid.is_empty() {
        errors.required(&Path::new("metadata.uid"), "");
    }
    let template = at(spec, "template");
    let at_labels = SPEC.child("template.metadata.labels");
    let wanted = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    for (key, value) in wanted {
        match meta::label(template, key) {
            Some(given) if given == value => {}
            Some(_) => {
                let labels = at(at(template, "metadata"), "labels").clone();
                errors.invalid(&at_labels.key(key), labels, format!("must be '{value}'"));
            }
            None => errors.required(&at_labels.key(key), format!("must be '{value}'")),
        }
    }
    let labels: serde_json::Map<_, _> =
        wanted.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
    if let Ok(selector) = Selector::from_object(spec.get("selector"))
        && !selector.matches_object(&json!({"metadata": {"labels": labels}}))
    {
        errors.invalid(
            &SPEC.child("selector"),
            at(spec, "selector").clone(),
            "`selector` not auto-generated",
        );
    }
}

/// A job's spec and the selector that goes with it.
fn selected_job_spec(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    job_spec(spec, &SPEC, errors);
    let at_selector = SPEC.child("selector");
    if has(spec, "selector") {
        validate_label_selector(spec.get("selector"), &at_selector, errors);
    } else {
        errors.required(&at_selector, "");
    }
    let template = at(spec, "template");
    // No selector selects nothing.
    let selected = has(spec, "selector")
        && Selector::from_object(spec.get("selector")).map_or(true, |s| s.matches_object(template));
    if !selected {
        let labels = at(at(template, "metadata"), "labels").clone();
        let path = SPEC.child("template.metadata.labels");
        errors.invalid(&path, labels, "`selector` does not match template `labels`");
    }
}

fn validate_job(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    generated_selector(object, errors);
    selected_job_spec(object, errors);
    if text(spec, "completionMode") == "Indexed"
        && let Some(completions) = int(spec, "completions").filter(|n| *n > 0)
    {
        let host = format!("{}-{}", meta::name(object), completions - 1);
        let bad = names::dns1123_label(&host);
        if !bad.is_empty() {
            errors.invalid(
                &Path::new("metadata.name"),
                meta::name(object),
                format!("will not able to create pod with invalid DNS label: {host}"),
            );
        }
    }
}

fn job_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = |o| at(o, "spec");
    spec_warnings(object, spec(object), old.map(spec), "spec")
}

/// What to be warned of in the spec of a job that stands at `path` in `object`.
fn spec_warnings(object: &Value, spec: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    let bad = names::dns1123_label(meta::name(object));
    if old.is_none() && !bad.is_empty() {
        out.push(format!("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]", bad.join(" ")));
    }
    let many = |name: &str, most: i64| int(spec, name).is_some_and(|n| n > most);
    if old.is_none_or(|o| !same(Some(o), Some(spec)))
        && text(spec, "completionMode") == "Indexed"
        && many("completions", MOST_INDEXED)
        && many("parallelism", MOST_OF_MANY)
    {
        out.push(format!("{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"));
    }
    let template = |s| at(s, "template");
    let path = format!("{path}.template");
    out.extend(super::core::warnings::template_at(template(spec), old.map(template), &path));
    out
}

fn job_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        status::validate(new, old, errors);
        return;
    }
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    selected_job_spec(new, errors);
    let completions = SPEC.child("completions");
    if text(spec, "completionMode") != "Indexed" {
        immutable(at(spec, "completions"), at(before, "completions"), &completions, errors);
    } else if let Some(n) = int(spec, "completions")
        && spec.get("completions") != before.get("completions")
        && Some(n) != int(spec, "parallelism")
    {
        errors.invalid(&completions, n, "can only be modified in tandem with spec.parallelism");
    }
    immutable(at(spec, "selector"), at(before, "selector"), &SPEC.child("selector"), errors);
    template_update(spec, old, errors);
    for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        immutable(at(spec, name), at(before, name), &SPEC.child(name), errors);
    }
}

/// A suspended job that runs nothing may still be told where its pods run and what they get.
fn template_update(spec: &Value, old: &Value, errors: &mut FieldErrors) {
    let before = at(old, "spec");
    let (template, mut then) = (at(spec, "template"), at(before, "template").clone());
    let status = at(old, "status");
    let idle = !has(status, "startTime") || status::is_true(status, "Suspended");
    if !(flag(before, "suspend") && idle && int(status, "active").unwrap_or(0) == 0) {
        immutable(template, &then, &SPEC.child("template"), errors);
        return;
    }
    let now = at(template, "spec");
    let pod = &mut then["spec"];
    for member in ["nodeSelector", "tolerations", "schedulingGates"] {
        super::kind::carry(pod, now, member);
    }
    if has(now, "affinity") || has(pod, "affinity") {
        let mut affinity = at(pod, "affinity").clone();
        if !affinity.is_object() {
            affinity = json!({});
        }
        super::kind::carry(&mut affinity, at(now, "affinity"), "nodeAffinity");
        pod["affinity"] = affinity;
    }
    for list in ["containers", "initContainers"] {
        let wanted = items(now, list);
        if items(pod, list).len() != wanted.len() {
            continue;
        }
        for (container, wanted) in items_mut(pod, list).zip(wanted) {
            if container.get("name") == wanted.get("name") {
                super::kind::carry(container, wanted, "resources");
            }
        }
    }
    immutable(now, &then["spec"], &SPEC.child("template.spec"), errors);
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;

    fn made(kind: &str, spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "x", "namespace": "d", "uid": "u"}, "spec": spec});
        let row = find("batch", kind).unwrap();
        row.default(&mut object);
        row.prepare_for_create(&mut object);
        object
    }

    fn errors(kind: &str, spec: Value) -> Vec<String> {
        find("batch", kind).unwrap().validate(&made(kind, spec)).0.iter().map(ToString::to_string).collect()
    }

    fn job(extra: Value) -> Value {
        let mut spec = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
        machinery::patch::merge_patch::apply(&mut spec, &extra);
        spec
    }

    #[test]
    fn jobs() {
        let object = made("Job", job(json!({})));
        assert_eq!(object["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], "u");
        assert_eq!(object["spec"]["template"]["metadata"]["labels"]["job-name"], "x");
        assert_eq!((&object["spec"]["completions"], &object["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
        assert_eq!(errors("Job", job(json!({}))), [""; 0]);
        assert_eq!(
            errors("Job", job(json!({"template": {"spec": {"restartPolicy": "Always"}}}))),
            ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
        );
        assert_eq!(
            errors("Job", job(json!({"completionMode": "Indexed", "parallelism": 2}))),
            ["spec.completions: Required value: when completion mode is Indexed"]
        );
        let row = find("batch", "Job").unwrap();
        let mut new = object.clone();
        new["spec"]["template"]["spec"]["containers"][0]["image"] = "other".into();
        let got = row.validate_update(&new, &object, "").0[0].to_string();
        assert!(
            got.starts_with("spec.template: Invalid value: {") && got.ends_with(": field is immutable"),
            "{got}"
        );
    }

    #[test]
    fn schedules() {
        use super::schedule::cron;
        for good in ["* * * * *", "*/5 0-3 1,15 jan-mar MON", "@hourly", "@every 1h30m", "0 0 * * 0"] {
            assert_eq!(cron(good), Ok(()), "{good}");
        }
        assert_eq!(cron("* *"), Err("expected exactly 5 fields, found 2: [* *]".into()));
        assert_eq!(cron("60 * * * *"), Err("end of range (60) above maximum (59): 60".into()));
        assert_eq!(cron("@x"), Err("unrecognized descriptor: @x".into()));
        assert!(cron("a * * * *").unwrap_err().starts_with("failed to parse int from a"));
        let spec = json!({"schedule": "x", "jobTemplate": {"spec": job(json!({}))}});
        assert_eq!(
            errors("CronJob", spec),
            ["spec.schedule: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]"]
        );
        let spec = json!({"schedule": "@daily", "jobTemplate": {"spec": job(json!({}))}});
        assert_eq!(errors("CronJob", spec), [""; 0]);
    }
}
