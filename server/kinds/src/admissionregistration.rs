//! The group `admissionregistration.k8s.io`: webhooks and policies.

use super::kind::{Kind, Metadata};
use super::support::{
    at, has, items, items_mut, one_of, one_of_pointer, preset, preset_pointer, some_mut, supported_only,
    text, texts, with_spec,
};
use crate::expressions::environment::{self, Has};
use crate::expressions::{self, Expression, Returns};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::names;
use serde_json::{Value, json};

const GROUP: &str = "admissionregistration.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::cluster(GROUP, "ValidatingWebhookConfiguration").metadata(Metadata::Generic)
        .generation_by(&["webhooks"])
        .default(|o| webhook_defaults(o, false))
        .validate(|o, errors| webhooks(o, false, errors)),
    Kind::cluster(GROUP, "MutatingWebhookConfiguration").metadata(Metadata::Generic)
        .generation_by(&["webhooks"])
        .default(|o| webhook_defaults(o, true))
        .validate(|o, errors| webhooks(o, true, errors)),
    Kind::cluster(GROUP, "ValidatingAdmissionPolicy").metadata(Metadata::Generic).status().generation().default(policy_defaults).validate(
        |o, errors| {
            let env = policy(o, false, errors);
            let spec = at(o, "spec");
            if items(spec, "validations").is_empty() && items(spec, "auditAnnotations").is_empty() {
                let message = "validations or auditAnnotations must contain at least one item";
                errors.required(&SPEC.child("validations"), message);
                errors.required(&SPEC.child("auditAnnotations"), message);
            }
            let list = SPEC.child("validations");
            for (i, v) in items(spec, "validations").iter().enumerate() {
                let at_i = list.index(i);
                if text(v, "expression").trim().is_empty() {
                    errors.required(&at_i.child("expression"), "expression is not specified");
                    continue;
                }
                let found = Expression::compile(&env, text(v, "expression"), Returns::Bool);
                expression(&found, &at_i.child("expression"), errors);
                let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
                one_of_pointer(v, "reason", &reasons, &at_i, errors);
                let message = text(v, "messageExpression");
                if !message.is_empty() {
                    let has_params = Has { params: has(spec, "paramKind"), ..Has::default() };
                    let (_, plain) = expressions::variables(spec, has_params);
                    let found = Expression::compile(&plain, message, Returns::Text);
                    expression(&found, &at_i.child("messageExpression"), errors);
                }
            }
            let list = SPEC.child("auditAnnotations");
            for (i, annotation) in items(spec, "auditAnnotations").iter().enumerate() {
                let at_i = list.index(i);
                annotation_key(o, i, &at_i.child("key"), errors);
                if text(annotation, "valueExpression").trim().is_empty() {
                    errors.required(&at_i.child("valueExpression"), "valueExpression is not specified");
                    continue;
                }
                let found = Expression::compile(&env, text(annotation, "valueExpression"), Returns::TextOrNull);
                expression(&found, &at_i.child("valueExpression"), errors);
            }
        },
    ),
    Kind::cluster(GROUP, "MutatingAdmissionPolicy").metadata(Metadata::Generic).generation().default(policy_defaults).validate(|o, errors| {
        let env = policy(o, true, errors);
        let spec = at(o, "spec");
        if items(spec, "mutations").is_empty() {
            errors.required(&SPEC.child("mutations"), "mutations must contain at least one item");
        }
        one_of(spec, "reinvocationPolicy", &["IfNeeded", "Never"], &SPEC, errors);
        let list = SPEC.child("mutations");
        for (i, mutation) in items(spec, "mutations").iter().enumerate() {
            let at_i = list.index(i);
            let (member, patch) = match text(mutation, "patchType") {
                "ApplyConfiguration" => ("applyConfiguration", at(mutation, "applyConfiguration")),
                "JSONPatch" => ("jsonPatch", at(mutation, "jsonPatch")),
                "" => {
                    errors.required(&at_i.child("patchType"), "");
                    continue;
                }
                other => {
                    errors.not_supported(&at_i.child("patchType"), other, &["ApplyConfiguration", "JSONPatch"]);
                    continue;
                }
            };
            let at_patch = at_i.child(member);
            if patch.is_null() {
                let why = format!("must be specified when patchType is {}", text(mutation, "patchType"));
                errors.required(&at_patch, why);
            } else if text(patch, "expression").trim().is_empty() {
                errors.required(&at_patch.child("expression"), "expression is not specified");
            } else {
                let (found, _) = expressions::mutation(&env, mutation);
                expression(&found, &at_patch.child("expression"), errors);
            }
        }
    }),
    Kind::cluster(GROUP, "ValidatingAdmissionPolicyBinding").metadata(Metadata::Generic).generation().default(binding_defaults).validate(|o, errors| {
        binding(o, errors);
        let spec = at(o, "spec");
        let path = SPEC.child("validationActions");
        let actions: Vec<&str> = texts(spec, "validationActions").collect();
        if actions.is_empty() {
            errors.required(&path, "at least one validation action is required");
        }
        for (i, action) in actions.iter().enumerate() {
            if !["Audit", "Deny", "Warn"].contains(action) {
                errors.not_supported(&path.index(i), *action, &["Audit", "Deny", "Warn"]);
            }
            if actions[..i].contains(action) {
                errors.duplicate(&path.index(i), *action);
            }
        }
        if actions.contains(&"Deny") && actions.contains(&"Warn") {
            errors.invalid(&path, Value::from(actions), "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
        }
    }),
    Kind::cluster(GROUP, "MutatingAdmissionPolicyBinding").metadata(Metadata::Generic).generation().default(binding_defaults).validate(binding),
];

const SPEC: Path<'static> = Path::new("spec");

fn webhook_defaults(object: &mut Value, mutating: bool) {
    for hook in items_mut(object, "webhooks") {
        preset_pointer(hook, "failurePolicy", "Fail");
        preset_pointer(hook, "matchPolicy", "Equivalent");
        preset(hook, "namespaceSelector", json!({}));
        preset(hook, "objectSelector", json!({}));
        preset(hook, "timeoutSeconds", 10);
        if mutating {
            preset_pointer(hook, "reinvocationPolicy", "Never");
        }
        for rule in items_mut(hook, "rules") {
            preset_pointer(rule, "scope", "*");
        }
        if let Some(client) = some_mut(hook, "clientConfig")
            && let Some(service) = some_mut(client, "service")
        {
            preset(service, "port", 443);
        }
    }
}

fn webhooks(object: &Value, mutating: bool, errors: &mut FieldErrors) {
    let list = Path::new("webhooks");
    let mut seen: Vec<&str> = Vec::new();
    for (i, hook) in items(object, "webhooks").iter().enumerate() {
        let path = list.index(i);
        let name = text(hook, "name");
        let at_name = path.child("name");
        if name.is_empty() {
            errors.required(&at_name, "");
        } else {
            let bad = names::dns1123_subdomain(name);
            if !bad.is_empty() {
                errors.invalid(&at_name, name, bad.join(","));
            } else if name.split('.').count() < 3 {
                errors.invalid(
                    &at_name,
                    name,
                    "should be a domain with at least three segments separated by dots",
                );
            }
        }
        if seen.contains(&name) {
            errors.duplicate(&at_name, name);
        }
        seen.push(name);
        rules(hook, &path, errors);
        supported_only(hook, "failurePolicy", &["Fail", "Ignore"], &path, errors);
        supported_only(hook, "matchPolicy", &["Equivalent", "Exact"], &path, errors);
        if has(hook, "sideEffects") {
            supported_only(hook, "sideEffects", &["None", "NoneOnDryRun"], &path, errors);
        } else {
            errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
        }
        if mutating {
            supported_only(hook, "reinvocationPolicy", &["IfNeeded", "Never"], &path, errors);
        }
        if at(hook, "timeoutSeconds").as_i64().is_some_and(|n| !(1..=30).contains(&n)) {
            errors.invalid(
                &path.child("timeoutSeconds"),
                at(hook, "timeoutSeconds").clone(),
                "the timeout value must be between 1 and 30 seconds",
            );
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            validate_label_selector(hook.get(selector), &path.child(selector), errors);
        }
        client(at(hook, "clientConfig"), &path.child("clientConfig"), errors);
        if has(hook, "matchConditions") {
            let env = environment::env(Has { authorizer: true, ..Has::default() });
            conditions(hook, &env, &path, errors);
        }
        review_versions(hook, &path, errors);
    }
}

/// Versions of reviews the webhook reads; one of them is one this server sends.
fn review_versions(hook: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("admissionReviewVersions");
    let versions: Vec<&str> = texts(hook, "admissionReviewVersions").collect();
    if versions.is_empty() {
        errors.required(&path, "must specify one of v1, v1beta1");
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.invalid(&path.index(i), *version, "duplicate version");
        } else {
            errors.invalid_each(&path.index(i), version, names::dns1035_label(version));
        }
    }
    if !versions.iter().any(|v| ["v1", "v1beta1"].contains(v)) {
        errors.invalid(&path, Value::from(versions), "must include at least one of v1, v1beta1");
    }
}

/// An annotation's key, which audit events have under the policy's name.
fn annotation_key(object: &Value, i: usize, path: &Path<'_>, errors: &mut FieldErrors) {
    let all = items(at(object, "spec"), "auditAnnotations");
    let (name, key) = (machinery::meta::name(object), text(&all[i], "key"));
    if name.is_empty() {
        errors.invalid(path, key, "requires metadata.name be non-empty");
    } else {
        let full = format!("{name}/{key}");
        errors.invalid_each(path, &full, names::qualified_name(&full));
    }
    if all[..i].iter().any(|a| text(a, "key") == key) {
        errors.duplicate(path, key);
    }
}

pub(super) fn client(config: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (has(config, "url"), has(config, "service")) {
        (true, false) => {
            url(text(config, "url"), &path.child("url"), errors);
        }
        (false, true) => {
            let service = at(config, "service");
            let path = path.child("service");
            // Upstream takes the one for the other here.
            for (missing, told) in [("namespace", "name"), ("name", "namespace")] {
                if text(service, missing).is_empty() {
                    errors.required(&path.child(told), "");
                }
            }
            if let Some(port) = at(service, "port").as_i64().filter(|p| !(1..=65535).contains(p)) {
                let detail = "port is not valid: must be between 1 and 65535, inclusive";
                errors.invalid(&path.child("port"), port, detail);
            }
            service_path(text(service, "path"), &path.child("path"), errors);
        }
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn url(url: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut refuse = |shown: &str, why: &str| {
        errors.invalid(path, shown, format!("{why}; desired format: https://host[/path]"));
    };
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = url.split_once("://").map_or(("", None), |(scheme, rest)| (scheme, Some(rest)));
    let authority = rest.and_then(|r| r.split('/').next()).unwrap_or("");
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        refuse(scheme, "'https' is the only allowed URL scheme");
    }
    if host.is_empty() {
        refuse("", "host must be specified");
    }
    if !user.is_empty() {
        refuse(user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        refuse(fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        refuse(query, "query parameters are not permitted in the URL");
    }
}

fn service_path(target: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(first) = target.chars().next().filter(|_| target != "/") else { return };
    if target == "//" {
        errors.invalid(path, target, "segment[0] may not be empty");
        return;
    }
    if first != '/' {
        errors.invalid(path, target, "must start with a '/'");
    }
    let rest = &target[first.len_utf8()..];
    for (i, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(path, target, format!("segment[{i}] may not be empty"));
            continue;
        }
        for why in names::dns1123_subdomain(segment) {
            errors.invalid(path, target, format!("segment[{i}]: {why}"));
        }
    }
}

fn rules(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("rules");
    for (i, rule) in items(of, "rules").iter().enumerate() {
        rule_of(rule, &list.index(i), errors);
    }
}

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

fn rule_of(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let named = path.child("resourceNames");
    for (i, name) in texts(rule, "resourceNames").enumerate() {
        errors.invalid_each(&named.index(i), name, names::path_segment(name, false));
        if texts(rule, "resourceNames").take(i).any(|n| n == name) {
            errors.duplicate(&named.index(i), name);
        }
    }
    let operations: Vec<&str> = texts(rule, "operations").collect();
    if operations.is_empty() {
        errors.required(&path.child("operations"), "");
    }
    for (name, message) in [
        ("operations", "if '*' is present, must not specify other operations"),
        ("apiGroups", "if '*' is present, must not specify other API groups"),
        ("apiVersions", "if '*' is present, must not specify other API versions"),
    ] {
        let values: Vec<&str> = texts(rule, name).collect();
        if values.len() > 1 && values.contains(&"*") {
            errors.invalid(&path.child(name), Value::from(values), message);
        }
    }
    let at_operations = path.child("operations");
    for (i, operation) in operations.iter().enumerate() {
        if !OPERATIONS.contains(operation) {
            errors.not_supported(&at_operations.index(i), *operation, OPERATIONS);
        }
    }
    for name in ["apiGroups", "apiVersions", "resources"] {
        if items(rule, name).is_empty() {
            errors.required(&path.child(name), "");
        }
    }
    for name in ["apiVersions", "resources"] {
        let list = path.child(name);
        for (i, value) in texts(rule, name).enumerate() {
            if value.is_empty() {
                errors.required(&list.index(i), "");
            }
        }
    }
    if has(rule, "scope") {
        supported_only(rule, "scope", &["*", "Cluster", "Namespaced"], path, errors);
    }
}

/// What is wrong with an expression's text or types.
fn expression(found: &Expression, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Err(why) = &found.program {
        errors.invalid(path, found.source.as_str(), why.as_str());
    }
}

fn conditions(of: &Value, env: &cel::Env, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("matchConditions");
    let all = items(of, "matchConditions");
    if all.len() > 64 {
        errors.push(machinery::field::FieldError::too_many(&list, all.len(), 64));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in all.iter().enumerate() {
        let at_i = list.index(i);
        if text(condition, "expression").trim().is_empty() {
            errors.required(&at_i.child("expression"), "");
        } else {
            let found = Expression::compile(env, text(condition, "expression"), Returns::Bool);
            expression(&found, &at_i.child("expression"), errors);
        }
        let name = text(condition, "name");
        if name.is_empty() {
            errors.required(&at_i.child("name"), "");
        } else {
            errors.invalid_each(&at_i.child("name"), name, names::qualified_name(name));
            if seen.contains(&name) {
                errors.duplicate(&at_i.child("name"), name);
            }
        }
        seen.push(name);
    }
}

fn match_defaults(resources: &mut Value) {
    preset_pointer(resources, "matchPolicy", "Equivalent");
    preset(resources, "namespaceSelector", json!({}));
    preset(resources, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in items_mut(resources, list) {
            preset_pointer(rule, "scope", "*");
        }
    }
}

fn policy_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        preset_pointer(spec, "failurePolicy", "Fail");
        if let Some(constraints) = some_mut(spec, "matchConstraints") {
            match_defaults(constraints);
        }
    });
}

fn binding_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        if let Some(resources) = some_mut(spec, "matchResources") {
            match_defaults(resources);
        }
    });
}

fn match_resources(resources: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    supported_only(resources, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    for selector in ["namespaceSelector", "objectSelector"] {
        validate_label_selector(resources.get(selector), &path.child(selector), errors);
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        let at_list = path.child(list);
        for (i, rule) in items(resources, list).iter().enumerate() {
            rule_of(rule, &at_list.index(i), errors);
        }
    }
}

fn param_kind(kind: &Value, errors: &mut FieldErrors) {
    if kind.is_null() {
        return;
    }
    let path = SPEC.child("paramKind");
    let at_version = path.child("apiVersion");
    match text(kind, "apiVersion") {
        "" => errors.required(&at_version, ""),
        both => {
            let (group, version) = both.split_once('/').unwrap_or(("", both));
            if !group.is_empty() {
                errors.invalid_each(&at_version, group, names::dns1123_subdomain(group));
            }
            errors.invalid_each(&at_version, version, names::dns1035_label(version));
        }
    }
    match text(kind, "kind") {
        "" => errors.required(&path.child("kind"), ""),
        name => {
            let bad = names::dns1035_label(&name.to_lowercase());
            if !bad.is_empty() {
                let detail = format!("may have mixed case, but should otherwise match: {}", bad.join(","));
                errors.invalid(&path.child("kind"), name, detail);
            }
        }
    }
}

fn policy(object: &Value, patch_types: bool, errors: &mut FieldErrors) -> cel::Env {
    let spec = at(object, "spec");
    supported_only(spec, "failurePolicy", &["Fail", "Ignore"], &SPEC, errors);
    param_kind(at(spec, "paramKind"), errors);
    let path = SPEC.child("matchConstraints");
    let constraints = at(spec, "matchConstraints");
    if constraints.is_null() {
        errors.required(&path, "");
    } else {
        match_resources(constraints, &path, errors);
        // What is deleted has nothing left to mutate.
        let supported = ["*", "CONNECT", "CREATE", "UPDATE"];
        for rule in items(constraints, "resourceRules").iter().filter(|_| patch_types) {
            for operation in texts(rule, "operations").filter(|o| !supported.contains(o)) {
                errors.not_supported(&path.child("resourceRules.operations"), operation, &supported);
            }
        }
        if items(constraints, "resourceRules").is_empty() {
            errors.required(&path.child("resourceRules"), "");
        }
    }
    let kind = at(spec, "paramKind");
    let has_params = Has { params: !kind.is_null(), authorizer: true, patch_types };
    let (variables, env) = expressions::variables(spec, has_params);
    conditions(spec, &env, &SPEC, errors);
    let list = SPEC.child("variables");
    for (i, variable) in items(spec, "variables").iter().enumerate() {
        let at_i = list.index(i);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(&at_i.child("name"), "name is not specified");
        } else {
            if !names::c_identifier(name).is_empty() {
                errors.invalid(&at_i.child("name"), name, "must be a valid CEL identifier");
            }
        }
        if text(variable, "expression").trim().is_empty() {
            errors.required(&at_i.child("expression"), "expression is not specified");
        } else if let Some(compiled) = variables.get(i) {
            expression(&compiled.expression, &at_i.child("expression"), errors);
        }
    }
    env
}

fn binding(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let name = text(spec, "policyName");
    let path = SPEC.child("policyName");
    if name.is_empty() {
        errors.required(&path, "");
    } else {
        errors.invalid_each(&path, name, names::dns1123_subdomain(name));
    }
    let reference = at(spec, "paramRef");
    if !reference.is_null() {
        let path = SPEC.child("paramRef");
        match (!text(reference, "name").is_empty(), has(reference, "selector")) {
            (true, true) => errors.forbidden(&path.child("name"), "name and selector are mutually exclusive"),
            (false, false) => errors.required(&path, "one of name or selector must be specified"),
            _ => {}
        }
        let name = text(reference, "name");
        errors.invalid_each(&path.child("name"), name, names::path_segment(name, false));
        validate_label_selector(reference.get("selector"), &path.child("selector"), errors);
        one_of(reference, "parameterNotFoundAction", &["Deny", "Allow"], &path, errors);
    }
    if has(spec, "matchResources") {
        match_resources(at(spec, "matchResources"), &SPEC.child("matchResources"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;

    #[test]
    fn hooks() {
        let row = find(GROUP, "MutatingWebhookConfiguration").unwrap();
        let mut object = json!({"metadata": {"name": "x"}, "webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "d"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        row.default(&mut object);
        assert_eq!(
            (
                &object["webhooks"][0]["reinvocationPolicy"],
                &object["webhooks"][0]["clientConfig"]["service"]["port"]
            ),
            (&json!("Never"), &json!(443))
        );
        assert!(row.validate(&object).is_empty(), "{:?}", row.validate(&object));
        object["webhooks"][0]["name"] = "a".into();
        object["webhooks"][0]["clientConfig"] = json!({"url": "http://x"});
        let got: Vec<_> = row.validate(&object).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            [
                "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots",
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ]
        );
    }

    #[test]
    fn policies() {
        let row = find(GROUP, "ValidatingAdmissionPolicyBinding").unwrap();
        let object = json!({"metadata": {"name": "x"}, "spec": {"policyName": "p"}});
        assert_eq!(
            row.validate(&object).0[0].to_string(),
            "spec.validationActions: Required value: at least one validation action is required"
        );
    }
}
