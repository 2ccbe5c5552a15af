//! Taints of devices, what tolerates them, rules that taint, and the conditions of a binding.

use super::common::{driver, each, pool_name};
use super::defaults::now;
use crate::storage::driver_name;
use crate::support::{at, conditions, has, items, label, text, texts};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use serde_json::Value;

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
const MOST_CONDITIONS: usize = 8;
const MOST_BINDING_CONDITIONS: usize = 4;

fn label_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    errors.invalid_each(path, name, names::qualified_name(name));
}

fn label_value(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    errors.invalid_each(path, value, names::label_value(value));
}

/// A taint; `stays`: its effect was there before.
pub(super) fn taint(taint: &Value, stays: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    label_name(text(taint, "key"), &path.child("key"), errors);
    if !text(taint, "value").is_empty() {
        label_value(text(taint, "value"), &path.child("value"), errors);
    }
    let at_effect = path.child("effect");
    match text(taint, "effect") {
        _ if stays => {}
        "" => errors.required(&at_effect, ""),
        effect if EFFECTS.contains(&effect) => {}
        effect => errors.not_supported(&at_effect, effect, EFFECTS),
    }
}

pub(super) fn toleration(toleration: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !text(toleration, "key").is_empty() {
        label_name(text(toleration, "key"), &path.child("key"), errors);
    }
    let (value, at_value) = (text(toleration, "value"), path.child("value"));
    match text(toleration, "operator") {
        "Exists" if !value.is_empty() => {
            errors.invalid(&at_value, value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => label_value(value, &at_value, errors),
        "" => errors.required(&path.child("operator"), ""),
        other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    let effect = text(toleration, "effect");
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.not_supported(&path.child("effect"), effect, EFFECTS);
    }
}

/// The specification of a rule.
pub(super) fn rule(spec: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let (selector, at_selector) = (at(spec, "deviceSelector"), path.child("deviceSelector"));
    if has(selector, "driver") {
        driver_name(text(selector, "driver"), &at_selector.child("driver"), errors);
    }
    if has(selector, "pool") {
        pool_name(text(selector, "pool"), &at_selector.child("pool"), errors);
    }
    if has(selector, "device") {
        label(text(selector, "device"), &at_selector.child("device"), errors);
    }
    let now = at(spec, "taint");
    let stays = old.is_some_and(|o| text(at(o, "taint"), "effect") == text(now, "effect"));
    taint(now, stays, &path.child("taint"), errors);
}

pub(super) fn rule_status(status: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    conditions(status, &path, errors);
    let count = items(status, "conditions").len();
    super::common::too_many(count, MOST_CONDITIONS, &path.child("conditions"), errors);
}

/// A new effect counts from now on, unless the writer says since when.
pub(super) fn renew(object: &mut Value, old: &Value, subresource: &str) {
    let before = at(at(old, "spec"), "taint");
    let taint = at(at(object, "spec"), "taint");
    let effect = text(taint, "effect") != text(before, "effect");
    if subresource.is_empty() && effect && at(taint, "timeAdded") == at(before, "timeAdded") {
        object["spec"]["taint"]["timeAdded"] = now().into();
    }
}

/// What must hold, and must not, before a claim's pod is bound: of a device, or of a result that has it.
pub(super) fn binding(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const READY: &str = "bindingConditions";
    const FAILED: &str = "bindingFailureConditions";
    for member in [READY, FAILED] {
        each(items(of, member), MOST_BINDING_CONDITIONS, &path.child(member), errors, |c, path, errors| {
            label_name(c.as_str().unwrap_or_default(), path, errors);
        });
    }
    let ready: Vec<&str> = texts(of, READY).collect();
    let failed: Vec<&str> = texts(of, FAILED).collect();
    for (member, list) in [(READY, &ready), (FAILED, &failed)] {
        let path = path.child(member);
        for (i, condition) in list.iter().enumerate() {
            if list[..i].contains(condition) {
                errors.duplicate(&path.index(i), *condition);
            }
            if member == FAILED && ready.contains(condition) {
                let message = "bindingFailureConditions must not overlap with bindingConditions";
                errors.invalid(&path.index(i), *condition, message);
            }
        }
    }
    for (missing, there, name, other) in [(&ready, &failed, READY, FAILED), (&failed, &ready, FAILED, READY)]
    {
        if missing.is_empty() && !there.is_empty() {
            let message = format!("{name} are required to use {other}");
            errors.invalid(&path.child(name), at(of, name).clone(), message);
        }
    }
}

/// A driver, a pool and a device of an allocation.
pub(super) fn device_id(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    driver(of, path, errors);
    pool_name(text(of, "pool"), &path.child("pool"), errors);
    label(text(of, "device"), &path.child("device"), errors);
}
