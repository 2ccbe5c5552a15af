//! An object against its rules.

use super::ratchet::Correlation;
use super::{Rule, Rules};
use cel::{ErrorKind as CelErrorKind, EvalError, PER_CALL_LIMIT, Program, Vars, value};
use machinery::field::{ErrorKind, FieldError, FieldErrors, quote};
use serde_json::Value;

/// The longest message an expression may make.
const MAX_MESSAGE: usize = 5 * 1024;

struct Old<'a> {
    own: value::Value<'a>,
    old: Option<value::Value<'a>>,
    optional: bool,
}

impl<'a> Vars<'a> for Old<'a> {
    fn get(&self, name: &str) -> Option<Result<value::Value<'a>, EvalError>> {
        match (name, self.optional) {
            ("self", _) => Some(Ok(self.own.clone())),
            ("oldSelf", false) => self.old.clone().map(Ok),
            ("oldSelf", true) => {
                let old = self.old.clone().map(value::Value::some);
                Some(Ok(old.unwrap_or(value::Value::Optional(None))))
            }
            _ => None,
        }
    }
}

/// What one walk gathers.
struct Walk<'w> {
    errors: FieldErrors,
    warnings: &'w mut Vec<String>,
    budget: i64,
}

impl Rules {
    /// What the rules say of the object. `old` is what it replaces: transition rules run only with it, and what it
    /// already got wrong is a warning. Ends with the budget.
    pub fn validate(&self, object: &Value, old: Option<&Value>, warnings: &mut Vec<String>) -> FieldErrors {
        let mut walk = Walk { errors: FieldErrors::default(), warnings, budget: cel::RUNTIME_BUDGET };
        let correlation = match old {
            Some(old) => Correlation::root(object, old),
            None => Correlation::NONE,
        };
        walk.node(self, "", object, old, correlation);
        walk.errors
    }
}

/// The budget or a limit was passed: nothing more is evaluated.
struct Stop;

impl Walk<'_> {
    fn push(&mut self, kind: ErrorKind, path: &str, bad_value: Value, detail: String) {
        self.errors.push(error(kind, path, bad_value, detail));
    }

    fn node(
        &mut self,
        rules: &Rules,
        path: &str,
        object: &Value,
        old: Option<&Value>,
        correlation: Correlation<'_>,
    ) -> bool {
        if object.is_null() {
            return true;
        }
        let old = old.filter(|o| !o.is_null());
        if self.own(rules, path, object, old, correlation).is_err() {
            return false;
        }
        for inner in &rules.all_of {
            // As schema ratcheting: what `allOf` says is not ratcheted by the node itself.
            if !self.node(inner, path, object, old, correlation.parent_only()) {
                return false;
            }
        }
        match object {
            Value::Array(items) => {
                let Some(inner) = &rules.items else { return true };
                let before = old.and_then(Value::as_array);
                items.iter().enumerate().all(|(i, item)| {
                    let counterpart = rules
                        .list_keys
                        .as_ref()
                        .zip(before)
                        .and_then(|(keys, before)| super::ratchet::same_key(keys, item, before));
                    let below = correlation.item(item, counterpart);
                    self.node(inner, &format!("{path}[{i}]"), item, counterpart, below)
                })
            }
            Value::Object(members) => members.iter().all(|(name, member)| {
                let (inner, below_path) = match (&rules.additional, rules.properties.get(name)) {
                    (_, Some(inner)) if path.is_empty() => (inner, name.clone()),
                    (_, Some(inner)) => (inner, format!("{path}.{name}")),
                    (Some(inner), None) => (&**inner, format!("{path}[{name}]")),
                    (None, None) => return true,
                };
                let counterpart = old.and_then(|o| o.get(name));
                self.node(inner, &below_path, member, counterpart, correlation.member(name))
            }),
            _ => true,
        }
    }

    fn own(
        &mut self,
        rules: &Rules,
        path: &str,
        object: &Value,
        old: Option<&Value>,
        correlation: Correlation<'_>,
    ) -> Result<(), Stop> {
        if rules.own.is_empty() {
            return Ok(());
        }
        let kind = || Value::from(rules.kind.as_str());
        if self.budget <= 0 {
            self.push(ErrorKind::Invalid, path, kind(), OUT_OF_BUDGET.into());
            return Err(Stop);
        }
        let own = match value::wrap(object, &rules.decl) {
            Ok(own) => own,
            Err(e) => {
                self.push(ErrorKind::Invalid, path, kind(), e.to_string());
                return Ok(());
            }
        };
        let old_value = old.and_then(|o| value::wrap(o, &rules.decl).ok());
        for rule in &rules.own {
            let program = match &rule.program {
                Ok(program) => program,
                Err(why) => {
                    self.push(ErrorKind::Invalid, path, kind(), format!("rule compile error: {why}"));
                    continue;
                }
            };
            // Transition rules need something to compare with.
            if rule.uses_old && old_value.is_none() && !rule.optional_old {
                continue;
            }
            let vars = Old { own: own.clone(), old: old_value.clone(), optional: rule.optional_old };
            let outcome = program.eval(&vars, PER_CALL_LIMIT);
            let cost = i64::try_from(outcome.cost).unwrap_or(i64::MAX);
            if cost > self.budget {
                self.push(ErrorKind::Invalid, path, kind(), OUT_OF_BUDGET.into());
                return Err(Stop);
            }
            self.budget -= cost;
            match outcome.value {
                Ok(value::Value::Bool(true)) => continue,
                Ok(_) => {}
                Err(e) if e.kind == CelErrorKind::Cost => {
                    let detail = format!(
                        "'{e}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                        rule.shown
                    );
                    self.push(ErrorKind::Invalid, path, kind(), detail);
                    return Err(Stop);
                }
                Err(e) => {
                    let detail = if e.message.starts_with("no such overload") {
                        format!(
                            "'{e}': call arguments did not match a supported operator, function or macro signature \
                             for rule: {}",
                            rule.shown
                        )
                    } else {
                        format!("{e} evaluating rule: {}", rule.shown)
                    };
                    self.push(ErrorKind::Invalid, path, kind(), detail);
                    continue;
                }
            }
            let at = match &rule.field_path {
                Some(below) if path.is_empty() => below.clone(),
                Some(below) => format!("{path}.{below}"),
                None => path.to_owned(),
            };
            let (detail, stop) = self.message(rule, &vars);
            let whole = matches!(rules.kind.as_str(), "object" | "array");
            let reason = match rule.reason {
                ErrorKind::Invalid if whole && !stop => ErrorKind::InvalidUnshown,
                other => other,
            };
            let shown = if whole { kind() } else { object.clone() };
            let failed = error(reason, &at, if stop { kind() } else { shown }, detail);
            if !rule.uses_old && correlation.ratchets() {
                self.warnings.push(failed.to_string());
            } else {
                self.errors.push(failed);
            }
            if stop {
                return Err(Stop);
            }
        }
        Ok(())
    }

    /// Why the rule failed, and whether saying so used the budget up.
    fn message(&mut self, rule: &Rule, vars: &Old<'_>) -> (String, bool) {
        let fallback = || rule.message.clone().unwrap_or_else(|| format!("failed rule: {}", rule.shown));
        let Some((program, source)) = &rule.message_expression else { return (fallback(), false) };
        match self.expression(program, source, vars) {
            Ok(Some(message)) => (message, false),
            Ok(None) => (fallback(), false),
            Err(why) => (why, true),
        }
    }

    fn expression(
        &mut self,
        program: &Program,
        source: &str,
        vars: &Old<'_>,
    ) -> Result<Option<String>, String> {
        let outcome = program.eval(vars, PER_CALL_LIMIT);
        let cost = i64::try_from(outcome.cost).unwrap_or(i64::MAX);
        if cost > self.budget {
            return Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules \
                        will be run"
                .into());
        }
        match outcome.value {
            Err(e) if e.kind == CelErrorKind::Cost => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                quote(source)
            )),
            Err(error) => {
                self.budget -= cost;
                tracing::debug!(%error, "a messageExpression failed");
                Ok(None)
            }
            Ok(made) => {
                self.budget -= cost;
                let text = made.as_text().map(str::trim).unwrap_or_default();
                let usable = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
                Ok(usable.then(|| text.to_owned()))
            }
        }
    }
}

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

fn error(kind: ErrorKind, path: &str, bad_value: Value, detail: String) -> FieldError {
    let path = if path.is_empty() { "<nil>" } else { path };
    let detail = if kind == ErrorKind::Duplicate { String::new() } else { detail };
    FieldError { kind, path: path.to_owned(), bad_value, detail }
}
