//! Values against an OpenAPI v3 schema, worded as upstream's validator does.
//!
//! Patterns are compiled once, when the validator is made. CEL rules (`x-kubernetes-validations`) are not this
//! module's.

use std::collections::HashMap;

use regex::Regex;
use serde_json::Value;

use super::formats;
use crate::field::{ErrorKind, FieldError, FieldErrors};

/// A schema ready to check values.
#[derive(Clone, Debug)]
pub struct Validator {
    schema: Value,
    patterns: HashMap<String, Regex>,
}

/// Makes a validator; patterns that Rust cannot read are left out.
pub fn validator(schema: &Value) -> Validator {
    let mut patterns = HashMap::new();
    collect(schema, &mut patterns);
    Validator { schema: schema.clone(), patterns }
}

fn collect(schema: &Value, into: &mut HashMap<String, Regex>) {
    match schema {
        Value::Object(object) => {
            if let Some(pattern) = object.get("pattern").and_then(Value::as_str)
                && !into.contains_key(pattern)
                && let Ok(regex) = Regex::new(pattern)
            {
                into.insert(pattern.to_string(), regex);
            }
            object.values().for_each(|v| collect(v, into));
        }
        Value::Array(items) => items.iter().for_each(|v| collect(v, into)),
        _ => {}
    }
}

impl Validator {
    /// What is wrong with the object's values; `apiVersion`, `kind` and `metadata` are not looked at.
    pub fn validate(&self, object: &Value) -> FieldErrors {
        let mut check = Check { patterns: &self.patterns, errors: FieldErrors::default(), root: true };
        check.value(&self.schema, object, "");
        check.errors
    }
}

struct Check<'v> {
    patterns: &'v HashMap<String, Regex>,
    errors: FieldErrors,
    root: bool,
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_some_and(|f| f.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Check<'_> {
    fn error(&mut self, kind: ErrorKind, path: &str, bad_value: Value, detail: String) {
        let path = if path.is_empty() { "<nil>" } else { path };
        self.errors.push(FieldError { kind, path: path.to_string(), bad_value, detail });
    }

    fn invalid(&mut self, path: &str, value: &Value, detail: String) {
        let name = if path.is_empty() { "<nil>" } else { path };
        self.error(ErrorKind::Invalid, path, value.clone(), format!("{name} in body {detail}"));
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        let Value::Object(says) = schema else { return };
        let root = std::mem::replace(&mut self.root, false);
        let flag = |key: &str| says.get(key) == Some(&Value::Bool(true));
        // Of null upstream looks at the type and at the choice of values.
        if value.is_null() && flag("nullable") {
            self.choice(says, value, path);
            return;
        }
        let found = kind_of(value);
        let mut fits = true;
        if flag("x-kubernetes-int-or-string") {
            fits = matches!(found, "integer" | "string");
            if !fits {
                self.mistyped(path, "integer,string", found);
            }
        } else if let Some(ty) = says.get("type").and_then(Value::as_str) {
            fits = found == ty || (ty == "number" && found == "integer");
            if !fits {
                self.mistyped(path, ty, found);
            }
        }
        if !value.is_null() {
            self.alternatives(says, value, path);
        }
        match value {
            _ if !fits => {}
            Value::String(text) => self.string(schema, value, text, path),
            Value::Number(number) => self.number(schema, value, number.as_f64().unwrap_or(0.0), path),
            Value::Array(items) => self.array(schema, items, path),
            _ => {}
        }
        self.choice(says, value, path);
        if fits && value.is_object() {
            self.object(schema, value, path, root);
        }
    }

    fn choice(&mut self, says: &serde_json::Map<String, Value>, value: &Value, path: &str) {
        if let Some(allowed) = says.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            let words: Vec<String> = allowed
                .iter()
                .map(|a| format!("{:?}", a.as_str().map_or_else(|| a.to_string(), str::to_owned)))
                .collect();
            let detail = format!("supported values: {}", words.join(", "));
            self.error(ErrorKind::NotSupported, path, value.clone(), detail);
        }
    }

    fn mistyped(&mut self, path: &str, due: &str, found: &str) {
        let shown = if path.is_empty() { "<nil>" } else { path };
        let detail = format!("{shown} in body must be of type {due}: {found:?}");
        self.error(ErrorKind::TypeInvalid, path, found.into(), detail);
    }

    /// What is wrong with the whole, which upstream says of no field.
    fn composite(&mut self, detail: String) {
        self.error(ErrorKind::Invalid, "", "".into(), detail);
    }

    /// The errors of a part of the schema alone.
    fn errors_of(&self, schema: &Value, value: &Value, path: &str) -> FieldErrors {
        let mut check = Check { patterns: self.patterns, errors: FieldErrors::default(), root: false };
        check.value(schema, value, path);
        check.errors
    }

    fn alternatives(&mut self, says: &serde_json::Map<String, Value>, value: &Value, path: &str) {
        let list = |key: &str| says.get(key).and_then(Value::as_array).filter(|l| !l.is_empty());
        if let Some(any) = list("anyOf") {
            let mut first = None;
            let fits = any.iter().any(|schema| {
                let errors = self.errors_of(schema, value, path);
                let fits = errors.is_empty();
                first.get_or_insert(errors);
                fits
            });
            if !fits {
                self.composite(format!("{path:?} must validate at least one schema (anyOf)"));
                self.errors.0.extend(first.unwrap_or_default().0);
            }
        }
        if let Some(one) = list("oneOf") {
            let all: Vec<FieldErrors> =
                one.iter().map(|schema| self.errors_of(schema, value, path)).collect();
            let valid = all.iter().filter(|errors| errors.is_empty()).count();
            if valid != 1 {
                let found = match valid {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                self.composite(format!("{path:?} must validate one and only one schema (oneOf). {found}"));
                if valid == 0 {
                    self.errors.0.extend(all.into_iter().next().unwrap_or_default().0);
                }
            }
        }
        if let Some(all) = list("allOf") {
            let before = self.errors.0.len();
            let mut valid = 0;
            for schema in all {
                let errors = self.errors_of(schema, value, path);
                valid += usize::from(errors.is_empty());
                self.errors.0.extend(errors.0);
            }
            if self.errors.0.len() > before {
                let none = if valid == 0 { ". None validated" } else { "" };
                self.composite(format!("{path:?} must validate all the schemas (allOf){none}"));
            }
        }
        if let Some(not) = says.get("not")
            && self.errors_of(not, value, path).is_empty()
        {
            self.composite(format!("{path:?} must not validate the schema (not)"));
        }
    }

    fn string(&mut self, schema: &Value, value: &Value, text: &str, path: &str) {
        self.length_and_pattern(schema, value, text, path);
        if let Some(format) = schema.get("format").and_then(Value::as_str)
            && !formats::holds(format, text)
        {
            self.invalid(path, value, format!("must be of type {format}: {text:?}"));
        }
    }

    /// The first thing wrong with a text is all that is told.
    fn length_and_pattern(&mut self, schema: &Value, value: &Value, text: &str, path: &str) {
        let count = text.chars().count() as u64;
        if let Some(max) = schema.get("maxLength").and_then(Value::as_u64)
            && count > max
        {
            let unit = if max == 1 { "byte" } else { "bytes" };
            self.error(ErrorKind::TooLong, path, Value::Null, format!("may not be more than {max} {unit}"));
        } else if let Some(min) = schema.get("minLength").and_then(Value::as_u64)
            && count < min
        {
            self.invalid(path, value, format!("should be at least {min} chars long"));
        } else if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && self.patterns.get(pattern).is_some_and(|regex| !regex.is_match(text))
        {
            self.invalid(path, value, format!("should match '{pattern}'"));
        }
    }

    fn number(&mut self, schema: &Value, value: &Value, number: f64, path: &str) {
        let says = |key: &str| schema.get(key).and_then(Value::as_f64);
        let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
        let shown = |bound: f64| {
            if bound.fract() == 0.0 && bound.abs() < 9e15 {
                (bound as i64).to_string()
            } else {
                bound.to_string()
            }
        };
        if let Some(max) = says("maximum") {
            let exclusive = flag("exclusiveMaximum");
            if number > max || (exclusive && number >= max) {
                let word = if exclusive { "less than" } else { "less than or equal to" };
                self.invalid(path, value, format!("should be {word} {}", shown(max)));
            }
        }
        if let Some(min) = says("minimum") {
            let exclusive = flag("exclusiveMinimum");
            if number < min || (exclusive && number <= min) {
                let word = if exclusive { "greater than" } else { "greater than or equal to" };
                self.invalid(path, value, format!("should be {word} {}", shown(min)));
            }
        }
        if let Some(step) = says("multipleOf").filter(|step| *step != 0.0) {
            let times = number / step;
            if (times - times.round()).abs() > 1e-9 {
                self.invalid(path, value, format!("should be a multiple of {}", shown(step)));
            }
        }
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        let bound = match (text("type"), text("format")) {
            ("integer", "int32") => Some(("integer", "int32", f64::from(i32::MIN)..=f64::from(i32::MAX))),
            ("number", "float") => Some(("number", "float", f64::from(f32::MIN)..=f64::from(f32::MAX))),
            _ => None,
        };
        if let Some((kind, format, range)) = bound
            && !range.contains(&number)
        {
            self.composite(format!("Checked value must be of type {kind} with format {format} in {path}"));
        }
    }

    fn array(&mut self, schema: &Value, items: &[Value], path: &str) {
        if let Some(max) = schema.get("maxItems").and_then(Value::as_u64)
            && items.len() as u64 > max
        {
            let unit = if max == 1 { "item" } else { "items" };
            let detail = format!("must have at most {max} {unit}");
            self.error(ErrorKind::TooMany, path, items.len().into(), detail);
        }
        if let Some(min) = schema.get("minItems").and_then(Value::as_u64)
            && (items.len() as u64) < min
        {
            self.invalid(path, &items.len().into(), format!("should have at least {min} items"));
        }
        self.unique(schema, items, path);
        if let Some(item) = schema.get("items") {
            for (index, value) in items.iter().enumerate() {
                self.value(item, value, &format!("{path}[{index}]"));
            }
        }
    }

    /// Sets and associative lists hold nothing twice.
    fn unique(&mut self, schema: &Value, items: &[Value], path: &str) {
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
        let key_of = |item: &Value| -> String {
            let of = |k: &str| {
                let default = schema.get("items").and_then(|i| i.get("properties")?.get(k)?.get("default"));
                item.get(k).or(default).cloned().unwrap_or_default()
            };
            match keys.is_empty() {
                true => item.to_string(),
                false => Value::Array(keys.iter().map(|k| of(k)).collect()).to_string(),
            }
        };
        if !matches!(schema.get("x-kubernetes-list-type").and_then(Value::as_str), Some("set" | "map")) {
            return;
        }
        let mut seen = HashMap::new();
        for (index, item) in items.iter().enumerate() {
            if seen.insert(key_of(item), index).is_some() {
                let shown = if keys.is_empty() {
                    item.clone()
                } else {
                    let pairs = keys.iter().filter_map(|k| Some((k.to_string(), item.get(*k)?.clone())));
                    Value::Object(pairs.collect())
                };
                self.error(ErrorKind::Duplicate, &format!("{path}[{index}]"), shown, String::new());
            }
        }
    }

    fn object(&mut self, schema: &Value, value: &Value, path: &str, root: bool) {
        let Value::Object(members) = value else { return };
        let count = members.len() as u64;
        if let Some(max) = schema.get("maxProperties").and_then(Value::as_u64)
            && count > max
        {
            let unit = if max == 1 { "item" } else { "items" };
            self.error(ErrorKind::TooMany, path, count.into(), format!("must have at most {max} {unit}"));
        }
        if let Some(min) = schema.get("minProperties").and_then(Value::as_u64)
            && count < min
        {
            self.invalid(path, &count.into(), format!("should have at least {min} properties"));
        }
        for name in
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            if !members.contains_key(name) {
                self.error(ErrorKind::Required, &join(path, name), Value::Null, String::new());
            }
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        let embedded = root || schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
        for (name, member) in members {
            if embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            if let Some(says) = properties.and_then(|p| p.get(name)) {
                self.value(says, member, &join(path, name));
            } else if let Some(says) = schema.get("additionalProperties") {
                self.value(says, member, &join(path, name));
            }
        }
    }
}
