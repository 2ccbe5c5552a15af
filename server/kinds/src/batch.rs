//! The group `batch`.

use super::core::{pod_defaults, pod_spec};
use super::kind::Kind;
use super::support::{
    at, flag, has, immutable, int, items, items_mut, nonnegative, one_of, preset, some_mut, text, with_spec,
};
use machinery::field::{FieldErrors, Path};
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
        .validate(validate_job)
        .warn(super::core::warnings::template)
        .validate_update(job_update)
        .select(|o| vec![("status.successful", int(at(o, "status"), "succeeded").unwrap_or(0).to_string())]),
    Kind::namespaced("batch", "CronJob").status().generation().default(cron_defaults).validate(validate_cron),
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
    preset(spec, "completionMode", "NonIndexed");
    preset(spec, "suspend", false);
    preset(spec, "manualSelector", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    preset(spec, "podReplacementPolicy", replacement);
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
        meta::set_label(&mut spec["template"], key, value);
    }
    if !has(spec, "selector") {
        spec["selector"] = json!({});
    }
    if !spec["selector"]["matchLabels"].is_object() {
        spec["selector"]["matchLabels"] = json!({});
    }
    spec["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"] = uid.into();
    // A job without labels of its own has its pods'.
    let labels = spec["template"]["metadata"]["labels"].clone();
    let own = at(at(object, "metadata"), "labels");
    if own.as_object().is_none_or(|l| l.is_empty()) || *own == before {
        meta::set(object, "labels", labels);
    }
}

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
    if has(spec, "completionMode") {
        one_of(spec, "completionMode", &["Indexed", "NonIndexed"], path, errors);
    }
    let indexed = text(spec, "completionMode") == "Indexed";
    if indexed {
        if !has(spec, "completions") {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        if let Some(n) = int(spec, "parallelism").filter(|n| *n > 100_000) {
            errors.invalid(
                &path.child("parallelism"),
                n,
                "must be less than or equal to 100000 when completion mode is Indexed",
            );
        }
    } else {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if has(spec, name) {
                errors.invalid(&path.child(name), at(spec, name).clone(), "requires indexed completion mode");
            }
        }
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    failure_policy(spec, path, errors);
    let managed = text(spec, "managedBy");
    if !managed.is_empty() && !managed.contains('/') {
        errors.invalid(
            &path.child("managedBy"),
            managed,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        );
    }
    super::support::one_of_if_set(
        spec,
        "podReplacementPolicy",
        &["Failed", "TerminatingOrFailed"],
        path,
        errors,
    );
    let template = path.child("template");
    pod_spec::template(at(spec, "template"), &template, errors);
    let policy = text(at(at(spec, "template"), "spec"), "restartPolicy");
    let at_policy = template.child("spec.restartPolicy");
    match policy {
        "" | "OnFailure" | "Never" => {}
        "Always" => errors.required(&at_policy, "valid values: \"OnFailure\", \"Never\""),
        other => errors.not_supported(&at_policy, other, &["OnFailure", "Never"]),
    }
    if has(spec, "podFailurePolicy") && policy != "Never" {
        errors.invalid(&at_policy, policy, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

fn failure_policy(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rules = path.child("podFailurePolicy.rules");
    for (i, rule) in items(at(spec, "podFailurePolicy"), "rules").iter().enumerate() {
        let at_i = rules.index(i);
        one_of(rule, "action", &["Count", "FailIndex", "FailJob", "Ignore"], &at_i, errors);
        let (codes, conditions) = (has(rule, "onExitCodes"), !items(rule, "onPodConditions").is_empty());
        if codes && conditions {
            errors.invalid(
                &at_i,
                Value::Null,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            );
        } else if !codes && !conditions {
            errors.invalid(
                &at_i,
                Value::Null,
                "specifying one of OnExitCodes and OnPodConditions is required",
            );
        }
        if codes {
            let exit = at(rule, "onExitCodes");
            let path = at_i.child("onExitCodes");
            one_of(exit, "operator", &["In", "NotIn"], &path, errors);
            let values: Vec<i64> = items(exit, "values").iter().filter_map(Value::as_i64).collect();
            if values.is_empty() {
                errors.invalid(&path.child("values"), Value::Array(vec![]), "at least one value is required");
            }
            for (n, value) in values.iter().enumerate() {
                if values[..n].contains(value) {
                    errors.duplicate(&path.child("values").index(n), *value);
                }
                if text(exit, "operator") == "In" && *value == 0 {
                    errors.invalid(&path.child("values").index(n), 0, "must not be 0 for the In operator");
                }
            }
        }
    }
}

fn validate_job(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let at_selector = SPEC.child("selector");
    if !has(spec, "selector") {
        errors.required(&at_selector, "");
    } else {
        validate_label_selector(spec.get("selector"), &at_selector, errors);
    }
    match Selector::from_object(spec.get("selector")) {
        Ok(selector) if has(spec, "selector") => {
            let template = at(spec, "template");
            if !selector.matches_object(template) {
                let labels = at(at(template, "metadata"), "labels").clone();
                errors.invalid(
                    &SPEC.child("template.metadata.labels"),
                    labels,
                    "`selector` does not match template `labels`",
                );
            }
        }
        _ => {}
    }
    job_spec(spec, &SPEC, errors);
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

fn job_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        return;
    }
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    for name in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        immutable(at(spec, name), at(before, name), &SPEC.child(name), errors);
    }
    let elastic =
        text(spec, "completionMode") == "Indexed" && at(spec, "completions") == at(spec, "parallelism");
    if !elastic {
        immutable(at(spec, "completions"), at(before, "completions"), &SPEC.child("completions"), errors);
    }
    let mut template = at(spec, "template").clone();
    let then = at(before, "template");
    // A job that never started may still be told where to run.
    if flag(before, "suspend") && !has(at(old, "status"), "startTime") {
        for member in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
            if let Some(pod) = template.get_mut("spec") {
                super::kind::carry(pod, at(then, "spec"), member);
            }
        }
        for member in ["labels", "annotations"] {
            if let Some(metadata) = template.get_mut("metadata") {
                super::kind::carry(metadata, at(then, "metadata"), member);
            }
        }
    }
    immutable(&template, then, &SPEC.child("template"), errors);
}

fn cron_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "concurrencyPolicy", "Allow");
        preset(spec, "suspend", false);
        preset(spec, "successfulJobsHistoryLimit", 3);
        preset(spec, "failedJobsHistoryLimit", 1);
        if let Some(template) = some_mut(spec, "jobTemplate") {
            with_spec(template, |job| {
                // The job's own defaults come when it is made; its pods' come now.
                pod_defaults::template(job);
            });
        }
    });
}

fn validate_cron(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let schedule = text(spec, "schedule");
    let path = SPEC.child("schedule");
    if schedule.is_empty() {
        errors.required(&path, "");
    } else {
        if let Err(why) = cron(schedule) {
            errors.invalid(&path, schedule, why);
        }
        if schedule.contains("TZ") {
            errors.invalid(
                &path,
                schedule,
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            );
        }
    }
    nonnegative(spec, "startingDeadlineSeconds", &SPEC, errors);
    if has(spec, "timeZone") {
        let zone = text(spec, "timeZone");
        let path = SPEC.child("timeZone");
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'/');
        if zone.is_empty() {
            errors.invalid(&path, zone, "timeZone must be nil or non-empty string");
        } else if zone.eq_ignore_ascii_case("local") {
            errors.invalid(
                &path,
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        } else if !zone.bytes().all(good) || zone.starts_with('/') {
            errors.invalid(&path, zone, format!("unknown time zone {zone}"));
        }
    }
    one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &SPEC, errors);
    for name in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        nonnegative(spec, name, &SPEC, errors);
    }
    let job = at(at(spec, "jobTemplate"), "spec");
    let at_job = SPEC.child("jobTemplate.spec");
    job_spec(job, &at_job, errors);
    if flag(job, "manualSelector") {
        errors.not_supported(&at_job.child("manualSelector"), true, &["nil", "false"]);
    }
    if meta::name(object).len() > 52 {
        errors.invalid(&Path::new("metadata.name"), meta::name(object), "must be no more than 52 characters");
    }
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Whether a schedule can be read: five fields or one of the `@` words.
fn cron(schedule: &str) -> Result<(), String> {
    let rest = match schedule.split_once(' ') {
        Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => rest.trim(),
        _ => schedule.trim(),
    };
    if let Some(word) = rest.strip_prefix('@') {
        return match word {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
            _ if word.strip_prefix("every ").is_some_and(duration) => Ok(()),
            _ => Err(format!("unrecognized descriptor: {rest}")),
        };
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let bounds: [(i64, i64, &[&str]); 5] =
        [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];
    for (field, (low, high, words)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            range(part, low, high, words)?;
        }
    }
    Ok(())
}

fn duration(text: &str) -> bool {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    digits > 0 && text[digits..].starts_with(|c: char| c.is_ascii_alphabetic())
}

fn range(part: &str, low: i64, high: i64, words: &[&str]) -> Result<(), String> {
    let number = |text: &str| -> Result<i64, String> {
        if let Some(i) = words.iter().position(|w| w.eq_ignore_ascii_case(text)) {
            return Ok(i as i64 + low);
        }
        text.parse::<i64>().map_err(|_| {
            format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")
        })
    };
    let (span, step) = match part.split_once('/') {
        Some((span, step)) => (span, Some(step)),
        None => (part, None),
    };
    if step.is_some_and(|s| s.contains('/')) {
        return Err(format!("too many slashes: {part}"));
    }
    let (first, last) = match span {
        "*" | "?" => (low, high),
        _ => match span.split_once('-') {
            Some((_, b)) if b.contains('-') => return Err(format!("too many hyphens: {part}")),
            Some((a, b)) => (number(a)?, number(b)?),
            None => {
                let n = number(span)?;
                (n, if step.is_some() { high } else { n })
            }
        },
    };
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if first < low {
        return Err(format!("beginning of range ({first}) below minimum ({low}): {part}"));
    }
    if last > high {
        return Err(format!("end of range ({last}) above maximum ({high}): {part}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
    }
    Ok(())
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
