//! Kinds that extend the API: custom resource definitions and aggregated services.

use super::kind::Kind;
use super::support::{at, flag, has, int, preset, required, some_mut, text, with_spec};
use machinery::field::{FieldErrors, Path};
use machinery::{meta, names};
use serde_json::Value;

pub(super) static KINDS: &[Kind] = &[
    super::definitions::KIND,
    Kind::cluster("apiregistration.k8s.io", "APIService")
        .named(names::path_segment)
        .status()
        .default(service_defaults)
        .validate(validate_service),
];

const SPEC: Path<'static> = Path::new("spec");

fn service_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        if let Some(service) = some_mut(spec, "service") {
            preset(service, "port", 443);
        }
    });
}

fn validate_service(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let expected = format!("{}.{}", text(spec, "version"), text(spec, "group"));
    let name = meta::name(object);
    // A name that is none is told once.
    if !name.is_empty() && names::path_segment(name, false).is_empty() && name != expected {
        errors.invalid(
            &Path::new("metadata.name"),
            meta::name(object),
            format!("must be `spec.version+\".\"+spec.group`: {}", machinery::field::quote(&expected)),
        );
    }
    let group = text(spec, "group");
    if group.is_empty() {
        if text(spec, "version") != "v1" {
            errors.required(
                &SPEC.child("group"),
                "only v1 may have an empty group and it better be legacy kube",
            );
        }
    } else {
        errors.invalid_each(&SPEC.child("group"), group, names::dns1123_subdomain(group));
    }
    let version = text(spec, "version");
    errors.invalid_each(&SPEC.child("version"), version, names::dns1035_label(version));
    for (name, high) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let n = int(spec, name).unwrap_or(0);
        if n <= 0 || n > high {
            let range = format!("must be positive and less than {high}");
            errors.invalid(&SPEC.child(name), n, range);
        }
    }
    let encoded = text(spec, "caBundle");
    let bundle = !encoded.is_empty();
    if !has(spec, "service") {
        if bundle {
            errors.invalid(
                &SPEC.child("caBundle"),
                format!("{} bytes", encoded.trim_end_matches('=').len() * 3 / 4),
                "local APIServices may not have a caBundle",
            );
        }
        if flag(spec, "insecureSkipTLSVerify") {
            errors.invalid(
                &SPEC.child("insecureSkipTLSVerify"),
                true,
                "local APIServices may not have insecureSkipTLSVerify",
            );
        }
        return;
    }
    let service = at(spec, "service");
    let path = SPEC.child("service");
    required(service, "namespace", &path, errors);
    required(service, "name", &path, errors);
    if let Some(port) = int(service, "port").filter(|p| !(1..=65535).contains(p)) {
        errors.invalid(
            &path.child("port"),
            port,
            "port is not valid: must be between 1 and 65535, inclusive",
        );
    }
    if flag(spec, "insecureSkipTLSVerify") && bundle {
        errors.invalid(&SPEC.child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use serde_json::json;

    #[test]
    fn services() {
        let row = find("apiregistration.k8s.io", "APIService").unwrap();
        let object = json!({"metadata": {"name": "v1.x.y"}, "spec": {"group": "x.y", "version": "v1", "groupPriorityMinimum": 0, "versionPriority": 15}});
        let got: Vec<_> = row.validate(&object).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            ["spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000"]
        );
    }
}
