//! The group `flowcontrol.apiserver.k8s.io`.

use super::kind::{Kind, Metadata};
use super::support::{
    at, flag, has, in_range, int, items, label, preset, required, some_mut, subdomain, text, texts, with_spec,
};
use machinery::field::{FieldErrors, Path};
use serde_json::{Value, json};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::cluster(GROUP, "FlowSchema")
        .metadata(Metadata::Whole)
        .status()
        .generation()
        .default(|o| with_spec(o, |spec| super::support::preset_int(spec, "matchingPrecedence", 1000)))
        .validate(validate_schema)
        .validate_update(conditions),
    Kind::cluster(GROUP, "PriorityLevelConfiguration")
        .metadata(Metadata::Whole)
        .status()
        .generation()
        .default(level_defaults)
        .validate(validate_level)
        .validate_update(conditions),
];

const SPEC: Path<'static> = Path::new("spec");

fn validate_schema(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let precedence = int(spec, "matchingPrecedence").unwrap_or(0);
    if precedence <= 0 {
        errors.invalid(&SPEC.child("matchingPrecedence"), precedence, "must be a positive value");
    } else if precedence > 10_000 {
        errors.invalid(&SPEC.child("matchingPrecedence"), precedence, "must not be greater than 10000");
    } else if precedence == 1 && machinery::meta::name(object) != "exempt" {
        errors.invalid(
            &SPEC.child("matchingPrecedence"),
            precedence,
            "only the schema named 'exempt' may have matchingPrecedence 1",
        );
    }
    if has(spec, "distinguisherMethod") {
        let path = SPEC.child("distinguisherMethod");
        let kind = text(at(spec, "distinguisherMethod"), "type");
        if !["ByNamespace", "ByUser"].contains(&kind) {
            errors.not_supported(&path.child("type"), json!({"Type": kind}), &["ByNamespace", "ByUser"]);
        }
    }
    let level = at(spec, "priorityLevelConfiguration");
    let at_level = SPEC.child("priorityLevelConfiguration.name");
    match text(level, "name") {
        "" => errors.required(&at_level, "must reference a priority level"),
        name => subdomain(name, &at_level, errors),
    }
    let rules = SPEC.child("rules");
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        let path = rules.index(i);
        if items(rule, "subjects").is_empty() {
            errors.required(&path.child("subjects"), "subjects must contain at least one value");
        }
        let list = path.child("subjects");
        for (n, of) in items(rule, "subjects").iter().enumerate() {
            subject(of, &list.index(n), errors);
        }
        if items(rule, "resourceRules").is_empty() && items(rule, "nonResourceRules").is_empty() {
            errors.required(&path, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
        let list = path.child("resourceRules");
        for (n, rule) in items(rule, "resourceRules").iter().enumerate() {
            resource_rule(rule, &list.index(n), errors);
        }
        let list = path.child("nonResourceRules");
        for (n, rule) in items(rule, "nonResourceRules").iter().enumerate() {
            let at_n = list.index(n);
            verbs(rule, &at_n, errors);
            let urls = at_n.child("nonResourceURLs");
            match wildcard(rule, "nonResourceURLs", "non-resource URLs", &urls, errors) {
                Listed::None => errors.required(&urls, "nonResourceURLs must contain at least one value"),
                Listed::All => {}
                Listed::Some => {
                    for (i, url) in texts(rule, "nonResourceURLs").enumerate() {
                        if let Some(why) = bad_url(url) {
                            errors.invalid(&urls.index(i), url, why);
                        }
                    }
                }
            }
        }
    }
}

const KINDS_OF_SUBJECTS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(subject: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = text(subject, "kind");
    let Some((_, own)) = KINDS_OF_SUBJECTS.iter().find(|(k, _)| *k == kind) else {
        errors.not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    let (who, at_own) = (at(subject, own), path.child(own));
    if who.is_null() {
        errors.required(&at_own, format!("{own} is required when subject kind is '{kind}'"));
    } else {
        required(who, "name", &at_own, errors);
        if kind == "ServiceAccount" {
            let (name, namespace) = (text(who, "name"), text(who, "namespace"));
            if !name.is_empty() && name != "*" {
                subdomain(name, &at_own.child("name"), errors);
            }
            if namespace.is_empty() {
                errors.required(&at_own.child("namespace"), "must specify namespace for service account");
            } else {
                label(namespace, &at_own.child("namespace"), errors);
            }
        }
    }
    for (other, member) in KINDS_OF_SUBJECTS.iter().filter(|(k, m)| *k != kind && has(subject, m)) {
        let detail = format!("{member} is forbidden when subject kind is not '{other}'");
        errors.forbidden(&path.child(member), detail);
    }
}

const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// What a list of names is, of which `*` stands for all.
enum Listed {
    None,
    Some,
    All,
}

fn wildcard(rule: &Value, member: &str, what: &str, path: &Path<'_>, errors: &mut FieldErrors) -> Listed {
    let all = items(rule, member);
    let any = all.iter().any(|v| v == "*");
    if any && all.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.invalid(path, Value::Array(all.to_vec()), detail);
    }
    match (all.is_empty(), any) {
        (true, _) => Listed::None,
        (_, true) => Listed::All,
        _ => Listed::Some,
    }
}

fn verbs(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("verbs");
    match wildcard(rule, "verbs", "verbs", &path, errors) {
        Listed::None => errors.required(&path, "verbs must contain at least one value"),
        Listed::Some if texts(rule, "verbs").any(|v| !VERBS.contains(&v)) => {
            errors.not_supported(&path, at(rule, "verbs").clone(), &VERBS);
        }
        _ => {}
    }
}

fn resource_rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    verbs(rule, path, errors);
    for (member, what, one) in
        [("apiGroups", "api groups", "api group"), ("resources", "resources", "resource")]
    {
        let path = path.child(member);
        if let Listed::None = wildcard(rule, member, what, &path, errors) {
            errors.required(&path, format!("resource rules must supply at least one {one}"));
        }
    }
    let path = path.child("namespaces");
    match wildcard(rule, "namespaces", "namespaces", &path, errors) {
        Listed::None if !flag(rule, "clusterScope") => {
            let detail = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.required(&path, detail);
        }
        Listed::Some => {
            for (i, name) in texts(rule, "namespaces").enumerate() {
                for why in machinery::names::dns1123_label(name) {
                    let detail = format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                    errors.invalid(&path.index(i), name, detail);
                }
            }
        }
        _ => {}
    }
}

fn bad_url(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    Some(match url {
        "" => "must not be empty",
        "/" => return None,
        _ if !url.starts_with('/') => "must start with slash",
        _ if url.contains(' ') => "must not contain white-space",
        _ if url.contains("//") => "must not contain double slash",
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => "wildcard can only do suffix matching",
        _ => return None,
    })
}

/// A condition of a kind is there once.
fn conditions(new: &Value, _: &Value, subresource: &str, errors: &mut FieldErrors) {
    if subresource != "status" {
        return;
    }
    let list = Path::new("status.conditions");
    let all = items(at(new, "status"), "conditions");
    for (i, condition) in all.iter().enumerate() {
        let kind = text(condition, "type");
        if all[..i].iter().any(|c| text(c, "type") == kind) {
            errors.duplicate(&list.index(i).child("type"), kind);
        }
        required(condition, "type", &list.index(i), errors);
    }
}

const MOST_QUEUES: i64 = 10_000_000;
const HASH_BITS: f64 = 60.0;

/// Hands of queues are dealt by one hash, which has to have bits enough.
fn queuing(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let get = |name: &str| int(of, name).unwrap_or(0);
    let (queues, hand) = (get("queues"), get("handSize"));
    for name in ["queueLengthLimit", "queues"] {
        if get(name) <= 0 {
            errors.invalid(&path.child(name), get(name), "must be positive");
        }
    }
    if queues > MOST_QUEUES {
        errors.invalid(&path.child("queues"), queues, format!("must not be greater than {MOST_QUEUES}"));
    }
    let at_hand = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&at_hand, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&at_hand, hand, format!("should not be greater than queues ({queues})"));
    } else {
        let mut bits = 0.0;
        for dealt in 0..hand {
            bits += ((queues - dealt) as f64).log2();
            if bits.ceil() > HASH_BITS {
                let detail = format!(
                    "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
                );
                errors.invalid(&at_hand, hand, detail);
                break;
            }
        }
    }
}

fn shares(of: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(n) = int(of, "nominalConcurrencyShares").filter(|n| *n < 0) {
        errors.invalid(&path.child("nominalConcurrencyShares"), n, "must be a non-negative integer");
    }
    in_range(of, "lendablePercent", 0, 100, path, errors);
}

fn level_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        if text(spec, "type") == "Exempt" && !has(spec, "exempt") {
            spec["exempt"] = json!({});
        }
        if let Some(exempt) = some_mut(spec, "exempt") {
            preset(exempt, "nominalConcurrencyShares", 0);
            preset(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = some_mut(spec, "limited") {
            preset(limited, "nominalConcurrencyShares", 30);
            preset(limited, "lendablePercent", 0);
            if let Some(response) = some_mut(limited, "limitResponse")
                && let Some(queuing) = some_mut(response, "queuing")
            {
                for (name, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                    super::support::preset_int(queuing, name, value);
                }
            }
        }
    });
}

fn validate_level(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    match text(spec, "type") {
        "Exempt" => {
            if has(spec, "limited") {
                errors.forbidden(&SPEC.child("limited"), "must be nil if the type is not Limited");
            }
            let exempt = at(spec, "exempt");
            shares(exempt, &SPEC.child("exempt"), errors);
        }
        "Limited" => {
            if has(spec, "exempt") {
                errors.forbidden(&SPEC.child("exempt"), "must be nil if the type is Limited");
            }
            let path = SPEC.child("limited");
            if !has(spec, "limited") {
                errors.required(&path, "must not be empty when type is Limited");
                return;
            }
            let limited = at(spec, "limited");
            shares(limited, &path, errors);
            if let Some(n) = int(limited, "borrowingLimitPercent").filter(|n| *n < 0) {
                let detail = "if specified, must be a non-negative integer";
                errors.invalid(&path.child("borrowingLimitPercent"), n, detail);
            }
            let response = at(limited, "limitResponse");
            let path = path.child("limitResponse");
            match text(response, "type") {
                "Reject" if has(response, "queuing") => errors.forbidden(
                    &path.child("queuing"),
                    "must be nil if limited.limitResponse.type is not Limited",
                ),
                "Queue" if !has(response, "queuing") => errors.required(
                    &path.child("queuing"),
                    "must not be empty if limited.limitResponse.type is Limited",
                ),
                "Queue" => queuing(at(response, "queuing"), &path.child("queuing"), errors),
                "Reject" => {}
                other => errors.not_supported(&path.child("type"), other, &["Queue", "Reject"]),
            }
        }
        other => errors.not_supported(&SPEC.child("type"), other, &["Exempt", "Limited"]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;

    #[test]
    fn checks() {
        let row = find(GROUP, "PriorityLevelConfiguration").unwrap();
        let mut level = json!({"metadata": {"name": "x"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
        row.default(&mut level);
        assert_eq!(
            level["spec"]["limited"]["limitResponse"]["queuing"],
            json!({"handSize": 8, "queues": 64, "queueLengthLimit": 50})
        );
        assert!(row.validate(&level).is_empty());
        level["spec"]["type"] = "Exempt".into();
        assert_eq!(
            row.validate(&level).0[0].to_string(),
            "spec.limited: Forbidden: must be nil if the type is not Limited"
        );
        let schema = find(GROUP, "FlowSchema").unwrap();
        let object = json!({"metadata": {"name": "x"}, "spec": {"matchingPrecedence": 10001, "priorityLevelConfiguration": {"name": "p"}}});
        assert_eq!(
            schema.validate(&object).0[0].to_string(),
            "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"
        );
    }
}
