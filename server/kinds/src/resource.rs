//! The group `resource.k8s.io`.

use super::kind::Kind;
use super::support::{at, immutable, items, items_mut, label, preset, required, some_mut, text, with_spec};
use machinery::field::{FieldErrors, Path};
use serde_json::Value;

const GROUP: &str = "resource.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::cluster(GROUP, "DeviceClass").generation(),
    Kind::namespaced(GROUP, "ResourceClaim")
        .status()
        .default(|o| with_spec(o, request_defaults))
        .validate(|o, errors| requests(at(o, "spec"), &Path::new("spec"), errors))
        .validate_update(|new, old, subresource, errors| {
            if subresource.is_empty() {
                immutable(at(new, "spec"), at(old, "spec"), &Path::new("spec"), errors);
            }
        }),
    Kind::namespaced(GROUP, "ResourceClaimTemplate")
        .default(|o| {
            with_spec(o, |spec| with_spec(spec, request_defaults));
        })
        .validate(|o, errors| requests(at(at(o, "spec"), "spec"), &Path::new("spec.spec"), errors))
        .validate_update(|new, old, _, errors| {
            immutable(at(new, "spec"), at(old, "spec"), &Path::new("spec"), errors)
        }),
    Kind::cluster(GROUP, "ResourceSlice")
        .generation()
        .validate(|o, errors| {
            let spec = at(o, "spec");
            required(spec, "driver", &Path::new("spec"), errors);
            required(at(spec, "pool"), "name", &Path::new("spec.pool"), errors);
        })
        .select(|o| {
            let spec = at(o, "spec");
            vec![
                ("spec.nodeName", text(spec, "nodeName").into()),
                ("spec.driver", text(spec, "driver").into()),
            ]
        }),
];

fn request_defaults(spec: &mut Value) {
    let Some(devices) = some_mut(spec, "devices") else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = some_mut(request, "exactly") {
            count(exactly);
        }
        items_mut(request, "firstAvailable").for_each(count);
    }
}

fn count(request: &mut Value) {
    preset(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        super::support::preset_int(request, "count", 1);
    }
}

fn requests(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("devices.requests");
    let mut seen: Vec<&str> = Vec::new();
    for (i, request) in items(at(spec, "devices"), "requests").iter().enumerate() {
        let at_i = list.index(i);
        let name = text(request, "name");
        if name.is_empty() {
            errors.required(&at_i.child("name"), "");
        } else {
            label(name, &at_i.child("name"), errors);
        }
        if seen.contains(&name) {
            errors.duplicate(&at_i.child("name"), name);
        }
        seen.push(name);
        let exactly = at(request, "exactly");
        match (exactly.is_null(), items(request, "firstAvailable").is_empty()) {
            (true, true) => {
                errors.required(&at_i, "exactly one of `exactly` or `firstAvailable` is required")
            }
            (false, false) => {
                errors.invalid(
                    &at_i,
                    Value::Null,
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                );
            }
            (false, true) => required(exactly, "deviceClassName", &at_i.child("exactly"), errors),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;
    use serde_json::json;

    #[test]
    fn claims() {
        let row = find(GROUP, "ResourceClaim").unwrap();
        let mut claim = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "c"}}]}}});
        row.default(&mut claim);
        assert_eq!(claim["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
        assert!(row.validate(&claim).is_empty());
        let mut new = claim.clone();
        new["spec"]["devices"]["requests"][0]["name"] = "b".into();
        assert!(row.validate_update(&new, &claim, "").0[0].to_string().starts_with("spec: Invalid value: {"));
    }
}
