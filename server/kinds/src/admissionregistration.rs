//! The group `admissionregistration.k8s.io`: webhooks and policies.

use super::kind::{Kind, Metadata};
use super::support::{at, has, items, items_mut, map_mut, one_of, preset, some_mut, text, texts, with_spec};
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
                if text(annotation, "key").is_empty() {
                    errors.required(&at_i.child("key"), "");
                }
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
        preset(hook, "failurePolicy", "Fail");
        preset(hook, "matchPolicy", "Equivalent");
        preset(hook, "namespaceSelector", json!({}));
        preset(hook, "objectSelector", json!({}));
        preset(hook, "timeoutSeconds", 10);
        if mutating {
            preset(hook, "reinvocationPolicy", "Never");
        }
        for rule in items_mut(hook, "rules") {
            preset(rule, "scope", "*");
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
        let versions: Vec<&str> = texts(hook, "admissionReviewVersions").collect();
        let at_versions = path.child("admissionReviewVersions");
        if versions.is_empty() {
            errors.required(&at_versions, "must specify one of v1, v1beta1");
        } else if !versions.iter().any(|v| ["v1", "v1beta1"].contains(v)) {
            errors.invalid(&at_versions, Value::from(versions), "must include at least one of v1, v1beta1");
        }
        one_of(hook, "failurePolicy", &["Fail", "Ignore"], &path, errors);
        one_of(hook, "matchPolicy", &["Equivalent", "Exact"], &path, errors);
        let effects = text(hook, "sideEffects");
        if effects.is_empty() {
            errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
        } else if !["None", "NoneOnDryRun"].contains(&effects) {
            errors.not_supported(&path.child("sideEffects"), effects, &["None", "NoneOnDryRun"]);
        }
        if mutating {
            one_of(hook, "reinvocationPolicy", &["IfNeeded", "Never"], &path, errors);
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
    }
}

pub(super) fn client(config: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (has(config, "url"), has(config, "service")) {
        (true, false) => {
            let url = text(config, "url");
            let path = path.child("url");
            if !url.starts_with("https://") {
                let scheme = url.split_once("://").map_or("", |(s, _)| s);
                errors.invalid(
                    &path,
                    scheme,
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]",
                );
            } else if url["https://".len()..].split('/').next().is_none_or(str::is_empty) {
                errors.invalid(&path, "", "host must be specified; desired format: https://host[/path]");
            }
        }
        (false, true) => {
            let service = at(config, "service");
            let path = path.child("service");
            if text(service, "name").is_empty() {
                errors.required(&path.child("name"), "service name is required");
            }
            if text(service, "namespace").is_empty() {
                errors.required(&path.child("namespace"), "service namespace is required");
            }
            let target = text(service, "path");
            if !target.is_empty() && !target.starts_with('/') {
                errors.invalid(&path.child("path"), target, "must start with a '/'");
            }
            if at(service, "port").as_i64().is_some_and(|p| !(1..=65535).contains(&p)) {
                errors.invalid(
                    &path.child("port"),
                    at(service, "port").clone(),
                    "port is not valid: must be between 1 and 65535, inclusive",
                );
            }
        }
        _ => errors.required(path, "exactly one of url or service is required"),
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
        one_of(rule, "scope", &["*", "Cluster", "Namespaced"], path, errors);
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
    preset(resources, "matchPolicy", "Equivalent");
    preset(resources, "namespaceSelector", json!({}));
    preset(resources, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in items_mut(resources, list) {
            preset(rule, "scope", "*");
        }
    }
}

fn policy_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "failurePolicy", "Fail");
        if map_mut(spec, "matchConstraints").is_some() {
            match_defaults(&mut spec["matchConstraints"]);
        }
    });
}

fn binding_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        if let Some(resources) = some_mut(spec, "matchResources") {
            match_defaults(resources);
        }
        if let Some(reference) = some_mut(spec, "paramRef") {
            preset(reference, "parameterNotFoundAction", "Deny");
        }
    });
}

fn match_resources(resources: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    one_of(resources, "matchPolicy", &["Equivalent", "Exact"], path, errors);
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

fn policy(object: &Value, patch_types: bool, errors: &mut FieldErrors) -> cel::Env {
    let spec = at(object, "spec");
    one_of(spec, "failurePolicy", &["Fail", "Ignore"], &SPEC, errors);
    let path = SPEC.child("matchConstraints");
    let constraints = at(spec, "matchConstraints");
    if constraints.is_null() {
        errors.required(&path, "");
    } else {
        match_resources(constraints, &path, errors);
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
            errors.invalid_each(&at_i.child("name"), name, names::c_identifier(name));
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
        one_of(reference, "parameterNotFoundAction", &["Allow", "Deny"], &path, errors);
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
