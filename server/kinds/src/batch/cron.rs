//! Cron jobs.

use super::{SPEC, job_spec, schedule, spec_warnings};
use crate::core::pod_defaults;
use crate::support::{at, flag, has, nonnegative, one_of, preset, some_mut, text, with_spec};
use machinery::field::FieldErrors;
use serde_json::Value;

pub(super) fn defaults(object: &mut Value) {
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

/// A cron job; `before` is the schedule it had.
pub(super) fn validate(object: &Value, before: &str, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let schedule = text(spec, "schedule");
    let path = SPEC.child("schedule");
    if schedule.is_empty() {
        errors.required(&path, "");
    } else {
        if let Err(why) = schedule::cron(schedule) {
            errors.invalid(&path, schedule, why);
        }
        let zoned = schedule.contains("TZ");
        if zoned && !before.contains("TZ") {
            let message = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid(&path, schedule, message);
        } else if zoned && has(spec, "timeZone") {
            errors.invalid(&path, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
    }
    nonnegative(spec, "startingDeadlineSeconds", &SPEC, errors);
    if has(spec, "timeZone") {
        time_zone(text(spec, "timeZone"), errors);
    }
    one_of(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &SPEC, errors);
    let job = at(at(spec, "jobTemplate"), "spec");
    let at_job = SPEC.child("jobTemplate.spec");
    job_spec(job, &at_job, errors);
    if has(job, "selector") {
        let selector = at(job, "selector").clone();
        errors.invalid(&at_job.child("selector"), selector, "`selector` will be auto-generated");
    }
    if flag(job, "manualSelector") {
        errors.not_supported(&at_job.child("manualSelector"), true, &["nil", "false"]);
    }
    for name in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        nonnegative(spec, name, &SPEC, errors);
    }
}

fn time_zone(zone: &str, errors: &mut FieldErrors) {
    let path = SPEC.child("timeZone");
    if zone.is_empty() {
        errors.invalid(&path, zone, "timeZone must be nil or non-empty string");
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        let message = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(&path, zone, message);
    }
    if zone != "Local" && !super::zones::is_known(zone) {
        errors.invalid(&path, zone, format!("unknown time zone {zone}"));
    }
}

pub(super) fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = |o| at(at(at(o, "spec"), "jobTemplate"), "spec");
    let mut out = spec_warnings(object, spec(object), old.map(spec), "spec.jobTemplate.spec");
    if old.is_some() && text(at(object, "spec"), "schedule").contains("TZ") {
        out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".into());
    }
    out
}
