//! Security contexts of pods and containers.

use crate::support::{at, flag, has, in_range, items, supported_only, text, texts};
use machinery::field::{FieldErrors, Path};
use serde_json::Value;

const MAX_ID: i64 = i32::MAX as i64;

pub(super) fn pod(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let context = at(spec, "securityContext");
    let at_context = path.child("securityContext");
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        in_range(context, name, 0, MAX_ID, &at_context, errors);
    }
    let groups = at_context.child("supplementalGroups");
    for (i, group) in items(context, "supplementalGroups").iter().enumerate() {
        if let Some(n) = group.as_i64().filter(|n| !(0..=MAX_ID).contains(n)) {
            errors.invalid(&groups.index(i), n, machinery::names::range_message(0, MAX_ID));
        }
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        errors.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    host_users(spec, path, errors);
    sysctls(context, &at_context.child("sysctls"), errors);
    for (name, allowed) in [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
    ] {
        crate::support::one_of_pointer(context, name, allowed, &at_context, errors);
    }
    profiles(context, &at_context, errors);
}

fn host_users(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if spec.get("hostUsers").and_then(Value::as_bool) != Some(false) {
        return;
    }
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        if flag(spec, name) {
            errors.forbidden(&path.child(name), "when `hostUsers` is false");
        }
    }
}

fn sysctls(context: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, sysctl) in items(context, "sysctls").iter().enumerate() {
        let at_name = path.index(i);
        let name = text(sysctl, "name");
        let part = |s: &str| {
            let b = s.as_bytes();
            let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
            b.first().is_some_and(|c| good(*c))
                && b.last().is_some_and(|c| good(*c))
                && b.iter().all(|c| good(*c) || matches!(c, b'-' | b'_'))
        };
        if name.is_empty() {
            errors.required(&at_name.child("name"), "");
        } else if name.len() > 253 || !name.split(['.', '/']).all(part) {
            errors.invalid(
                &at_name.child("name"),
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if seen.contains(&name) {
            errors.duplicate(&at_name.child("name"), name);
        } else {
            seen.push(name);
        }
    }
}

fn profiles(context: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (name, kind) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        if !has(context, name) {
            continue;
        }
        let profile = at(context, name);
        let path = path.child(name);
        let localhost = text(profile, "localhostProfile");
        let kind_of = text(profile, "type");
        let supported: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
        let known = supported.contains(&kind_of);
        match kind_of {
            "" => errors.required(&path.child("type"), format!("type is required when {name} is set")),
            other if !known => errors.not_supported(&path.child("type"), other, supported),
            _ => {}
        }
        if kind_of == "Localhost" {
            if !has(profile, "localhostProfile") || (kind != "seccomp" && localhost.trim().is_empty()) {
                let message = if kind == "seccomp" {
                    "must be set when seccomp type is Localhost"
                } else {
                    "must be set when AppArmor type is Localhost"
                };
                errors.required(&path.child("localhostProfile"), message);
            } else if kind != "seccomp" && localhost != localhost.trim() {
                let detail = "must not be padded with whitespace";
                errors.invalid(&path.child("localhostProfile"), localhost, detail);
            } else if kind != "seccomp" && localhost.len() > 4095 {
                errors.push(machinery::field::FieldError::too_long(&path.child("localhostProfile"), 4095));
            } else if kind == "seccomp" {
                super::containers::descending(localhost, &path.child("localhostProfile"), errors);
            }
        } else if has(profile, "localhostProfile") && (known || kind == "seccomp") {
            let message = format!("can only be set when {kind} type is Localhost");
            let shown = match kind {
                "seccomp" => serde_json::json!({"Type": kind_of, "LocalhostProfile": localhost}),
                _ => localhost.into(),
            };
            errors.invalid(&path.child("localhostProfile"), shown, message);
        }
    }
}

pub(super) fn container(c: &Value, spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !has(c, "securityContext") {
        return;
    }
    let context = at(c, "securityContext");
    for name in ["runAsUser", "runAsGroup"] {
        in_range(context, name, 0, MAX_ID, path, errors);
    }
    let unmasked = text(context, "procMount") == "Unmasked";
    if has(context, "procMount") {
        supported_only(context, "procMount", &["Default", "Unmasked"], path, errors);
        if unmasked && spec.get("hostUsers").and_then(Value::as_bool) != Some(false) {
            errors.invalid(
                &path.child("procMount"),
                "Unmasked",
                "`hostUsers` must be false to use `Unmasked`",
            );
        }
    }
    profiles(context, path, errors);
    if context.get("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        if flag(context, "privileged") {
            errors.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if texts(at(context, "capabilities"), "add").any(|c| c == "CAP_SYS_ADMIN") {
            errors.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}
