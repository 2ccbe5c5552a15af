//! Volumes of the plugins of old, in pods and (where they exist there) in persistent volumes. They are checked though
//! nothing mounts most of them any more.

use super::containers::descending;
use crate::support::{at, flag, has, in_range, int, items, label, members, one_of_pointer, required, text};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use serde_json::Value;

/// The source `name` of a volume.
pub(super) fn one(name: &str, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let need = |fields: &[&str], errors: &mut FieldErrors| {
        for field in fields {
            required(value, field, path, errors);
        }
    };
    match name {
        "iscsi" => iscsi(value, path, errors),
        "gcePersistentDisk" => {
            need(&["pdName"], errors);
            partition(value, path, errors);
        }
        "awsElasticBlockStore" => {
            need(&["volumeID"], errors);
            partition(value, path, errors);
        }
        "cinder" => {
            need(&["volumeID"], errors);
            named_secret(value, path, errors);
        }
        "flexVolume" => flex(value, path, errors),
        "glusterfs" => need(&["endpoints", "path"], errors),
        "rbd" => {
            monitors(value, path, errors);
            need(&["image"], errors);
        }
        "cephfs" => monitors(value, path, errors),
        "azureFile" => need(&["secretName", "shareName"], errors),
        "azureDisk" => azure_disk(value, path, errors),
        "vsphereVolume" => need(&["volumePath"], errors),
        "photonPersistentDisk" => need(&["pdID"], errors),
        "portworxVolume" => need(&["volumeID"], errors),
        "scaleIO" => need(&["gateway", "system", "volumeName"], errors),
        "gitRepo" => {
            need(&["repository"], errors);
            if !text(value, "directory").is_empty() {
                descending(text(value, "directory"), &path.child("directory"), errors);
            }
        }
        "flocker" => flocker(value, path, errors),
        "quobyte" => quobyte(value, path, errors),
        "fc" => fibre_channel(value, path, errors),
        "storageos" => {
            need(&["volumeName"], errors);
            for field in ["volumeName", "volumeNamespace"] {
                if !text(value, field).is_empty() {
                    label(text(value, field), &path.child(field), errors);
                }
            }
            named_secret(value, path, errors);
        }
        _ => {}
    }
}

fn partition(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(n) = int(value, "partition").filter(|n| !(0..=255).contains(n)) {
        errors.invalid(&path.child("partition"), n, names::range_message(1, 255));
    }
}

fn named_secret(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if has(value, "secretRef") && text(at(value, "secretRef"), "name").is_empty() {
        errors.required(&path.child("secretRef.name"), "");
    }
}

fn monitors(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if items(value, "monitors").is_empty() {
        errors.required(&path.child("monitors"), "");
    }
}

/// `iqn.YYYY-MM.authority:name`, `eui.` and 16 or `naa.` and 32 letters and digits (RFC 7143).
fn initiator(name: &str) -> Result<(), &'static str> {
    let plain = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_alphanumeric());
    let counted = |n: usize| name.len() > 4 && name.is_char_boundary(4) && plain(&name[4..], n);
    let iqn = || {
        let rest = name.strip_prefix("iqn.")?;
        let (date, rest) = (rest.get(..7)?, rest.get(7..)?.strip_prefix('.')?);
        let (authority, own) = rest.split_once(':')?;
        let dated =
            date.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() });
        let good = dated
            && !authority.is_empty()
            && authority.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
            && !own.is_empty()
            && !own.contains(|c: char| ",;*&$|".contains(c) || c.is_whitespace());
        good.then_some(())
    };
    let good = match name.get(..3) {
        Some("iqn") => iqn().is_some(),
        Some("eui") => counted(16),
        Some("naa") => counted(32),
        _ => return Err("must be valid format starting with iqn, eui, or naa"),
    };
    if good { Ok(()) } else { Err("must be valid format") }
}

fn iscsi(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for field in ["targetPortal", "iqn"] {
        required(value, field, path, errors);
    }
    let name = text(value, "iqn");
    if let Some(why) = initiator(name).err().filter(|_| !name.is_empty()) {
        errors.invalid(&path.child("iqn"), name, why);
    }
    in_range(value, "lun", 0, 255, path, errors);
    if ["chapAuthDiscovery", "chapAuthSession"].iter().any(|f| flag(value, f)) && !has(value, "secretRef") {
        errors.required(&path.child("secretRef"), "");
    }
    if let Some(name) = value.get("initiatorName").and_then(Value::as_str)
        && let Err(why) = initiator(name)
    {
        errors.invalid(&path.child("initiatorname"), name, why);
    }
}

fn flex(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    required(value, "driver", path, errors);
    let options = path.child("options");
    for (key, _) in members(value, "options") {
        let domain = key.split_once('/').map_or(key.as_str(), |(d, _)| d).to_lowercase();
        let own = ["kubernetes.io", "k8s.io"];
        if own.iter().any(|o| domain.strip_suffix(o).is_some_and(|d| d.is_empty() || d.ends_with('.'))) {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid(&options.key(key), key.as_str(), detail);
        }
    }
}

fn flocker(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = text(value, "datasetName");
    match (name.is_empty(), text(value, "datasetUUID").is_empty()) {
        (true, true) => errors.required(path, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errors.invalid(path, "resource", detail);
        }
        _ => {}
    }
    if name.contains('/') {
        errors.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let detail = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, at_registry) = (text(value, "registry"), path.child("registry"));
    if registry.is_empty() {
        errors.required(&at_registry, detail);
    } else if text(value, "tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), detail);
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            errors.invalid(&at_registry, registry, detail);
        }
    }
    required(value, "volume", path, errors);
}

/// As Go's `net.SplitHostPort` splits.
fn is_host_and_port(pair: &str) -> bool {
    let Some((host, _)) = pair.rsplit_once(':') else { return false };
    match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').is_some_and(|h| !h.contains(['[', ']'])),
        None => !host.contains([':', '[', ']']),
    }
}

fn fibre_channel(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (wwns, ids) = (items(value, "targetWWNs"), items(value, "wwids"));
    let at_wwns = path.child("targetWWNs");
    if wwns.is_empty() && ids.is_empty() {
        errors.required(&at_wwns, "must specify either targetWWNs or wwids, but not both");
    }
    if !wwns.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(&at_wwns, Value::Array(wwns.to_vec()), detail);
    }
    if !wwns.is_empty() {
        if !has(value, "lun") {
            errors.required(&path.child("lun"), "lun is required if targetWWNs is specified");
        }
        in_range(value, "lun", 0, 255, path, errors);
    }
}

const MANAGED: &[&str] =
    &["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"];
const BLOB: &[&str] = &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"];

fn azure_disk(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    required(value, "diskName", path, errors);
    required(value, "diskURI", path, errors);
    one_of_pointer(value, "cachingMode", &["None", "ReadOnly", "ReadWrite"], path, errors);
    one_of_pointer(value, "kind", &["Dedicated", "Managed", "Shared"], path, errors);
    let (uri, at_uri) = (text(value, "diskURI"), path.child("diskURI"));
    match value.get("kind").and_then(Value::as_str) {
        Some("Managed") if !uri.starts_with("/subscriptions/") => errors.not_supported(&at_uri, uri, MANAGED),
        Some(kind) if kind != "Managed" && !uri.starts_with("https://") => {
            errors.not_supported(&at_uri, uri, BLOB);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_initiators() {
        for good in [
            "iqn.2001-04.com.example:storage",
            "eui.0123456789abcdef",
            "naa.0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(initiator(good), Ok(()), "{good}");
        }
        for bad in ["iqn.2001-04.com.example", "iqn.x", "eui.1", "naa.é", "iqn.2001-04.a:b c"] {
            assert_eq!(initiator(bad), Err("must be valid format"), "{bad}");
        }
        assert_eq!(initiator("x"), Err("must be valid format starting with iqn, eui, or naa"));
    }

    #[test]
    fn pairs() {
        assert!(is_host_and_port("a:1") && is_host_and_port("[::1]:2") && is_host_and_port(":"));
        assert!(!is_host_and_port("a") && !is_host_and_port("::1:2") && !is_host_and_port("[a:1"));
    }
}
