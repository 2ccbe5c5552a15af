//! Containers of all three sorts: names, images, ports, environment, mounts, probes, resources, security.

use super::{resources, security};
use crate::support::{
    at, flag, has, int, items, label, nonnegative, one_of, one_of_pointer, port_number, port_or_name,
    required, text,
};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use serde_json::Value;

/// What validation of a container has to know of its pod.
pub(super) struct Around<'a> {
    pub spec: &'a Value,
    /// Names of the volumes, and whether each is a claim (or can be a block device).
    pub volumes: &'a [(&'a str, bool)],
}

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];

/// All containers of a pod spec, names unique over the three lists.
pub(super) fn all(spec: &Value, volumes: &[(&str, bool)], path: &Path<'_>, errors: &mut FieldErrors) {
    let around = Around { spec, volumes };
    let mut seen: Vec<&str> = Vec::new();
    let containers = path.child("containers");
    if items(spec, "containers").is_empty() {
        errors.required(&containers, "");
    }
    for (i, c) in items(spec, "containers").iter().enumerate() {
        let at_i = containers.index(i);
        common(c, &around, &mut seen, &at_i, errors);
        for name in ["livenessProbe", "startupProbe"] {
            one_success(c, name, &at_i, errors);
        }
        lifecycle(c, spec, &at_i, errors);
        one_of_pointer(c, "restartPolicy", &["Always", "Never", "OnFailure"], &at_i, errors);
    }
    host_port_conflicts(spec, &containers, errors);
    let init = path.child("initContainers");
    for (i, c) in items(spec, "initContainers").iter().enumerate() {
        let at_i = init.index(i);
        common(c, &around, &mut seen, &at_i, errors);
        one_of_pointer(c, "restartPolicy", &["Always", "Never", "OnFailure"], &at_i, errors);
        if text(c, "restartPolicy") == "Always" {
            for name in ["livenessProbe", "startupProbe"] {
                one_success(c, name, &at_i, errors);
            }
            lifecycle(c, spec, &at_i, errors);
        } else {
            for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if has(c, name) {
                    errors.forbidden(
                        &at_i.child(name),
                        "may not be set for init containers without restartPolicy=Always",
                    );
                }
            }
        }
    }
    ephemeral(spec, &around, &mut seen, path, errors);
}

const EPHEMERAL_FORBIDDEN: &[&str] = &[
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
    "restartPolicy",
];

fn ephemeral<'v>(
    spec: &'v Value,
    around: &Around<'_>,
    seen: &mut Vec<&'v str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let list = path.child("ephemeralContainers");
    for (i, c) in items(spec, "ephemeralContainers").iter().enumerate() {
        let at_i = list.index(i);
        common(c, around, seen, &at_i, errors);
        let target = text(c, "targetContainerName");
        let known = items(spec, "containers").iter().chain(items(spec, "initContainers"));
        if !target.is_empty() && !known.into_iter().any(|k| text(k, "name") == target) {
            errors.not_found(&at_i.child("targetContainerName"), target);
        }
        for name in EPHEMERAL_FORBIDDEN {
            let value = at(c, name);
            let empty = value.is_null()
                || value.as_object().is_some_and(|m| m.is_empty())
                || value.as_array().is_some_and(|l| l.is_empty());
            if !empty {
                errors.forbidden(&at_i.child(name), "cannot be set for an Ephemeral Container");
            }
        }
        for (m, mount) in items(c, "volumeMounts").iter().enumerate() {
            for name in ["subPath", "subPathExpr"] {
                if !text(mount, name).is_empty() {
                    let mounts = at_i.child("volumeMounts");
                    errors
                        .forbidden(&mounts.index(m).child(name), "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

fn common<'v>(
    c: &'v Value,
    around: &Around<'_>,
    seen: &mut Vec<&'v str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let name = text(c, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        label(name, &path.child("name"), errors);
    }
    if !name.is_empty() && seen.contains(&name) {
        errors.duplicate(&path.child("name"), name);
    }
    seen.push(name);
    let image = text(c, "image");
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    one_of(c, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], path, errors);
    ports(c, &path.child("ports"), errors);
    env(c, &path.child("env"), errors);
    env_from(c, &path.child("envFrom"), errors);
    mounts(c, around, path, errors);
    one_of(c, "imagePullPolicy", PULL_POLICIES, path, errors);
    if has(c, "resources") {
        resources::requirements(at(c, "resources"), &path.child("resources"), errors);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if has(c, name) {
            probe(at(c, name), &path.child(name), errors);
        }
    }
    resize_policies(c, text(around.spec, "restartPolicy"), &path.child("resizePolicy"), errors);
    security::container(c, around.spec, &path.child("securityContext"), errors);
}

fn resize_policies(c: &Value, pod_policy: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    const RESOURCES: &[&str] = &["cpu", "memory"];
    const POLICIES: &[&str] = &["NotRequired", "RestartContainer"];
    let all = items(c, "resizePolicy");
    for (i, p) in all.iter().enumerate() {
        let resource = text(p, "resourceName");
        if all[..i].iter().any(|q| text(q, "resourceName") == resource) {
            errors.duplicate(&path.index(i), resource);
        }
        for (value, known) in [(resource, RESOURCES), (text(p, "restartPolicy"), POLICIES)] {
            match value {
                "" => errors.required(path, ""),
                other if !known.contains(&other) => errors.not_supported(path, other, known),
                _ => {}
            }
        }
        if pod_policy == "Never" && text(p, "restartPolicy") != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(path, text(p, "restartPolicy"), detail);
        }
    }
}

fn one_success(c: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let probe = at(c, name);
    if let Some(n) = int(probe, "successThreshold").filter(|n| *n != 1) {
        errors.invalid(&path.child(name).child("successThreshold"), n, "must be 1");
    }
}

fn ports(c: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in items(c, "ports").iter().enumerate() {
        let at_i = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let bad = names::port_name(name);
            if !bad.is_empty() {
                errors.invalid_each(&at_i.child("name"), name, bad);
            } else if seen.contains(&name) {
                errors.duplicate(&at_i.child("name"), name);
            } else {
                seen.push(name);
            }
        }
        let number = int(port, "containerPort").unwrap_or(0);
        if number == 0 {
            errors.required(&at_i.child("containerPort"), "");
        } else {
            port_number(number, &at_i.child("containerPort"), errors);
        }
        let host = int(port, "hostPort").unwrap_or(0);
        if host != 0 {
            port_number(host, &at_i.child("hostPort"), errors);
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at_i, errors);
    }
}

fn host_port_conflicts(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<String> = Vec::new();
    for (i, c) in items(spec, "containers").iter().enumerate() {
        for (p, port) in items(c, "ports").iter().enumerate() {
            let host = int(port, "hostPort").unwrap_or(0);
            if host == 0 {
                continue;
            }
            let key = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
            if seen.contains(&key) {
                errors.duplicate(&path.index(i).child("ports").index(p).child("hostPort"), key);
            } else {
                seen.push(key);
            }
        }
    }
}

const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What a field path is converted by, before it is asked whether it suits the place.
const CONVERTIBLE: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELD_PATHS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `metadata.labels['x']` and `metadata.annotations['x']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (base, rest) = path.split_once("['")?;
    Some((base, rest.strip_suffix("']")?))
}

pub(super) fn object_field(field: &Value, volume: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if text(field, "apiVersion").is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    let name = text(field, "fieldPath");
    if name.is_empty() {
        errors.required(&path.child("fieldPath"), "");
        return;
    }
    let version = text(field, "apiVersion");
    let why = match subscript(name) {
        _ if version != "v1" => Some(format!("unsupported pod version: {version}")),
        Some(("metadata.labels" | "metadata.annotations", _)) => None,
        Some((base, _)) => Some(format!("field label does not support subscript: {base}")),
        None if CONVERTIBLE.contains(&name) => None,
        None => Some(format!("field label not supported: {name}")),
    };
    if let Some(why) = why {
        errors.invalid(&path.child("fieldPath"), name, format!("error converting fieldPath: {why}"));
        return;
    }
    if let Some((base, key)) = subscript(name) {
        let bad = match base {
            "metadata.labels" => names::qualified_name(key),
            "metadata.annotations" => names::qualified_name(&key.to_lowercase()),
            _ => {
                errors.invalid(path, name, "does not support subscript");
                return;
            }
        };
        errors.invalid_each(path, key, bad);
        return;
    }
    let supported = if volume { VOLUME_FIELD_PATHS } else { FIELD_PATHS };
    if !supported.contains(&name) {
        errors.not_supported(&path.child("fieldPath"), name, supported);
    }
}

pub(super) fn resource_field(field: &Value, volume: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if volume && text(field, "containerName").is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if text(field, "resource").is_empty() {
        errors.required(&path.child("resource"), "");
    } else {
        let name = text(field, "resource");
        if !RESOURCES.contains(&name) && !name.contains(".hugepages-") {
            errors.not_supported(&path.child("resource"), name, RESOURCES);
        }
        divisor(field, name, path, errors);
    }
}

fn divisor(field: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let given = text(field, "divisor");
    if given.is_empty() || given == "0" {
        return;
    }
    let (known, what) = match name.rsplit('.').next().unwrap_or_default() {
        "cpu" => ("1m and 1", "cpu"),
        "memory" => (SIZES, "memory"),
        "ephemeral-storage" => (SIZES, "local ephemeral storage"),
        other if other.starts_with("hugepages-") => (SIZES, "hugepages"),
        _ => return,
    };
    if !known.split([',', ' ']).any(|k| k == given) {
        let detail = format!("only divisor's values {known} are supported with the {what} resource");
        errors.invalid(&path.child("divisor"), name, detail);
    }
}

fn key_ref(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    errors.invalid_each(
        &path.child("name"),
        text(source, "name"),
        names::dns1123_subdomain(text(source, "name")),
    );
    let key = text(source, "key");
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        errors.invalid_each(&path.child("key"), key, names::config_key(key));
    }
}

fn env(c: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (i, var) in items(c, "env").iter().enumerate() {
        let at_i = path.index(i);
        let name = text(var, "name");
        if name.is_empty() {
            errors.required(&at_i.child("name"), "");
        } else {
            errors.invalid_each(&at_i.child("name"), name, names::env_name(name));
        }
        if !has(var, "valueFrom") {
            continue;
        }
        let from = at(var, "valueFrom");
        let path = at_i.child("valueFrom");
        let mut count = 0;
        for source in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
            if !has(from, source) {
                continue;
            }
            count += 1;
            let (value, path) = (at(from, source), path.child(source));
            match source {
                "fieldRef" => object_field(value, false, &path, errors),
                "resourceFieldRef" => resource_field(value, false, &path, errors),
                "fileKeyRef" => {
                    for name in ["volumeName", "path", "key"] {
                        required(value, name, &path, errors);
                    }
                }
                _ => key_ref(value, &path, errors),
            }
        }
        if count == 0 {
            errors.invalid(
                &path,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            );
        } else if !text(var, "value").is_empty() {
            errors.invalid(&path, "", "may not be specified when `value` is not empty");
        } else if count > 1 {
            errors.invalid(&path, "", "may not have more than one field specified at a time");
        }
    }
}

fn env_from(c: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (i, from) in items(c, "envFrom").iter().enumerate() {
        let at_i = path.index(i);
        let prefix = text(from, "prefix");
        if !prefix.is_empty() {
            errors.invalid_each(&at_i.child("prefix"), prefix, names::env_name(prefix));
        }
        let mut count = 0;
        for source in ["configMapRef", "secretRef"] {
            if has(from, source) {
                count += 1;
                let name = text(at(from, source), "name");
                let at_source = at_i.child(source);
                let at_name = at_source.child("name");
                if name.is_empty() {
                    errors.required(&at_name, "");
                } else {
                    errors.invalid_each(&at_name, name, names::dns1123_subdomain(name));
                }
            }
        }
        match count {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

/// A relative path that does not climb.
pub(super) fn descending(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    no_backsteps(value, path, errors);
}

pub(super) fn no_backsteps(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

fn mounts(c: &Value, around: &Around<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    let list = path.child("volumeMounts");
    for (i, mount) in items(c, "volumeMounts").iter().enumerate() {
        let at_i = list.index(i);
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(&at_i.child("name"), "");
        }
        if !around.volumes.iter().any(|(v, _)| *v == name) {
            errors.not_found(&at_i.child("name"), name);
        }
        let target = text(mount, "mountPath");
        if target.is_empty() {
            errors.required(&at_i.child("mountPath"), "");
        }
        if seen.contains(&target) {
            errors.invalid(&at_i.child("mountPath"), target, "must be unique");
        }
        seen.push(target);
        if items(c, "volumeDevices").iter().any(|d| text(d, "name") == name) {
            errors.invalid(&at_i.child("name"), name, "must not already exist in volumeDevices");
        }
        if items(c, "volumeDevices").iter().any(|d| text(d, "devicePath") == target) {
            errors.invalid(
                &at_i.child("mountPath"),
                target,
                "must not already exist as a path in volumeDevices",
            );
        }
        let sub = text(mount, "subPath");
        if !sub.is_empty() {
            descending(sub, &list.child("subPath"), errors);
        }
        let expression = text(mount, "subPathExpr");
        if !expression.is_empty() {
            if !sub.is_empty() {
                errors.invalid(
                    &at_i.child("subPathExpr"),
                    expression,
                    "subPathExpr and subPath are mutually exclusive",
                );
            }
            descending(expression, &list.child("subPathExpr"), errors);
        }
        let propagation = text(mount, "mountPropagation");
        if has(mount, "mountPropagation") {
            one_of_pointer(
                mount,
                "mountPropagation",
                &["Bidirectional", "HostToContainer", "None"],
                &list,
                errors,
            );
            if propagation == "Bidirectional" && !flag(at(c, "securityContext"), "privileged") {
                errors.forbidden(
                    &list.child("mountPropagation"),
                    "Bidirectional mount propagation is available only to privileged containers",
                );
            }
        }
        recursive_read_only(mount, &list, errors);
    }
    let devices = path.child("volumeDevices");
    let all = items(c, "volumeDevices");
    for (i, device) in all.iter().enumerate() {
        let at_i = devices.index(i);
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        required(device, "name", &at_i, errors);
        if !name.is_empty() && all[..i].iter().any(|d| text(d, "name") == name) {
            errors.invalid(&at_i.child("name"), name, "must be unique");
        }
        match around.volumes.iter().find(|(v, _)| *v == name) {
            None => errors.not_found(&at_i.child("name"), name),
            Some((_, false)) => errors.invalid(
                &at_i.child("name"),
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
        }
        required(device, "devicePath", &at_i, errors);
        if all[..i].iter().any(|d| text(d, "devicePath") == target) {
            errors.invalid(&at_i.child("devicePath"), target, "must be unique");
        }
        if target.split('/').any(|part| part == "..") {
            errors.invalid(&at_i.child("devicePath"), target, "can not contain backsteps ('..')");
        }
        if items(c, "volumeMounts").iter().any(|m| text(m, "name") == name) {
            errors.invalid(&at_i.child("name"), name, "must not already exist in volumeMounts");
        }
        if items(c, "volumeMounts").iter().any(|m| text(m, "mountPath") == target) {
            errors.invalid(
                &at_i.child("devicePath"),
                target,
                "must not already exist as a path in volumeMounts",
            );
        }
    }
}

fn recursive_read_only(mount: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mode = text(mount, "recursiveReadOnly");
    let path = path.child("recursiveReadOnly");
    match mode {
        "" if !has(mount, "recursiveReadOnly") => {}
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !flag(mount, "readOnly") {
                errors.forbidden(&path, "may only be specified when readOnly is true");
            }
            if has(mount, "mountPropagation") && text(mount, "mountPropagation") != "None" {
                errors
                    .forbidden(&path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        other => errors.not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

const HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// The one thing a probe or hook does.
fn handler(value: &Value, grace: Option<i64>, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut count = 0;
    for name in HANDLERS {
        if !has(value, name) {
            continue;
        }
        if count > 0 {
            errors.forbidden(&path.child(name), "may not specify more than 1 handler type");
            continue;
        }
        count += 1;
        let (action, path) = (at(value, name), path.child(name));
        match *name {
            "exec" if items(action, "command").is_empty() => errors.required(&path.child("command"), ""),
            "httpGet" => {
                required(action, "path", &path, errors);
                port_or_name(at(action, "port"), &path.child("port"), errors);
                one_of(action, "scheme", &["HTTP", "HTTPS"], &path, errors);
                for header in items(action, "httpHeaders") {
                    let header = text(header, "name");
                    errors.invalid_each(&path.child("httpHeaders"), header, names::http_header_name(header));
                }
            }
            "tcpSocket" => port_or_name(at(action, "port"), &path.child("port"), errors),
            "sleep" => {
                let seconds = int(action, "seconds").unwrap_or(0);
                // What is negative counts as one second.
                let grace = grace.map(|g| if g < 0 { 1 } else { g });
                if let Some(grace) = grace.filter(|g| !(0..=*g).contains(&seconds)) {
                    let detail =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.invalid(&path, seconds, detail);
                }
            }
            "grpc" => port_number(int(action, "port").unwrap_or(0), &path.child("port"), errors),
            _ => {}
        }
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn probe(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    handler(value, None, path, errors);
    for name in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        nonnegative(value, name, path, errors);
    }
    if let Some(n) = int(value, "terminationGracePeriodSeconds").filter(|n| *n <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), n, "must be greater than 0");
    }
}

fn lifecycle(c: &Value, spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let value = at(c, "lifecycle");
    let path = path.child("lifecycle");
    for hook in ["postStart", "preStop"] {
        if has(value, hook) {
            handler(at(value, hook), int(spec, "terminationGracePeriodSeconds"), &path.child(hook), errors);
        }
    }
}
