//! CustomResourceDefinition. Source: apiextensions-apiserver's `validation.go` and `registry/customresourcedefinition`.
//!
//! Upstream moves what all versions share up to `spec` before it checks, which shows in field paths: of a definition
//! with one version, the schema is at `spec.validation`.

use super::admissionregistration::client;
use super::kind::{Kind, Metadata};
use super::support::{
    at, flag, has, immutable, items, map_mut, one_of, preset, required, some_mut, text, texts, with_spec,
};
use crate::approval;
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::schema::structural::check;
use machinery::{meta, names};
use serde_json::{Value, json};

pub(super) const KIND: Kind = Kind::cluster("apiextensions.k8s.io", "CustomResourceDefinition")
    .metadata(Metadata::Generic)
    .status()
    .generation()
    .default(defaults)
    .on_create(|o| {
        o["status"] = serde_json::json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": null});
        stored_versions(o);
    })
    .on_update(on_update)
    .validate(validate)
    .validate_new(validate_new)
    .validate_update(validate_update)
    .warn(warnings);

const SPEC: Path<'static> = Path::new("spec");

fn defaults(object: &mut Value) {
    with_spec(object, |spec| {
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
        preset(spec, "conversion", json!({"strategy": "None"}));
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

fn on_update(object: &mut Value, _old: &Value, subresource: &str) {
    let none = items(at(object, "status"), "storedVersions").is_empty();
    if subresource.is_empty() || (subresource == "status" && none) {
        stored_versions(object);
    }
}

fn schema_of(version: &Value) -> &Value {
    at(at(version, "schema"), "openAPIV3Schema")
}

fn any_schema(spec: &Value, pred: &dyn Fn(&Value) -> bool) -> bool {
    fn walk(schema: &Value, pred: &dyn Fn(&Value) -> bool) -> bool {
        match schema {
            Value::Object(map) => pred(schema) || map.values().any(|v| walk(v, pred)),
            Value::Array(all) => all.iter().any(|v| walk(v, pred)),
            _ => false,
        }
    }
    items(spec, "versions").iter().any(|v| walk(schema_of(v), pred))
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let names = at(spec, "names");
    let group = text(spec, "group");
    let at_group = SPEC.child("group");
    let bad = names::dns1123_subdomain(group);
    if group.is_empty() {
        errors.required(&at_group, "");
    } else if !bad.is_empty() {
        errors.invalid(&at_group, group, bad.join(","));
    } else if !group.contains('.') {
        errors.invalid(&at_group, group, "should be a domain with at least one dot");
    }
    one_of(spec, "scope", &["Cluster", "Namespaced"], &SPEC, errors);
    for (i, version) in items(spec, "versions").iter().enumerate() {
        if !schema_of(version).is_object() {
            let versions = SPEC.child("versions");
            errors.required(&versions.index(i).child("schema.openAPIV3Schema"), "");
        }
    }
    let preserve = flag(spec, "preserveUnknownFields");
    let at_preserve = SPEC.child("preserveUnknownFields");
    if preserve && any_schema(spec, &|s| has(s, "default")) {
        errors.invalid(&at_preserve, true, "must be false in order to use defaults in the schema");
    }
    versions(spec, errors);
    for field in ["plural", "singular", "kind", "listKind"] {
        required(names, field, &SPEC.child("names"), errors);
    }
    validate_names(names, &SPEC.child("names"), errors);
    if preserve && text(at(spec, "conversion"), "strategy") != "None" {
        let strategy = text(at(spec, "conversion"), "strategy");
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.invalid(&SPEC.child("conversion.strategy"), strategy, detail);
    }
    conversion(spec, errors);
    if preserve {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&at_preserve, true, detail);
    }
    approval::check(object, errors);
}

/// What only a new definition can have wrong. Its name comes first, as names do.
fn validate_new(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let expected = format!("{}.{}", text(at(spec, "names"), "plural"), text(spec, "group"));
    let name = meta::name(object);
    if !name.is_empty() && name != expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        let error = FieldError::invalid(&Path::new("metadata.name"), name, detail);
        let after = errors
            .0
            .iter()
            .take_while(|e| e.path.starts_with("metadata.") && !e.path.starts_with("metadata.annotations["))
            .count();
        errors.0.insert(after, error);
    }
    if storage_version(spec).is_none() {
        errors.invalid(
            &Path::new("status.storedVersions"),
            Value::Null,
            "must have at least one stored version",
        );
    }
}

fn versions(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("versions");
    let list = items(spec, "versions");
    let mut seen: Vec<&str> = Vec::new();
    let shared = |member: &str| list.iter().all(|v| v.get(member) == list[0].get(member));
    for (i, version) in list.iter().enumerate() {
        let at_i = path.index(i);
        let name = text(version, "name");
        let bad = names::dns1035_label(name);
        if !bad.is_empty() {
            errors.invalid(&at_i.child("name"), name, bad.join(","));
        }
        seen.push(name);
        deprecation(version, &at_i, errors);
        if !shared("schema") {
            let status = has(at(version, "subresources"), "status");
            schema(schema_of(version), status, &at_i.child("schema.openAPIV3Schema"), errors);
        }
        if !shared("subresources") {
            subresources(version, &at_i, errors);
        }
        if !shared("additionalPrinterColumns") {
            columns(version, &at_i, errors);
        }
        if !shared("selectableFields") {
            selectable(version, &at_i, errors);
        }
    }
    if (1..seen.len()).any(|i| seen[..i].contains(&seen[i])) {
        errors.invalid(&path, Value::Array(list.to_vec()), "must contain unique version names");
    }
    if list.iter().filter(|v| flag(v, "storage")).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        let shown = if has(spec, "versions") { Value::Array(list.to_vec()) } else { Value::Null };
        errors.invalid(&path, shown, detail);
    }
    let bad =
        list.first().map(|v| text(v, "name")).filter(|n| !n.is_empty()).map(|n| (n, names::dns1035_label(n)));
    if let Some((name, bad)) = bad.filter(|(_, bad)| !bad.is_empty()) {
        errors.invalid(&SPEC.child("version"), name, bad.join(","));
    }
    let Some(first) = list.first() else { return };
    if shared("schema") {
        let status = list.iter().any(|v| has(at(v, "subresources"), "status"));
        schema(schema_of(first), status, &SPEC.child("validation.openAPIV3Schema"), errors);
    }
    if shared("subresources") {
        subresources(first, &SPEC, errors);
    }
    if shared("additionalPrinterColumns") {
        columns(first, &SPEC, errors);
    }
    if shared("selectableFields") {
        selectable(first, &SPEC, errors);
    }
}

fn schema(schema: &Value, status: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if !schema.is_object() {
        return;
    }
    let found = check::check(schema, status, path);
    let structural = found.is_empty();
    errors.extend(found);
    // Rules are only read where the structure they speak of is sound.
    if structural {
        errors.extend(crate::rules::admit::check(schema, path));
    }
}

fn selectable(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let fields = items(version, "selectableFields");
    if !fields.is_empty() && !schema_of(version).is_object() {
        let detail = "may only be set when validations.schema is included";
        errors.invalid(&path.child("selectableFields"), "", detail);
        return;
    }
    check::selectable_fields(fields, schema_of(version), &path.child("selectableFields"), errors);
}

fn deprecation(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !has(version, "deprecationWarning") {
        return;
    }
    let warning = text(version, "deprecationWarning");
    let at_warning = path.child("deprecationWarning");
    let mut refuse = |detail: String| errors.invalid(&at_warning, warning, detail);
    if !flag(version, "deprecated") {
        refuse("can only be set for deprecated versions".into());
        return;
    }
    if warning.len() > 256 {
        refuse("must be <= 256 characters long".into());
    }
    if warning.is_empty() {
        refuse("must not be an empty string".into());
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        refuse(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        ));
    }
}

const KINDS_OF_COLUMNS: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const FORMATS_OF_COLUMNS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

fn columns(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("additionalPrinterColumns");
    for (i, column) in items(version, "additionalPrinterColumns").iter().enumerate() {
        let at_i = list.index(i);
        required(column, "name", &at_i, errors);
        let kind = text(column, "type");
        let detail = format!("must be one of {}", KINDS_OF_COLUMNS.join(","));
        if kind.is_empty() {
            errors.required(&at_i.child("type"), detail);
        } else if !KINDS_OF_COLUMNS.contains(&kind) {
            errors.invalid(&at_i.child("type"), kind, detail);
        }
        let format = text(column, "format");
        if !format.is_empty() && !FORMATS_OF_COLUMNS.contains(&format) {
            let detail = format!("must be one of {}", FORMATS_OF_COLUMNS.join(","));
            errors.invalid(&at_i.child("format"), format, detail);
        }
        let at_path = at_i.child("JSONPath");
        match text(column, "jsonPath") {
            "" => errors.required(&at_path, ""),
            path => drop(simple_path(path, &at_path, errors)),
        }
    }
}

/// False where it is none.
fn simple_path(value: &str, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    let simple = value.starts_with('.');
    if !simple {
        errors.invalid(path, value, "must be a simple json path starting with .");
    }
    simple
}

fn subresources(version: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let scale = at(at(version, "subresources"), "scale");
    if scale.is_null() {
        return;
    }
    let path = path.child("subresources");
    let scale_path = |name: &str| format!("scale.{name}");
    for (name, prefix) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let value = text(scale, name);
        let full = scale_path(name);
        let at_name = path.child(&full);
        if value.is_empty() {
            errors.required(&at_name, "");
        } else if simple_path(value, &at_name, errors) && !value.starts_with(&format!("{prefix}.")) {
            errors.invalid(&at_name, value, format!("should be a json path under {prefix}"));
        }
    }
    let selector = text(scale, "labelSelectorPath");
    let full = scale_path("labelSelectorPath");
    let at_selector = path.child(&full);
    if !selector.is_empty()
        && simple_path(selector, &at_selector, errors)
        && !selector.starts_with(".spec.")
        && !selector.starts_with(".status.")
    {
        errors.invalid(&at_selector, selector, "should be a json path under either .spec or .status");
    }
}

fn validate_names(names: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(names, field);
        let mixed = field == "kind" || field == "listKind";
        let bad = names::dns1035_label(&if mixed { value.to_lowercase() } else { value.to_owned() });
        if !value.is_empty() && !bad.is_empty() {
            let prefix = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(&path.child(field), value, format!("{prefix}{}", bad.join(",")));
        }
    }
    let lists = |list: &'static str, errors: &mut FieldErrors| {
        let at_list = path.child(list);
        for (i, value) in texts(names, list).enumerate() {
            let bad = names::dns1035_label(value);
            if !bad.is_empty() {
                errors.invalid(&at_list.index(i), value, bad.join(","));
            }
        }
    };
    lists("shortNames", errors);
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        errors.invalid(&path.child("listKind"), kind, "kind and listKind may not be the same");
    }
    lists("categories", errors);
}

fn conversion(spec: &Value, errors: &mut FieldErrors) {
    let conversion = at(spec, "conversion");
    if conversion.is_null() {
        return;
    }
    let path = SPEC.child("conversion");
    one_of(conversion, "strategy", &["None", "Webhook"], &path, errors);
    let webhook = at(conversion, "webhook");
    let (at_client, at_reviews) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    let reviews = items(webhook, "conversionReviewVersions");
    if text(conversion, "strategy") != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if has(webhook, "clientConfig") {
            errors.forbidden(&at_client, detail);
        }
        if !reviews.is_empty() {
            errors.forbidden(&at_reviews, detail);
        }
        return;
    }
    if has(webhook, "clientConfig") {
        client(at(webhook, "clientConfig"), &at_client, errors);
    } else {
        errors.required(&at_client, "required when strategy is set to Webhook");
    }
    if reviews.is_empty() {
        errors.required(&at_reviews, "");
        return;
    }
    for (i, version) in reviews.iter().enumerate() {
        let at_i = at_reviews.index(i);
        if reviews[..i].contains(version) {
            errors.invalid(&at_i, version.clone(), "duplicate version");
            continue;
        }
        let version = version.as_str().unwrap_or_default();
        errors.invalid_each(&at_i, version, names::dns1035_label(version));
    }
    if !reviews.iter().any(|v| v == "v1" || v == "v1beta1") {
        let detail = "must include at least one of v1, v1beta1";
        errors.invalid(&at_reviews, Value::Array(reviews.to_vec()), detail);
    }
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    let accepted = at(at(new, "status"), "acceptedNames");
    validate_names(accepted, &Path::new("status.acceptedNames"), errors);
    if subresource == "status" {
        return;
    }
    let conditions = items(at(old, "status"), "conditions");
    let name = |s: &Value, field: &str| at(at(s, "names"), field).clone();
    if conditions.iter().any(|c| text(c, "type") == "Established" && text(c, "status") == "True") {
        immutable(at(spec, "scope"), at(before, "scope"), &SPEC.child("scope"), errors);
        immutable(&name(spec, "kind"), &name(before, "kind"), &SPEC.child("names.kind"), errors);
    }
    immutable(at(spec, "group"), at(before, "group"), &SPEC.child("group"), errors);
    immutable(&name(spec, "plural"), &name(before, "plural"), &SPEC.child("names.plural"), errors);
    // A version objects may lie in stays.
    let path = Path::new("status.storedVersions");
    let stored: Vec<&str> = texts(at(new, "status"), "storedVersions").collect();
    if stored.is_empty() {
        errors.invalid(&path, Value::Array(Vec::new()), "must have at least one stored version");
    }
    for (i, version) in stored.into_iter().enumerate() {
        if !items(spec, "versions").iter().any(|v| text(v, "name") == version) {
            let detail = format!(
                "missing from spec.versions; {version} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {version} and removes \
                 {version} from status.storedVersions"
            );
            errors.invalid(&path.index(i), version, detail);
        }
    }
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let all = |object: &Value| -> Vec<String> {
        let versions = items(at(object, "spec"), "versions");
        versions.iter().flat_map(|v| check::warnings(schema_of(v))).collect()
    };
    let before = old.map(all).unwrap_or_default();
    let mut out = all(new);
    out.sort();
    out.dedup();
    out.retain(|w| !before.contains(w));
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;

    fn definition() -> Value {
        json!({"metadata": {"name": "foos.a.b"}, "spec": {"group": "a.b", "scope": "Cluster", "names": {"plural": "foos", "kind": "Foo"},
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
    fn what_versions_share_is_found_at_the_top() {
        let row = find("apiextensions.k8s.io", "CustomResourceDefinition").unwrap();
        let said = |mut object: Value| -> Vec<String> {
            row.default(&mut object);
            row.prepare_for_create(&mut object);
            row.validate(&object).0.iter().map(ToString::to_string).collect()
        };
        let mut object = definition();
        object["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
            json!({"type": "object", "properties": {"a": {}}});
        object["spec"]["versions"][0]["additionalPrinterColumns"] =
            json!([{"name": "A", "type": "date", "jsonPath": "a"}]);
        assert_eq!(
            said(object.clone()),
            [
                "spec.validation.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields",
                "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"a\": must be a simple json path starting with .",
            ]
        );
        let second = json!({"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}});
        object["spec"]["versions"].as_array_mut().unwrap().push(second);
        assert_eq!(
            said(object)[0],
            "spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields"
        );
        let mut webhook = definition();
        webhook["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v9"],
            "clientConfig": {"url": "http://x"}}});
        assert_eq!(
            said(webhook),
            [
                "spec.conversion.webhookClientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "spec.conversion.conversionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
            ]
        );
        let mut protected = definition();
        protected["metadata"]["name"] = "foos.x.k8s.io".into();
        protected["spec"]["group"] = "x.k8s.io".into();
        assert!(said(protected.clone())[0].starts_with(
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation"
        ));
        protected["metadata"]["annotations"] =
            json!({"api-approved.kubernetes.io": "unapproved, an experiment"});
        assert!(said(protected).is_empty());
    }
}
