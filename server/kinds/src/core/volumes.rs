//! Volumes of a pod.

use super::containers::{descending, no_backsteps, object_field, resource_field};
use super::pod_defaults::volume_sources;
use crate::support::{at, has, int, items, label, one_of_if_set, required, text};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use machinery::quantity::Quantity;
use serde_json::Value;

/// Checks `spec.volumes`; answers each name and whether it can be a block device.
/// `pod` is the pod's name, as far as it is known.
pub(super) fn all<'v>(
    spec: &'v Value,
    pod: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> Vec<(&'v str, bool)> {
    let list = path.child("volumes");
    let mut known: Vec<(&str, bool)> = Vec::new();
    for (i, volume) in items(spec, "volumes").iter().enumerate() {
        let at_i = list.index(i);
        let before = errors.0.len();
        let name = text(volume, "name");
        if has(volume, "ephemeral") && !pod.is_empty() && !name.is_empty() {
            let claim = format!("{pod}-{name}");
            for why in names::dns1123_subdomain(&claim) {
                let detail = format!("PVC name {}: {why}", machinery::field::quote(&claim));
                errors.invalid(&at_i.child("name"), name, detail);
            }
        }
        source(volume, &at_i, errors);
        if name.is_empty() {
            errors.required(&at_i.child("name"), "");
        } else {
            label(name, &at_i.child("name"), errors);
        }
        if known.iter().any(|(n, _)| *n == name) {
            errors.duplicate(&at_i.child("name"), name);
        }
        // What is wrong is not there, for those who would mount it.
        if errors.0.len() == before {
            known.push((name, has(volume, "persistentVolumeClaim") || has(volume, "ephemeral")));
        }
    }
    known
}

fn source(volume: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut sources = volume_sources(volume);
    let Some(name) = sources.next() else {
        errors.required(path, "must specify a volume type");
        return;
    };
    // Upstream's word for it, in pods alone.
    let shown = if name == "gcePersistentDisk" { "persistentDisk" } else { name };
    one(name, at(volume, name), &path.child(shown), errors);
    let portal = text(at(volume, "iscsi"), "targetPortal");
    let named = has(at(volume, "iscsi"), "initiatorName");
    let own = text(volume, "name");
    if named && own.len() + 1 + portal.len() > 64 {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                      iscsi.initiatorName is specified.";
        errors.invalid(&path.child("name"), own, detail);
    }
    for other in sources {
        errors.forbidden(&path.child(other), "may not specify more than 1 volume type");
    }
}

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn mode(value: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(n) = int(value, name).filter(|n| !(0..=0o777).contains(n)) {
        errors.invalid(&path.child(name), n, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// One volume source, of a pod or (where it exists there) a persistent volume.
pub(crate) fn one(name: &str, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match name {
        "emptyDir" => {
            let limit = text(value, "sizeLimit");
            if Quantity::parse(limit).is_ok_and(|q| q.sign() < 0) {
                errors
                    .forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => {
            let at_path = text(value, "path");
            if at_path.is_empty() {
                errors.required(&path.child("path"), "");
            } else {
                no_backsteps(at_path, &path.child("path"), errors);
            }
            let kind = text(value, "type");
            if !HOST_PATH_TYPES.contains(&kind) {
                errors.not_supported(&path.child("type"), kind, HOST_PATH_TYPES);
            }
        }
        "secret" => {
            required(value, "secretName", path, errors);
            mode(value, "defaultMode", path, errors);
            keys(value, path, errors);
        }
        "configMap" => {
            required(value, "name", path, errors);
            mode(value, "defaultMode", path, errors);
            keys(value, path, errors);
        }
        "downwardAPI" => {
            mode(value, "defaultMode", path, errors);
            for file in items(value, "items") {
                downward_file(file, path, errors);
            }
        }
        "projected" => {
            mode(value, "defaultMode", path, errors);
            projected(value, path, errors);
        }
        "persistentVolumeClaim" => required(value, "claimName", path, errors),
        "nfs" => {
            required(value, "server", path, errors);
            required(value, "path", path, errors);
            if !text(value, "path").starts_with('/') {
                errors.invalid(&path.child("path"), text(value, "path"), "must be an absolute path");
            }
        }
        "csi" => {
            let driver = text(value, "driver");
            if driver.is_empty() {
                errors.required(&path.child("driver"), "");
            } else {
                if driver.len() > 63 {
                    errors.push(machinery::field::FieldError::too_long(&path.child("driver"), 63));
                }
                errors.invalid_each(
                    &path.child("driver"),
                    driver,
                    names::dns1123_subdomain(&driver.to_lowercase()),
                );
            }
            if has(value, "nodePublishSecretRef") {
                let secret = text(at(value, "nodePublishSecretRef"), "name");
                if secret.is_empty() {
                    errors.required(&path.child("nodePublishSecretRef").child("name"), "");
                } else {
                    errors.invalid_each(&path.child("name"), secret, names::dns1123_subdomain(secret));
                }
            }
        }
        "ephemeral" => {
            if !has(value, "volumeClaimTemplate") {
                errors.required(&path.child("volumeClaimTemplate"), "");
            } else {
                let at_template = path.child("volumeClaimTemplate");
                let metadata = at(at(value, "volumeClaimTemplate"), "metadata");
                let at_meta = at_template.child("metadata");
                machinery::meta::validate_annotations(
                    metadata.get("annotations"),
                    &at_meta.child("annotations"),
                    errors,
                );
                machinery::labels::validation::validate_labels(
                    metadata.get("labels"),
                    &at_meta.child("labels"),
                    errors,
                );
                super::claims::claim_spec(
                    at(at(value, "volumeClaimTemplate"), "spec"),
                    &at_template.child("spec"),
                    errors,
                );
            }
        }
        "image" => {
            required(value, "reference", path, errors);
            one_of_if_set(value, "pullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
        }
        _ => super::volume_plugins::one(name, value, path, errors),
    }
}

fn keys(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("items");
    for (i, item) in items(value, "items").iter().enumerate() {
        key(item, &list.index(i), errors);
    }
}

fn key(item: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    required(item, "key", path, errors);
    required(item, "path", path, errors);
    local_path(text(item, "path"), &path.child("path"), errors);
    mode(item, "mode", path, errors);
}

/// A path below the volume: relative, not climbing, and not starting with `..`.
fn local_path(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if value.is_empty() {
        return;
    }
    descending(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.invalid(path, value, "must not start with '..'");
    }
}

/// One file; upstream says nothing of where in the list it stands.
fn downward_file(file: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    {
        if text(file, "path").is_empty() {
            errors.required(&path.child("path"), "");
        }
        local_path(text(file, "path"), &path.child("path"), errors);
        match (has(file, "fieldRef"), has(file, "resourceFieldRef")) {
            (true, second) => {
                object_field(at(file, "fieldRef"), true, &path.child("fieldRef"), errors);
                if second {
                    errors.invalid(
                        path,
                        "resource",
                        "fieldRef and resourceFieldRef can not be specified simultaneously",
                    );
                }
            }
            (false, true) => {
                resource_field(at(file, "resourceFieldRef"), true, &path.child("resourceFieldRef"), errors);
            }
            (false, false) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
        }
        mode(file, "mode", path, errors);
    }
}

/// Two files of one volume cannot have one path.
fn once<'v>(taken: &mut Vec<&'v str>, file: &'v str, shown: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if file.is_empty() {
        return;
    }
    if taken.contains(&file) {
        errors.invalid(path, shown, "conflicting duplicate paths");
    } else {
        taken.push(file);
    }
}

/// One bundle by its name, or all of a signer.
fn trust_bundle(inner: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (has(inner, "name"), has(inner, "signerName")) {
        (true, true) => errors.invalid(path, inner.clone(), "only one of name and signerName may be used"),
        (true, false) => {
            let name = text(inner, "name");
            let at_name = path.child("name");
            if name.is_empty() {
                errors.required(&at_name, "must be a valid object name");
            }
            for why in crate::certificates::bundle_name(name, false) {
                errors.invalid(&at_name, name, format!("not a valid clustertrustbundlename: {why}"));
            }
            if has(inner, "labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                errors.invalid(&path.child("labelSelector"), at(inner, "labelSelector").clone(), detail);
            }
        }
        (false, true) => {
            let signer = text(inner, "signerName");
            let at_signer = path.child("signerName");
            if signer.is_empty() {
                errors.required(&at_signer, "must be a valid signer name");
            }
            crate::certificates::signer_name(signer, &at_signer, errors);
            let selector = path.child("labelSelector");
            machinery::labels::validation::validate_label_selector(
                inner.get("labelSelector"),
                &selector,
                errors,
            );
        }
        (false, false) => errors.required(path, "either name or signerName must be specified"),
    }
    required(inner, "path", path, errors);
    local_path(text(inner, "path"), &path.child("path"), errors);
}

fn projected(value: &Value, whole: &Path<'_>, errors: &mut FieldErrors) {
    let list = whole.child("sources");
    let mut taken: Vec<&str> = Vec::new();
    for (i, source) in items(value, "sources").iter().enumerate() {
        let at_i = list.index(i);
        let mut count = 0;
        for name in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            if !has(source, name) {
                continue;
            }
            let (inner, path) = (at(source, name), at_i.child(name));
            count += 1;
            match name {
                "secret" | "configMap" => {
                    required(inner, "name", &path, errors);
                    for (n, item) in items(inner, "items").iter().enumerate() {
                        key(item, &path.child("items").index(n), errors);
                        once(&mut taken, text(item, "path"), text(inner, "name"), whole, errors);
                    }
                }
                "downwardAPI" => {
                    for file in items(inner, "items") {
                        downward_file(file, &path, errors);
                        once(&mut taken, text(file, "path"), text(file, "path"), whole, errors);
                    }
                }
                "serviceAccountToken" => {
                    let seconds = int(inner, "expirationSeconds").unwrap_or(3600);
                    if seconds < 600 {
                        errors.invalid(
                            &path.child("expirationSeconds"),
                            seconds,
                            "may not specify a duration less than 10 minutes",
                        );
                    } else if seconds > 1 << 32 {
                        errors.invalid(
                            &path.child("expirationSeconds"),
                            seconds,
                            "may not specify a duration larger than 2^32 seconds",
                        );
                    }
                    required(inner, "path", whole, errors);
                    local_path(text(inner, "path"), &whole.child("path"), errors);
                }
                "clusterTrustBundle" => {
                    trust_bundle(inner, &path, errors);
                    let file = text(inner, "path");
                    once(&mut taken, file, file, whole, errors);
                }
                _ => {}
            }
        }
        if count > 1 {
            errors.forbidden(&at_i, "may not specify more than 1 volume type per source");
        }
    }
}
