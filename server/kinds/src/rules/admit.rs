//! What a definition's rules must satisfy.

use super::{KEY, env, fieldpath, flag, text};
use cel::{Decl, Type};
use machinery::field::{ErrorKind, FieldError, FieldErrors, Path, quote};
use serde_json::Value;

/// The most one expression may be estimated to cost, counted as often as it may run for one object.
const PER_EXPRESSION: u64 = 10_000_000;
/// The most all expressions of a version may.
const PER_DEFINITION: u64 = 100_000_000;

const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// What is found, and what all rules cost so far.
struct Check {
    errors: FieldErrors,
    total: u64,
    expensive: Vec<(String, u64)>,
}

/// What governs a node from above it.
#[derive(Clone)]
struct Above {
    /// How often the node may occur in one object, if that is bounded.
    cardinality: Option<u64>,
    /// The part of the schema within which old and new cannot be matched.
    uncorrelatable: Option<String>,
}

/// Checks the rules of one version's schema.
pub fn check(schema: &Value, at: &Path<'_>) -> FieldErrors {
    if !super::any(schema) {
        return FieldErrors::default();
    }
    let mut check = Check { errors: FieldErrors::default(), total: 0, expensive: Vec::new() };
    let above = Above { cardinality: Some(1), uncorrelatable: None };
    check.node(schema, at, true, &above);
    if check.total > PER_DEFINITION {
        check.expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (path, _) in check.expensive.iter().take(4) {
            let detail =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            check.errors.push(FieldError::forbidden(&Path::new(path), detail));
        }
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        check.errors.forbidden(at, exceeds(name, check.total, PER_DEFINITION));
    }
    check.errors
}

fn exceeds(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let shown = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{name} exceeds budget by factor of {shown} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

fn times(cost: u64, cardinality: u64) -> u64 {
    cost.saturating_mul(cardinality)
}

impl Check {
    fn node(&mut self, schema: &Value, at: &Path<'_>, root: bool, above: &Above) {
        if !super::any(schema) {
            return;
        }
        let embedded = |s: &Value| flag(s, "x-kubernetes-embedded-resource");
        let factor = match text(schema, "type") {
            "object" if schema.get("additionalProperties").is_some() => count(schema, "maxProperties"),
            "array" => count(schema, "maxItems"),
            _ => Some(1),
        };
        let cardinality = above.cardinality.zip(factor).map(|(a, b)| a.saturating_mul(b));
        let below = Above { cardinality, uncorrelatable: above.uncorrelatable.clone() };
        if let Some(inner) = schema.get("additionalProperties").filter(|a| a.is_object()) {
            self.node(inner, &at.child("additionalProperties"), embedded(inner), &below);
        }
        let properties = at.child("properties");
        for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.node(inner, &properties.key(name), embedded(inner), &below);
        }
        if let Some(inner) = schema.get("items").filter(|i| i.is_object()) {
            let mut below = below.clone();
            if text(schema, "x-kubernetes-list-type") != "map" {
                below.uncorrelatable = below.uncorrelatable.or_else(|| Some(at.to_string()));
            }
            self.node(inner, &at.child("items"), embedded(inner), &below);
        }
        let Some(rules) = schema.get(KEY).and_then(Value::as_array).filter(|r| !r.is_empty()) else { return };
        let list = at.child(KEY);
        let before = self.errors.len();
        for (i, rule) in rules.iter().enumerate() {
            self.shape(rule, schema, &list.index(i));
        }
        if self.errors.len() > before {
            return;
        }
        let Some(decl) = cel::from_schema(schema, root, "selfType") else {
            let detail = "internal error: failed to construct type information for x-kubernetes-validations rules: unable \
                          to convert structural schema to CEL declarations";
            self.errors.push(FieldError::internal(&list, detail));
            return;
        };
        for (i, rule) in rules.iter().enumerate() {
            self.rule(rule, &list.index(i), &decl, above);
        }
    }

    /// What is wrong with a rule apart from its expressions.
    fn shape(&mut self, rule: &Value, schema: &Value, at: &Path<'_>) {
        let breaks = |t: &str| t.contains(['\n', '\r']);
        let (source, message) = (text(rule, "rule").trim(), text(rule, "message"));
        let at_message = at.child("message");
        if source.is_empty() {
            self.errors.required(&at.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            self.errors.invalid(&at_message, message, "must be non-empty if specified");
        } else if breaks(message.trim()) {
            self.errors.invalid(&at_message, message, "must not contain line breaks");
        } else if breaks(source) && message.trim().is_empty() {
            self.errors.required(&at_message, "message must be specified if rule contains line breaks");
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            self.errors.required(&at.child("messageExpression"), detail);
        }
        if let Some(reason) = rule.get("reason").and_then(Value::as_str)
            && !REASONS.contains(&reason)
        {
            self.errors.not_supported(&at.child("reason"), reason, &REASONS);
        }
        let path = text(rule, "fieldPath");
        let at_path = at.child("fieldPath");
        if !path.is_empty() && path.trim().is_empty() {
            self.errors.invalid(&at_path, path, "must be non-empty if specified");
        }
        if breaks(path) {
            self.errors.invalid(&at_path, path, "must not contain line breaks");
        }
        if !path.is_empty() && fieldpath::normalize(path, schema).is_err() {
            self.errors.invalid(&at_path, path, "must be a valid path");
        }
    }

    fn rule(&mut self, rule: &Value, at: &Path<'_>, decl: &Decl, above: &Above) {
        let source = text(rule, "rule");
        let env = env(decl, flag(rule, "optionalOldSelf"));
        let at_rule = at.child("rule");
        let program = match cel::compile(&env, source) {
            Ok(program) => program,
            Err(e) => {
                self.refuse(&at_rule, rule, format!("compilation failed: {e}"));
                return;
            }
        };
        if *program.result() != Type::Bool {
            self.refuse(&at_rule, rule, "cel expression must evaluate to a bool");
            return;
        }
        // Unbounded: as often as the smallest such value fits into a request.
        let often = above
            .cardinality
            .unwrap_or_else(|| (cel::decl::MAX_REQUEST / (decl.min_size + 1)).unsigned_abs());
        let cost = times(program.estimate(Some(decl)).max, often);
        self.cost("estimated rule cost", cost, &at_rule);
        let message = text(rule, "messageExpression");
        if !message.is_empty() {
            let at_message = at.child("messageExpression");
            match cel::compile(&env, message) {
                Err(e) => {
                    let detail = format!("messageExpression compilation failed: {e}");
                    self.refuse(&at_message, rule, detail);
                }
                Ok(program) if *program.result() != Type::Text => {
                    let detail = "messageExpression must evaluate to a string";
                    self.refuse(&at_message, rule, detail);
                }
                Ok(program) => {
                    let cost = program.estimate(Some(decl)).max;
                    self.cost("estimated messageExpression cost", cost, &at_message);
                }
            }
        }
        if program.uses("oldSelf") {
            if let Some(within) = &above.uncorrelatable {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
                );
                self.errors.invalid(&at_rule, source, detail);
            }
        } else if let Some(optional) = rule.get("optionalOldSelf").filter(|o| !o.is_null()) {
            let detail = "may not be set if oldSelf is not used in rule";
            self.errors.invalid(&at.child("optionalOldSelf"), optional.clone(), detail);
        }
    }

    fn refuse(&mut self, at: &Path<'_>, rule: &Value, why: impl std::fmt::Display) {
        self.errors.push(FieldError {
            kind: ErrorKind::InvalidUnshown,
            path: at.to_string(),
            bad_value: Value::Null,
            detail: format!("{}: {why}", shown(rule)),
        });
    }

    fn cost(&mut self, name: &str, cost: u64, at: &Path<'_>) {
        if cost > PER_EXPRESSION {
            self.errors.forbidden(at, exceeds(name, cost, PER_EXPRESSION));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= PER_DEFINITION / 100 {
            self.expensive.push((at.to_string(), cost));
        }
    }
}

/// A rule as upstream's messages show it.
fn shown(rule: &Value) -> String {
    let or_null =
        |name: &str| rule.get(name).filter(|v| !v.is_null()).map_or("null".to_owned(), Value::to_string);
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        quote(text(rule, "rule")),
        quote(text(rule, "message")),
        quote(text(rule, "messageExpression")),
        or_null("reason"),
        quote(text(rule, "fieldPath")),
        or_null("optionalOldSelf"),
    )
}

fn count(schema: &Value, key: &str) -> Option<u64> {
    let n = schema.get(key)?;
    n.as_u64().or_else(|| n.as_f64().map(|f| f.max(0.0) as u64))
}
