//! The group `flowcontrol.apiserver.k8s.io`.

use super::kind::{Kind, Metadata};
use super::support::{
    at, has, in_range, int, items, nonnegative, preset, required, some_mut, text, with_spec,
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
        .validate(validate_schema),
    Kind::cluster(GROUP, "PriorityLevelConfiguration")
        .metadata(Metadata::Whole)
        .status()
        .generation()
        .default(level_defaults)
        .validate(validate_level),
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
            errors.not_supported(&path, json!({"Type": kind}), &["ByNamespace", "ByUser"]);
        }
    }
    let level = at(spec, "priorityLevelConfiguration");
    required(level, "name", &SPEC.child("priorityLevelConfiguration"), errors);
    let rules = SPEC.child("rules");
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        let path = rules.index(i);
        if items(rule, "subjects").is_empty() {
            errors.required(&path.child("subjects"), "subjects must contain at least one value");
        }
        if items(rule, "resourceRules").is_empty() && items(rule, "nonResourceRules").is_empty() {
            errors.required(&path, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
    }
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
            nonnegative(exempt, "nominalConcurrencyShares", &SPEC.child("exempt"), errors);
            in_range(exempt, "lendablePercent", 0, 100, &SPEC.child("exempt"), errors);
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
            nonnegative(limited, "nominalConcurrencyShares", &path, errors);
            in_range(limited, "lendablePercent", 0, 100, &path, errors);
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
                "Reject" | "Queue" => {}
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
