//! Persistent volumes.

use super::pod_defaults::{volume_source, volume_sources};
use super::{affinity, claims, resources, volumes};
use crate::kind::{Kind, Metadata};
use crate::support::{
    at, has, immutable, map_mut, members, one_of_if_set, preset, same, subdomain, text, with_spec,
};
use machinery::field::{FieldErrors, Path};
use machinery::quantity::Quantity;
use serde_json::{Value, json};

pub(super) const KIND: Kind = Kind::cluster("", "PersistentVolume")
    .metadata(Metadata::Whole)
    .status()
    .default(default)
    .on_create(|o| {
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        o["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": now});
    })
    .on_update(|o, old, subresource| {
        let phase = |o: &Value| text(at(o, "status"), "phase").to_owned();
        let own = has(at(o, "status"), "lastPhaseTransitionTime")
            && at(at(o, "status"), "lastPhaseTransitionTime")
                != at(at(old, "status"), "lastPhaseTransitionTime");
        if subresource == "status" && phase(o) != phase(old) && !own && o["status"].is_object() {
            o["status"]["lastPhaseTransitionTime"] =
                chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true).into();
        }
    })
    .validate(validate)
    .validate_update(validate_update)
    .select(|o| vec![("name", machinery::meta::name(o).into())]);

/// `local` and `csi` stand in volumes alone or differ there; the others are sources of pods too.
const OWN: &[&str] = &["local"];

fn default(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "persistentVolumeReclaimPolicy", "Retain");
        preset(spec, "volumeMode", "Filesystem");
        volume_source(spec);
        if let Some(host) = spec.get_mut("hostPath").filter(|h| h.is_object()) {
            preset(host, "type", "");
        }
    });
    if map_mut(object, "status").is_some() {
        preset(&mut object["status"], "phase", "Pending");
    }
}

fn sources(spec: &Value) -> Vec<&'static str> {
    volume_sources(spec).chain(OWN.iter().copied().filter(|s| has(spec, s))).collect()
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = at(object, "spec");
    claims::access_modes(spec, "", &path, errors);
    let capacity = path.child("capacity");
    if members(spec, "capacity").next().is_none() {
        errors.required(&capacity, "");
    } else if at(spec, "capacity").get("storage").is_none() || members(spec, "capacity").count() > 1 {
        errors.not_supported(&capacity, at(spec, "capacity").clone(), &["storage"]);
    }
    for (name, amount) in members(spec, "capacity") {
        resources::amount(name, amount, &capacity.key(name), errors);
        let quantity = Quantity::parse(amount.as_str().unwrap_or("")).unwrap_or_default();
        if quantity.is_zero() {
            errors.invalid(&capacity.key(name), "0", "must be greater than zero");
        }
    }
    one_of_if_set(spec, "persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], &path, errors);
    if has(spec, "nodeAffinity") && has(at(spec, "nodeAffinity"), "required") {
        let at_affinity = path.child("nodeAffinity.required");
        affinity::node_selector(at(at(spec, "nodeAffinity"), "required"), &at_affinity, errors);
    }
    match sources(spec).as_slice() {
        [] => errors.required(&path, "must specify a volume type"),
        [first, rest @ ..] => {
            let value = at(spec, first);
            match *first {
                "local" if text(value, "path").is_empty() => errors.required(&path.child("local.path"), ""),
                // A volume names its secret by reference.
                "azureFile" => {}
                "csi" => {
                    volumes::one("csi", value, &path.child("csi"), errors);
                    if text(value, "volumeHandle").is_empty() {
                        errors.required(&path.child("csi.volumeHandle"), "");
                    }
                }
                name => volumes::one(name, value, &path.child(name), errors),
            }
            if *first == "local" && !has(spec, "nodeAffinity") {
                errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
            }
            for other in rest {
                errors.forbidden(&path.child(other), "may not specify more than 1 volume type");
            }
        }
    }
    if !text(spec, "storageClassName").is_empty() {
        subdomain(text(spec, "storageClassName"), &path.child("storageClassName"), errors);
    }
    one_of_if_set(spec, "volumeMode", &["Block", "Filesystem"], &path, errors);
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        return;
    }
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    let mut names = sources(spec);
    names.extend(sources(before));
    if names.iter().any(|n| !same(spec.get(n), before.get(n))) {
        errors.forbidden(
            &Path::new("spec.persistentvolumesource"),
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    immutable(at(spec, "volumeMode"), at(before, "volumeMode"), &Path::new("spec.volumeMode"), errors);
    if has(before, "nodeAffinity") {
        immutable(
            at(spec, "nodeAffinity"),
            at(before, "nodeAffinity"),
            &Path::new("spec.nodeAffinity"),
            errors,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;

    static VOLUME: Kind = KIND;

    #[test]
    fn checks() {
        let volume = |spec: Value| json!({"metadata": {"name": "v"}, "spec": spec});
        let errors = |o: Value| (&VOLUME).validate(&o).0.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            errors(volume(json!({}))),
            [
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec: Required value: must specify a volume type"
            ]
        );
        assert!(errors(volume(json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}))).is_empty());
    }
}
