//! What makes a schema structural. Source: `schema/validation.go` and `schema/complete.go`.

use super::{flag, list, object, present, properties, text};
use crate::field::{FieldErrors, Path};
use regex::Regex;
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

pub(super) fn structural(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    invariants(schema, Level::Root, path, errors);
    value_completeness(schema, schema, path, path, errors);
}

fn invariants(s: &Value, level: Level, path: &Path<'_>, errors: &mut FieldErrors) {
    let ty = text(s, "type");
    let at_type = path.child("type");
    if ty == "array" && !present(s, "items") {
        errors.required(&path.child("items"), "must be specified");
    }
    if let Some(items) = object(s, "items") {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    let at_properties = path.child("properties");
    for (name, property) in properties(s) {
        invariants(property, Level::Field, &at_properties.key(name), errors);
    }
    if present(s, "additionalProperties") {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.forbidden(&at, "must not be used at the root");
        }
        if let Some(value) = object(s, "additionalProperties") {
            invariants(value, Level::Field, &at, errors);
        }
    }
    let (preserve, embedded, either) = (flag(s, PRESERVE), flag(s, EMBEDDED), flag(s, INT_OR_STRING));
    for (name, said) in [(PRESERVE, preserve), (EMBEDDED, embedded)] {
        if either && said {
            errors.invalid(&path.child(name), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    let (any, all_any) = (is_either(list(s, "anyOf")), either_in_all(s));
    junctors(s, any, all_any, path, errors);
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if ty.is_empty() {
            errors.required(&at_type, detail);
        } else {
            errors.invalid(&at_type, ty, detail);
        }
    } else if ty.is_empty() && !either && !preserve {
        let place = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.required(&at_type, format!("must not be empty {place}"));
    }
    if embedded && present(s, "additionalProperties") {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.invalid(&at_type, ty, "must be object at the root");
    }
    let checks_meta = level == Level::Root || embedded;
    for name in ["kind", "apiVersion"] {
        if let Some(property) = s.get("properties").and_then(|p| p.get(name)).filter(|_| checks_meta)
            && text(property, "type") != "string"
        {
            let at = at_properties.key(name);
            errors.invalid(&at.child("type"), text(property, "type"), "must be string");
        }
    }
    if let Some(metadata) = s.get("properties").and_then(|p| p.get("metadata")) {
        object_meta(metadata, checks_meta, level, &at_properties.key("metadata"), errors);
    }
    if embedded && !preserve && properties(s).next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&at_properties, detail);
    }
}

/// Of metadata, a schema may say no more than what names look like.
fn object_meta(s: &Value, checked: bool, level: Level, path: &Path<'_>, errors: &mut FieldErrors) {
    if checked && text(s, "type") != "object" {
        errors.invalid(&path.child("type"), text(s, "type"), "must be object");
    }
    if level != Level::Root {
        return;
    }
    let only_names = properties(s).all(|(name, _)| name == "name" || name == "generateName");
    let more = s.as_object().into_iter().flatten().any(|(key, value)| {
        let empty =
            value.is_null() || *value == Value::Bool(false) || *value == json!("") || *value == json!([]);
        !matches!(key.as_str(), "type" | "default" | "properties") && !empty
    });
    if !only_names || more {
        errors.forbidden(
            path,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

/// `anyOf: [{type: integer}, {type: string}]`, which says "int or string".
fn is_either(any: &[Value]) -> bool {
    any.len() == 2 && any[0] == json!({"type": "integer"}) && any[1] == json!({"type": "string"})
}

fn either_in_all(s: &Value) -> bool {
    list(s, "allOf").first().is_some_and(|first| is_either(list(first, "anyOf")))
}

fn junctors(s: &Value, skip_any: bool, skip_all_any: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    if !skip_any {
        each(s, "anyOf", path, errors, |_| false);
    }
    each(s, "allOf", path, errors, |index| skip_all_any && index == 0);
    each(s, "oneOf", path, errors, |_| false);
    if let Some(not) = object(s, "not") {
        nested(not, false, &path.child("not"), errors);
    }
    let pattern = text(s, "pattern");
    if let Err(error) = Regex::new(pattern) {
        let why = in_go(pattern, &error.to_string());
        let detail = format!("must be a valid regular expression, but isn't: error parsing regexp: {why}");
        errors.invalid(&path.child("pattern"), pattern, detail);
    }
}

/// What is wrong with a pattern, in the words of Go's parser.
fn in_go(pattern: &str, error: &str) -> String {
    let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
    // The parser's drawing has the pattern indented by four and a caret below the place.
    let at = error.lines().find(|line| line.trim() == "^").map_or(0, |line| line.len().saturating_sub(5));
    let rest = pattern.char_indices().nth(at).map_or("", |(byte, _)| &pattern[byte..]);
    let first = |n: usize| rest.chars().take(n).collect::<String>();
    match why {
        "unclosed group" => format!("missing closing ): `{pattern}`"),
        "unopened group" => format!("unexpected ): `{pattern}`"),
        "unclosed character class" => format!("missing closing ]: `{rest}`"),
        "repetition operator missing expression" => {
            format!("missing argument to repetition operator: `{}`", first(1))
        }
        "unrecognized escape sequence" => format!("invalid escape sequence: `{}`", first(2)),
        "incomplete escape sequence, reached end of pattern prematurely" => {
            "trailing backslash at end of expression: ``".to_owned()
        }
        other => format!("{other}: `{pattern}`"),
    }
}

fn each(s: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors, skip: impl Fn(usize) -> bool) {
    let at = path.child(key);
    for (index, inner) in list(s, key).iter().enumerate() {
        nested(inner, skip(index), &at.index(index), errors);
    }
}

/// A schema within a junctor, which may restrict values but not give them structure.
fn nested(v: &Value, skip_any: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    junctors(v, skip_any, false, path, errors);
    if let Some(items) = object(v, "items") {
        nested(items, false, &path.child("items"), errors);
    }
    let at_properties = path.child("properties");
    for (name, property) in properties(v) {
        nested(property, false, &at_properties.key(name), errors);
        if name == "metadata" {
            errors.forbidden(&at_properties.key(name), "must not be specified in a nested context");
        }
    }
    for key in ["type", "title", "description"] {
        if !text(v, key).is_empty() {
            errors.forbidden(&path.child(key), "must be empty to be structural");
        }
    }
    for key in ["additionalProperties", "default", "x-kubernetes-list-type", "x-kubernetes-map-type"] {
        if present(v, key) {
            errors.forbidden(&path.child(key), "must be undefined to be structural");
        }
    }
    for key in ["nullable", PRESERVE, EMBEDDED, INT_OR_STRING] {
        if flag(v, key) {
            errors.forbidden(&path.child(key), "must be false to be structural");
        }
    }
    for key in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
        if !list(v, key).is_empty() {
            errors.forbidden(&path.child(key), "must be empty to be structural");
        }
    }
}

/// Whatever a junctor speaks of must be specified outside of it too.
fn value_completeness(v: &Value, s: &Value, sp: &Path<'_>, vp: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(not) = object(v, "not") {
        completeness(not, Some(s), sp, &vp.child("not"), errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let at = vp.child(key);
        for (index, inner) in list(v, key).iter().enumerate() {
            completeness(inner, Some(s), sp, &at.index(index), errors);
        }
    }
}

fn completeness(v: &Value, s: Option<&Value>, sp: &Path<'_>, vp: &Path<'_>, errors: &mut FieldErrors) {
    let Some(s) = s else {
        errors.required(sp, format!("because it is defined in {vp}"));
        return;
    };
    value_completeness(v, s, sp, vp, errors);
    if let Some(items) = object(v, "items") {
        completeness(items, object(s, "items"), &sp.child("items"), &vp.child("items"), errors);
    }
    let (sp_properties, vp_properties) = (sp.child("properties"), vp.child("properties"));
    for (name, property) in properties(v) {
        let known = s.get("properties").and_then(|p| p.get(name));
        completeness(property, known, &sp_properties.key(name), &vp_properties.key(name), errors);
    }
}
