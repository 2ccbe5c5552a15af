//! A job's status: a controller, ours or another, may not take back what was said of a job's end. Most rules look
//! at what changes only, so that a status that broke them once can still be corrected elsewhere.

use super::policies::{count_indexes, interval, unshown};
use crate::support::{at, flag, has, int, items, nonnegative, same, text};
use machinery::field::{FieldErrors, Path};
use serde_json::Value;

/// Whether the condition is there and true.
pub(super) fn is_true(status: &Value, kind: &str) -> bool {
    is(status, kind, "True")
}

fn is(status: &Value, kind: &str, state: &str) -> bool {
    items(status, "conditions").iter().any(|c| text(c, "type") == kind && text(c, "status") == state)
}

const STATUS: Path<'static> = Path::new("status");

pub(super) fn validate(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (status, before) = (at(new, "status"), at(old, "status"));
    counts(status, errors);
    ends(new, status, before, errors);
    indexes(at(new, "spec"), status, before, errors);
    let changed = |name: &str| !same(status.get(name), before.get(name));
    let finished = is_true(status, "Complete") || is_true(status, "Failed");
    let was_finished = is_true(before, "Complete") || is_true(before, "Failed");
    let number = |name: &str| int(status, name).unwrap_or(0);
    if (finished != was_finished || changed("terminating")) && finished && number("terminating") > 0 {
        let message = "terminating>0 is invalid for finished job";
        errors.invalid(&STATUS.child("terminating"), number("terminating"), message);
    }
    if (changed("ready") || changed("active")) && number("ready") > number("active") {
        errors.invalid(&STATUS.child("ready"), number("ready"), "cannot set more ready pods than active");
    }
    criteria(at(new, "spec"), status, errors);
    history(at(new, "spec"), status, before, errors);
}

/// No count is negative, and no pod is counted twice.
fn counts(status: &Value, errors: &mut FieldErrors) {
    for name in ["active", "succeeded", "failed", "ready", "terminating"] {
        nonnegative(status, name, &STATUS, errors);
    }
    let uncounted = at(status, "uncountedTerminatedPods");
    let path = STATUS.child("uncountedTerminatedPods");
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        let path = path.child(list);
        for (i, uid) in items(uncounted, list).iter().map(|u| u.as_str().unwrap_or("")).enumerate() {
            if uid.is_empty() {
                errors.invalid(&path.index(i), uid, "must not be empty");
            } else if seen.contains(&uid) {
                errors.duplicate(&path.index(i), uid);
            } else {
                seen.push(uid);
            }
        }
    }
}

/// What a job that is complete or failed states, and what it cannot.
fn ends(new: &Value, status: &Value, before: &Value, errors: &mut FieldErrors) {
    let spec = at(new, "spec");
    let changed = |name: &str| !same(status.get(name), before.get(name));
    let turned = |kind: &str| is_true(status, kind) != is_true(before, kind);
    let (complete, failed) = (is_true(status, "Complete"), is_true(status, "Failed"));
    let finished = complete || failed;
    let ended = finished != (is_true(before, "Complete") || is_true(before, "Failed"));
    let conditions = STATUS.child("conditions");
    if (turned("Complete") || turned("Failed")) && complete && failed {
        errors.push(unshown(&conditions, "cannot set Complete=True and Failed=true conditions"));
    }
    if (turned("Complete") || turned("FailureTarget")) && complete && is_true(status, "FailureTarget") {
        errors.push(unshown(&conditions, "cannot set Complete=True and FailureTarget=true conditions"));
    }
    let (start, end) = (text(status, "startTime"), text(status, "completionTime"));
    let at_end = STATUS.child("completionTime");
    if turned("Complete") || changed("completionTime") {
        if !end.is_empty() && !complete {
            let message = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(&at_end, end, message);
        }
        if end.is_empty() && complete {
            errors.required(&at_end, "completionTime is required for Complete jobs");
        }
    }
    // Times are stored in one spelling, so their texts compare as they do.
    let timed = changed("startTime") || changed("completionTime");
    if timed && !start.is_empty() && !end.is_empty() && end < start {
        errors.invalid(&at_end, end, "must be equal to or after `startTime`");
    }
    if (turned("Failed") || changed("failedIndexes")) && failed && !is_true(status, "FailureTarget") {
        let message = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.push(unshown(&conditions, message));
    }
    let met = is_true(status, "SuccessCriteriaMet");
    if (turned("Complete") || turned("SuccessCriteriaMet")) && complete && !met {
        let message = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.push(unshown(&conditions, message));
    }
    if !finished {
        return;
    }
    let active = int(status, "active").unwrap_or(0);
    if (ended || changed("active")) && active > 0 {
        errors.invalid(&STATUS.child("active"), active, "active>0 is invalid for finished job");
    }
    let never_ran = flag(spec, "suspend") && int(spec, "completions") == Some(0);
    if (ended || changed("startTime")) && !never_ran && start.is_empty() {
        errors.required(&STATUS.child("startTime"), "startTime is required for finished job");
    }
    let uncounted = at(status, "uncountedTerminatedPods");
    let left = !items(uncounted, "succeeded").is_empty() || !items(uncounted, "failed").is_empty();
    if (ended || changed("uncountedTerminatedPods")) && left {
        let path = STATUS.child("uncountedTerminatedPods");
        errors.invalid(&path, uncounted.clone(), "must be empty for finished job");
    }
}

fn indexes(spec: &Value, status: &Value, before: &Value, errors: &mut FieldErrors) {
    let changed = |name: &str| !same(status.get(name), before.get(name));
    let (done, failed) = (text(status, "completedIndexes"), text(status, "failedIndexes"));
    let (at_done, at_failed) = (STATUS.child("completedIndexes"), STATUS.child("failedIndexes"));
    let (done_changed, failed_changed) = (changed("completedIndexes"), changed("failedIndexes"));
    let limited = has(spec, "backoffLimitPerIndex");
    let completions = int(spec, "completions");
    if let Some(n) = completions {
        if done_changed && let Err(why) = count_indexes(done, n) {
            errors.invalid(&at_done, done, format!("error parsing completedIndexes: {why}"));
        }
        if failed_changed
            && limited
            && let Err(why) = count_indexes(failed, n)
        {
            errors.invalid(&at_failed, failed, format!("error parsing failedIndexes: {why}"));
        }
    }
    if done_changed && !done.is_empty() && text(spec, "completionMode") != "Indexed" {
        let message = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid(&at_done, done, message);
    }
    if failed_changed && has(status, "failedIndexes") && !limited {
        let message = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid(&at_failed, failed, message);
    }
    if let Some(n) = completions
        && (failed_changed || done_changed)
        && let Some(index) = overlap(done, failed, n)
    {
        let message = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.invalid(&at_failed, failed, message);
    }
}

/// The first index that both lists name.
fn overlap(done: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |list: &str| -> Vec<(i64, i64)> {
        list.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let failed = read(failed);
    let starts = read(done).into_iter().flat_map(|(a, b)| {
        failed
            .iter()
            .filter(move |(x, y)| a <= *y && *x <= b)
            .map(move |(x, _)| a.max(*x))
            .collect::<Vec<_>>()
    });
    starts.min()
}

/// Success by criteria excludes failure, and comes before completion.
fn criteria(spec: &Value, status: &Value, errors: &mut FieldErrors) {
    let conditions = STATUS.child("conditions");
    let met = is_true(status, "SuccessCriteriaMet");
    for (other, shown) in [("Failed", "Failed"), ("FailureTarget", "FailureTarget")] {
        if met && is_true(status, other) {
            let message = format!("cannot set SuccessCriteriaMet=True and {shown}=true conditions");
            errors.push(unshown(&conditions, &message));
        }
    }
    if has(spec, "successPolicy") && !met && is_true(status, "Complete") {
        let message = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        errors.push(unshown(&conditions, message));
    }
}

/// What was said once stays.
fn history(spec: &Value, status: &Value, before: &Value, errors: &mut FieldErrors) {
    let conditions = STATUS.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is_true(before, kind) && !is_true(status, kind) {
            let message = format!("cannot disable the terminal {kind}=True condition");
            errors.push(unshown(&conditions, &message));
        }
    }
    let elastic =
        text(spec, "completionMode") == "Indexed" && same(spec.get("completions"), spec.get("parallelism"));
    for (name, fixed) in [("failed", true), ("succeeded", !elastic)] {
        let count = |s: &Value| int(s, name).unwrap_or(0);
        if fixed && count(status) < count(before) {
            let message = format!("cannot decrease the {name} counter");
            errors.invalid(&STATUS.child(name), count(status), message);
        }
    }
    let differ = |name: &str| status.get(name) != before.get(name);
    let (end, start) = ("completionTime", "startTime");
    if has(status, end) && has(before, end) && differ(end) {
        errors.invalid(&STATUS.child(end), text(status, end), "field is immutable");
    }
    let resumes = is_true(before, "Suspended") && is(status, "Suspended", "False");
    if has(before, start) && differ(start) && !resumes && !flag(spec, "suspend") {
        let message = "field is immutable for unsuspended job once set";
        errors.invalid(&STATUS.child(start), at(status, start).clone(), message);
    }
    let (was, is) = (is_true(before, "SuccessCriteriaMet"), is_true(status, "SuccessCriteriaMet"));
    if was && !is {
        errors.push(unshown(&conditions, "cannot disable the SuccessCriteriaMet=True condition"));
    }
    if is_true(before, "Complete") && !was && is {
        let message = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(unshown(&conditions, message));
    }
}
