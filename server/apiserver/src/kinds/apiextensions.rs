//! Kinds that extend the API: custom resource definitions and aggregated services.

use super::kind::Kind;
use super::support::{
    at, flag, has, immutable, int, items, map_mut, one_of, preset, required, some_mut, text, texts, with_spec,
};
use machinery::field::{FieldErrors, Path};
use machinery::{meta, names};
use serde_json::{Value, json};

pub(super) static KINDS: &[Kind] = &[
    Kind::cluster("apiextensions.k8s.io", "CustomResourceDefinition")
        .status()
        .generation()
        .default(definition_defaults)
        .on_create(stored_versions)
        .on_update(definition_update)
        .validate(validate_definition)
        .validate_update(validate_definition_update),
    Kind::cluster("apiregistration.k8s.io", "APIService")
        .named(names::path_segment)
        .status()
        .default(service_defaults)
        .validate(validate_service),
];

const SPEC: Path<'static> = Path::new("spec");

fn definition_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "scope", "Namespaced");
        let Some(names) = map_mut(spec, "names") else { return };
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or("").to_string();
        let unset = |n: &serde_json::Map<String, Value>, k: &str| {
            n.get(k).and_then(Value::as_str).is_none_or(str::is_empty)
        };
        if unset(names, "singular") && !kind.is_empty() {
            names.insert("singular".into(), kind.to_lowercase().into());
        }
        if unset(names, "listKind") && !kind.is_empty() {
            names.insert("listKind".into(), format!("{kind}List").into());
        }
        preset(spec, "conversion", json!({}));
        preset(&mut spec["conversion"], "strategy", "None");
        if let Some(webhook) = some_mut(&mut spec["conversion"], "webhook")
            && let Some(client) = some_mut(webhook, "clientConfig")
            && let Some(service) = some_mut(client, "service")
        {
            preset(service, "port", 443);
        }
    });
}

fn storage_version(spec: &Value) -> Option<&str> {
    items(spec, "versions").iter().find(|v| flag(v, "storage")).map(|v| text(v, "name"))
}

/// The storage version joins the versions objects may lie in, when it is new there.
fn stored_versions(object: &mut Value) {
    let Some(version) = storage_version(at(object, "spec")).map(String::from) else { return };
    if map_mut(object, "status").is_none() {
        return;
    }
    let status = &mut object["status"];
    let known = texts(status, "storedVersions").any(|v| v == version);
    if !known {
        let mut versions = items(status, "storedVersions").to_vec();
        versions.push(version.into());
        status["storedVersions"] = versions.into();
    }
}

fn definition_update(object: &mut Value, _old: &Value, subresource: &str) {
    if subresource.is_empty() {
        stored_versions(object);
    }
}

fn validate_definition(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let names = at(spec, "names");
    let group = text(spec, "group");
    let expected = format!("{}.{group}", text(names, "plural"));
    if meta::name(object) != expected {
        errors.invalid(
            &Path::new("metadata.name"),
            meta::name(object),
            "must be spec.names.plural+\".\"+spec.group",
        );
    }
    let at_group = SPEC.child("group");
    if group.is_empty() {
        errors.required(&at_group, "");
    } else {
        errors.invalid_each(&at_group, group, names::dns1123_subdomain(group));
        if group.split('.').count() < 2 {
            errors.invalid(&at_group, group, "should be a domain with at least one dot");
        }
    }
    one_of(spec, "scope", &["Cluster", "Namespaced"], &SPEC, errors);
    versions(spec, errors);
    validate_names(names, &SPEC.child("names"), errors);
    conversion(spec, errors);
    if flag(spec, "preserveUnknownFields") {
        errors.invalid(
            &SPEC.child("preserveUnknownFields"),
            true,
            "must be false in order to use defaults in the schema",
        );
    }
}

fn versions(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("versions");
    let list = items(spec, "versions");
    if list.is_empty() {
        errors.required(&path, "");
    }
    let mut seen: Vec<&str> = Vec::new();
    let mut stored = 0;
    for (i, version) in list.iter().enumerate() {
        let at_i = path.index(i);
        let name = text(version, "name");
        let bad = names::dns1035_label(name);
        if !bad.is_empty() {
            errors.invalid(&at_i.child("name"), name, bad.join(","));
        }
        if seen.contains(&name) {
            errors.invalid(&path, Value::Array(list.to_vec()), "must contain unique version names");
        }
        seen.push(name);
        stored += usize::from(flag(version, "storage"));
        if !has(at(version, "schema"), "openAPIV3Schema") {
            errors.required(&at_i.child("schema.openAPIV3Schema"), "schemas are required");
        }
        let schema = at(at(version, "schema"), "openAPIV3Schema");
        errors.extend(crate::crd::rules::admit::check(schema, &at_i.child("schema.openAPIV3Schema")));
        columns(version, &at_i, errors);
        subresources(version, &at_i, errors);
    }
    if stored != 1 && !list.is_empty() {
        errors.invalid(
            &path,
            Value::Array(list.to_vec()),
            "must have exactly one version marked as storage version",
        );
    }
}

fn columns(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("additionalPrinterColumns");
    for (i, column) in items(version, "additionalPrinterColumns").iter().enumerate() {
        let at_i = list.index(i);
        required(column, "name", &at_i, errors);
        let kind = text(column, "type");
        let kinds = ["boolean", "date", "integer", "number", "string"];
        if kind.is_empty() {
            errors.required(&at_i.child("type"), "must be one of boolean,date,integer,number,string");
        } else if !kinds.contains(&kind) {
            errors.invalid(&at_i.child("type"), kind, "must be one of boolean,date,integer,number,string");
        }
        required(column, "jsonPath", &at_i, errors);
    }
}

fn subresources(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let scale = at(at(version, "subresources"), "scale");
    if scale.is_null() {
        return;
    }
    let path = path.child("subresources.scale");
    for (name, prefix) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let value = text(scale, name);
        if value.is_empty() {
            errors.required(&path.child(name), "");
        } else if !value.starts_with(prefix) {
            errors.invalid(
                &path.child(name),
                value,
                format!("should be a json path under {}", &prefix[..prefix.len() - 1]),
            );
        }
    }
    let selector = text(scale, "labelSelectorPath");
    if !selector.is_empty() && !selector.starts_with(".spec.") && !selector.starts_with(".status.") {
        errors.invalid(
            &path.child("labelSelectorPath"),
            selector,
            "should be a json path under either .status or .spec",
        );
    }
}

fn validate_names(names: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(names, field);
        let lower = value.to_lowercase();
        let shown = if field == "kind" || field == "listKind" { lower.as_str() } else { value };
        if value.is_empty() && field != "singular" {
            errors.required(&path.child(field), "");
        } else if !value.is_empty() {
            let bad = names::dns1035_label(shown);
            if !bad.is_empty() {
                let prefix =
                    if shown == value { "" } else { "may have mixed case, but should otherwise match: " };
                errors.invalid(&path.child(field), value, format!("{prefix}{}", bad.join(",")));
            }
        }
    }
    for list in ["shortNames", "categories"] {
        let at_list = path.child(list);
        for (i, value) in texts(names, list).enumerate() {
            let bad = names::dns1035_label(value);
            if !bad.is_empty() {
                errors.invalid(&at_list.index(i), value, bad.join(","));
            }
        }
    }
    if !text(names, "kind").is_empty() && text(names, "kind") == text(names, "listKind") {
        errors.invalid(
            &path.child("listKind"),
            text(names, "listKind"),
            "kind and listKind may not be the same",
        );
    }
}

fn conversion(spec: &Value, errors: &mut FieldErrors) {
    let conversion = at(spec, "conversion");
    if conversion.is_null() {
        return;
    }
    let path = SPEC.child("conversion");
    one_of(conversion, "strategy", &["None", "Webhook"], &path, errors);
    let webhook = at(conversion, "webhook");
    if text(conversion, "strategy") == "Webhook" {
        if !has(webhook, "clientConfig") {
            errors.required(&path.child("webhookClientConfig"), "required when strategy is set to Webhook");
        }
        if items(webhook, "conversionReviewVersions").is_empty() {
            errors.required(&path.child("conversionReviewVersions"), "");
        }
    } else if !webhook.is_null() {
        errors.forbidden(
            &path.child("webhookClientConfig"),
            "should not be set when strategy is not set to Webhook",
        );
    }
}

fn validate_definition_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    if subresource == "status" {
        let status = at(new, "status");
        let path = Path::new("status.storedVersions");
        if items(status, "storedVersions").is_empty() {
            errors.invalid(&path, Value::Array(vec![]), "must have at least one stored version");
        }
        let stored = storage_version(spec).unwrap_or("");
        for (i, version) in texts(status, "storedVersions").enumerate() {
            if !items(spec, "versions").iter().any(|v| text(v, "name") == version) {
                errors.invalid(&path.index(i), version, "missing from spec.versions; migrate custom resources before removing this version from storedVersions");
            }
        }
        if !texts(status, "storedVersions").any(|v| v == stored) {
            errors.invalid(
                &path,
                Value::Array(items(status, "storedVersions").to_vec()),
                format!("must have the storage version {stored}"),
            );
        }
        return;
    }
    immutable(at(spec, "group"), at(before, "group"), &SPEC.child("group"), errors);
    let established = items(at(old, "status"), "conditions")
        .iter()
        .any(|c| text(c, "type") == "Established" && text(c, "status") == "True");
    if established {
        immutable(at(spec, "scope"), at(before, "scope"), &SPEC.child("scope"), errors);
        for name in ["kind", "plural"] {
            let get = |s: &Value| at(at(s, "names"), name).clone();
            immutable(&get(spec), &get(before), &SPEC.child("names").child(name), errors);
        }
    }
    // A version objects may lie in stays.
    let path = Path::new("status.storedVersions");
    for (i, version) in texts(at(old, "status"), "storedVersions").enumerate() {
        if !items(spec, "versions").iter().any(|v| text(v, "name") == version) {
            errors.invalid(
                &path.index(i),
                version,
                "missing from spec.versions; migrate custom resources before removing this version from storedVersions",
            );
        }
    }
}

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
    if meta::name(object) != expected {
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
    use super::*;

    fn definition() -> Value {
        json!({"metadata": {"name": "foos.a.b"}, "spec": {"group": "a.b", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
    }

    #[test]
    fn definitions() {
        let row = find("apiextensions.k8s.io", "CustomResourceDefinition").unwrap();
        let mut object = definition();
        row.default(&mut object);
        row.prepare_for_create(&mut object);
        assert_eq!(
            object["spec"]["names"],
            json!({"plural": "foos", "kind": "Foo", "singular": "foo", "listKind": "FooList"})
        );
        assert_eq!(object["status"]["storedVersions"], json!(["v1"]));
        assert!(row.validate(&object).is_empty(), "{:?}", row.validate(&object));
        let mut bad = object.clone();
        bad["metadata"]["name"] = "x.a.b".into();
        bad["spec"]["versions"][0]["storage"] = false.into();
        let got: Vec<_> = row.validate(&bad).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got[0],
            "metadata.name: Invalid value: \"x.a.b\": must be spec.names.plural+\".\"+spec.group"
        );
        assert!(got[1].ends_with(": must have exactly one version marked as storage version"));
        let mut moved = object.clone();
        moved["spec"]["versions"][0]["name"] = "v2".into();
        row.prepare_for_update(&mut moved, &object, "");
        assert_eq!(moved["status"]["storedVersions"], json!(["v1", "v2"]));
        let got = row.validate_update(&moved, &object, "").0[0].to_string();
        assert!(
            got.starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions;"),
            "{got}"
        );
    }

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
