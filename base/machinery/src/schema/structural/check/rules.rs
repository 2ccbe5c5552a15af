//! What OpenAPI v3 has and a definition may not, and the rules of lists and maps. Source: `validation.go`'s
//! `ValidateCustomResourceDefinitionOpenAPISchema`.

use super::{flag, list, object, present, properties, text};
use crate::field::{FieldErrors, Path};
use serde_json::Value;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Upstream's names of what may stand at the root beside the status subresource, and ours.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields"),
    ("XValidations", "x-kubernetes-validations"),
];

/// With the status subresource, `status` is validated on its own; nothing at the root may speak of it.
pub(super) fn root_under_status(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, value) in schema.as_object().into_iter().flatten() {
        if value.is_null() || *value == Value::Bool(false) {
            continue;
        }
        if key == "type" {
            if value != "object" {
                let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
                errors.invalid(&path.child("type"), value.clone(), detail);
                return;
            }
            continue;
        }
        if !AT_ROOT.iter().any(|(_, json)| json == key) {
            let all: Vec<&str> = AT_ROOT.iter().map(|(go, _)| *go).collect();
            let detail = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                all.join(" ")
            );
            errors.invalid(path, schema.clone(), detail);
            return;
        }
    }
}

/// What is different on the way down.
#[derive(Clone, Copy, Default)]
struct Place {
    inside_meta: bool,
    /// Why no default may stand here; empty where one may.
    no_defaults: &'static str,
}

pub(super) fn openapi(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    walk(schema, path, Place::default(), true, errors);
}

fn walk(s: &Value, path: &Path<'_>, place: Place, root: bool, errors: &mut FieldErrors) {
    unsupported(s, path, place, errors);
    if flag(s, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), detail);
    }
    if let Some(additional) = s.get("additionalProperties").filter(|a| !a.is_null()) {
        let at = path.child("additionalProperties");
        if properties(s).next().is_some() && *additional != Value::Bool(true) {
            errors.forbidden(&at, "additionalProperties and properties are mutual exclusive");
        }
        if additional.is_object() {
            let no_defaults = if place.inside_meta {
                "inside additionalProperties applying to object metadata"
            } else {
                place.no_defaults
            };
            walk(additional, &at, Place { no_defaults, ..place }, false, errors);
        }
    }
    let at_properties = path.child("properties");
    for (name, property) in properties(s) {
        let mut inner = place;
        if root || flag(s, "x-kubernetes-embedded-resource") {
            let top = match name.as_str() {
                "metadata" => "in top-level metadata",
                "kind" => "in top-level kind",
                "apiVersion" => "in top-level apiVersion",
                _ => "",
            };
            inner.inside_meta |= !top.is_empty();
            if root && !top.is_empty() {
                inner.no_defaults = top;
            }
        }
        walk(property, &at_properties.key(name), inner, false, errors);
    }
    if let Some(not) = object(s, "not") {
        walk(not, &path.child("not"), place, false, errors);
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        let at = path.child(key);
        for (index, inner) in list(s, key).iter().enumerate() {
            walk(inner, &at.index(index), place, false, errors);
        }
    }
    if let Some(items) = object(s, "items") {
        walk(items, &path.child("items"), place, false, errors);
    }
    if s.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        errors.invalid(
            &path.child("x-kubernetes-preserve-unknown-fields"),
            false,
            "must be true or undefined",
        );
    }
    map_type(s, path, errors);
    list_type(s, path, errors);
    map_keys(s, path, errors);
    associative(s, path, errors);
}

fn unsupported(s: &Value, path: &Path<'_>, place: Place, errors: &mut FieldErrors) {
    let ty = text(s, "type");
    if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.not_supported(&path.child("type"), ty, &TYPES);
    }
    if present(s, "default") && !place.no_defaults.is_empty() {
        errors.forbidden(&path.child("default"), format!("must not be set {}", place.no_defaults));
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let empty =
            s.get(key).is_none_or(|v| v.is_null() || v == "" || v.as_object().is_some_and(|m| m.is_empty()));
        if !empty {
            errors.forbidden(&path.child(key), format!("{key} is not supported"));
        }
    }
    if ty == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(&path.child("type"), detail);
    }
    if s.get("items").is_some_and(Value::is_array) {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if place.inside_meta && flag(s, "x-kubernetes-embedded-resource") {
        let detail = "must not be used inside of resource meta";
        errors.forbidden(&path.child("x-kubernetes-embedded-resource"), detail);
    }
}

fn wrong_type(s: &Value, path: &Path<'_>, detail: &str, errors: &mut FieldErrors) {
    let at = path.child("type");
    match text(s, "type") {
        "" => errors.required(&at, detail),
        ty => errors.invalid(&at, ty, detail),
    }
}

fn map_type(s: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !present(s, "x-kubernetes-map-type") {
        return;
    }
    if text(s, "type") != "object" {
        wrong_type(s, path, "must be object if x-kubernetes-map-type is specified", errors);
    }
    let kind = text(s, "x-kubernetes-map-type");
    if !matches!(kind, "atomic" | "granular") {
        errors.not_supported(&path.child("x-kubernetes-map-type"), kind, &["atomic", "granular"]);
    }
}

fn list_type(s: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !present(s, "x-kubernetes-list-type") {
        return;
    }
    let kind = text(s, "x-kubernetes-list-type");
    let items = object(s, "items");
    if text(s, "type") != "array" {
        wrong_type(s, path, "must be array if x-kubernetes-list-type is specified", errors);
    } else if let Some(items) = items.filter(|_| kind == "set") {
        let at = path.child("items");
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (lists, maps) = (text(items, "x-kubernetes-list-type"), text(items, "x-kubernetes-map-type"));
        match text(items, "type") {
            "array" if !matches!(lists, "" | "atomic") => {
                errors.invalid(&at.child("x-kubernetes-list-type"), lists, detail);
            }
            "object" if maps != "atomic" => {
                let shown = if lists.is_empty() { Value::Null } else { lists.into() };
                errors.invalid(&at.child("x-kubernetes-map-type"), shown, detail);
            }
            _ => {}
        }
    }
    if !matches!(kind, "atomic" | "set" | "map") {
        errors.not_supported(&path.child("x-kubernetes-list-type"), kind, &["atomic", "set", "map"]);
    }
}

fn map_keys(s: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let keys = list(s, "x-kubernetes-list-map-keys");
    let kind = text(s, "x-kubernetes-list-type");
    if !keys.is_empty() && kind != "map" {
        let (at, detail) =
            (path.child("x-kubernetes-list-type"), "must be map if x-kubernetes-list-map-keys is non-empty");
        if present(s, "x-kubernetes-list-type") {
            errors.invalid(&at, kind, detail);
        } else {
            errors.required(&at, detail);
        }
    }
    if kind != "map" {
        return;
    }
    let at_keys = path.child("x-kubernetes-list-map-keys");
    let at_items = path.child("items");
    if keys.is_empty() {
        errors.required(&at_keys, "must not be empty if x-kubernetes-list-type is map");
    }
    if !present(s, "items") {
        errors.required(&at_items, "must have a schema if x-kubernetes-list-type is map");
    }
    let Some(items) = object(s, "items") else { return };
    if text(items, "type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.invalid(&at_items.child("type"), text(items, "type"), detail);
        return;
    }
    let at_properties = at_items.child("properties");
    for (index, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        match items.get("properties").and_then(|p| p.get(name)) {
            Some(property) if matches!(text(property, "type"), "array" | "object") => {
                let at = at_properties.key(name);
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.invalid(&at.child("type"), text(items, "type"), detail);
            }
            Some(_) => {}
            None => {
                let all = Value::Array(keys.to_vec());
                errors.invalid(&at_keys, all, "entries must all be names of item properties");
            }
        }
        if keys[..index].contains(key) {
            errors.invalid(&at_keys, Value::Array(keys.to_vec()), "must not contain duplicate entries");
        }
    }
}

/// Items that can be told apart: none is null, and each key is always there.
fn associative(s: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = text(s, "x-kubernetes-list-type");
    let Some(items) = object(s, "items").filter(|_| matches!(kind, "set" | "map")) else { return };
    let at = path.child("items");
    if flag(items, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errors.forbidden(&at.child("nullable"), detail);
    }
    if kind != "map" {
        return;
    }
    let at_properties = at.child("properties");
    for key in list(s, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str) {
        let Some(property) = items.get("properties").and_then(|p| p.get(key)) else { continue };
        let at = at_properties.key(key);
        let required = list(items, "required").iter().any(|r| r == key);
        if !required && !present(property, "default") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&at.child("default"), detail);
        }
        if flag(property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&at.child("nullable"), detail);
        }
    }
}

/// Formats upstream knows; others are taken, with a warning. Source: kube-openapi's `strfmt` and `formats.go`.
const FORMATS: &[&str] = &[
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "date-time",
    "datetime",
    "int32",
    "int64",
    "float",
    "double",
    "k8s-short-name",
    "k8s-long-name",
];

pub(super) fn warnings(schema: &Value) -> Vec<String> {
    let mut out = Vec::new();
    collect(schema, &mut out);
    out
}

fn collect(s: &Value, out: &mut Vec<String>) {
    let format = text(s, "format");
    if !format.is_empty() && !FORMATS.contains(&format.replace('_', "-").as_str()) {
        out.push(format!("unrecognized format {format:?}"));
    }
    if text(s, "x-kubernetes-list-type") == "set"
        && let Some(ty) =
            object(s, "items").map(|i| text(i, "type")).filter(|t| matches!(*t, "object" | "array"))
    {
        out.push(format!(
            "x-kubernetes-list-type: set for items of type {ty:?} is not supported by server-side apply or CEL validation rules"
        ));
    }
    for key in ["items", "not", "additionalProperties"] {
        if let Some(inner) = object(s, key) {
            collect(inner, out);
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        list(s, key).iter().for_each(|inner| collect(inner, out));
    }
    properties(s).for_each(|(_, inner)| collect(inner, out));
}
