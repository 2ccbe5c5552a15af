//! How messages show a structure: as Go's JSON of the type that the server works with. That one has no JSON names of
//! its own, so members bear their Go names, all of them, in the order of their declaration; types of `meta/v1` do.

mod diff;
mod forms;

use super::{Field, Schema, Shape, TypeDef, TypeId};
use crate::field::{ErrorKind, FieldErrors};
use serde_json::Value;

/// Rewrites errors that show a structure, a list of them or a map; `root` is the type their paths start from.
pub fn show(schema: &Schema, root: TypeId, errors: &mut FieldErrors) {
    for error in &mut errors.0 {
        if let (ErrorKind::Forbidden, Value::Array(change)) = (error.kind, &error.bad_value)
            && let [old, new] = change.as_slice()
            && let Some(shown) = changed(schema, root, &error.path, old, new)
        {
            error.detail.push('\n');
            error.detail.push_str(&shown);
            error.bad_value = Value::Null;
            continue;
        }
        let shown = match (error.kind, &error.bad_value) {
            (ErrorKind::Invalid, Value::Object(_) | Value::Array(_)) => {
                let found = place(schema, root, &error.path)
                    .or_else(|| place(schema, root, &format!("spec.{}", error.path)));
                found.filter(|shape| fits(schema, shape, &error.bad_value)).map(|shape| {
                    let mut out = String::new();
                    internal(schema, shape, Some(&error.bad_value), false, &mut out);
                    out
                })
            }
            _ => None,
        };
        if let Some(shown) = shown {
            error.kind = ErrorKind::InvalidUnshown;
            error.detail = if error.detail.is_empty() { shown } else { format!("{shown}: {}", error.detail) };
        }
    }
}

/// How two values of what lies at the path differ.
fn changed(schema: &Schema, root: TypeId, path: &str, old: &Value, new: &Value) -> Option<String> {
    const SOURCE: &str = "persistentvolumesource";
    let (path, source) = match path.strip_suffix(SOURCE) {
        Some(parent) => (parent.trim_end_matches('.'), true),
        None => (path, false),
    };
    // Of a list of things with names one is shown.
    let shape = match place(schema, root, path)? {
        Shape::List(list) if old.is_object() => &list.item,
        shape => shape,
    };
    let show = |value: &Value| {
        let mut out = String::new();
        match shape {
            Shape::Struct(id) if source => object(&mut out, |members| {
                let def = schema.get(*id);
                for field in forms::SOURCES.iter().filter_map(|name| def.field(name)) {
                    one(schema, def, field, Some(value), members);
                }
            }),
            shape => internal(schema, shape, Some(value), false, &mut out),
        }
        diff::pretty(&out)
    };
    Some(diff::unified(&show(old), &show(new)))
}

/// The shape that a path leads to.
fn place<'s>(schema: &'s Schema, root: TypeId, path: &str) -> Option<&'s Shape> {
    let mut def = Some(schema.get(root));
    let mut at: Option<&Shape> = None;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (_, after) = inner.split_once(']')?;
            at = Some(match at? {
                Shape::List(list) => &list.item,
                Shape::Map(map) => &map.value,
                _ => return None,
            });
            rest = after;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            at = Some(&def?.field(&rest[..end])?.shape);
            rest = &rest[end..];
        }
        def = match at? {
            Shape::Struct(id) => Some(schema.get(*id)),
            _ => None,
        };
    }
    at
}

/// Whether the value is one of the shape, and not already in Go's words.
fn fits(schema: &Schema, shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Struct(id), Value::Object(map)) => {
            let def = schema.get(*id);
            !def.go.is_empty() && map.keys().all(|name| def.field(name).is_some())
        }
        (Shape::List(list), Value::Array(items)) => items.iter().all(|item| fits(schema, &list.item, item)),
        (Shape::Map(map), Value::Object(members)) => members.values().all(|m| fits(schema, &map.value, m)),
        (Shape::Struct(_) | Shape::List(_) | Shape::Map(_), other) => other.is_null(),
        (_, value) => !value.is_object() && !value.is_array(),
    }
}

/// Text as Go's encoder writes it: markup is escaped.
fn quoted(text: &str, out: &mut String) {
    for c in Value::from(text).to_string().chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            c => out.push(c),
        }
    }
}

fn scalar(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => quoted(text, out),
        other => out.push_str(&other.to_string()),
    }
}

struct Members<'o> {
    out: &'o mut String,
    first: bool,
}

impl Members<'_> {
    fn next(&mut self, name: &str) -> &mut String {
        if !std::mem::take(&mut self.first) {
            self.out.push(',');
        }
        quoted(name, self.out);
        self.out.push(':');
        self.out
    }
}

fn object(out: &mut String, f: impl FnOnce(&mut Members<'_>)) {
    out.push('{');
    f(&mut Members { out, first: true });
    out.push('}');
}

fn list(out: &mut String, items: &[Value], mut f: impl FnMut(&Value, &mut String)) {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        f(item, out);
    }
    out.push(']');
}

/// Whether the type is one of `meta/v1`, which the server works with as it is.
fn is_meta(def: &TypeDef) -> bool {
    def.name.starts_with("io.k8s.apimachinery.")
}

/// The value in the words of the server's own types.
fn internal(schema: &Schema, shape: &Shape, value: Option<&Value>, pointer: bool, out: &mut String) {
    let value = value.filter(|v| !v.is_null());
    match (shape, value) {
        (Shape::Struct(_) | Shape::Quantity | Shape::IntOrString | Shape::Duration, None) if pointer => {
            out.push_str("null");
        }
        (Shape::Struct(id), value) => {
            let def = schema.get(*id);
            if is_meta(def) {
                object(out, |members| tagged_members(schema, def, value, members));
            } else {
                object(out, |members| internal_members(schema, def, value, members));
            }
        }
        (Shape::List(shape), Some(Value::Array(items))) => {
            list(out, items, |item, out| internal(schema, &shape.item, Some(item), false, out));
        }
        (Shape::Map(shape), Some(Value::Object(map))) => object(out, |members| {
            for (name, value) in map {
                internal(schema, &shape.value, Some(value), false, members.next(name));
            }
        }),
        (_, Some(value)) => scalar(value, out),
        (_, None) if pointer => out.push_str("null"),
        (Shape::Bool, None) => out.push_str("false"),
        (Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString, None) => out.push('0'),
        (Shape::String, None) => out.push_str("\"\""),
        (Shape::Quantity, None) => out.push_str("\"0\""),
        (Shape::Duration, None) => out.push_str("\"0s\""),
        (_, None) => out.push_str("null"),
    }
}

fn internal_members(schema: &Schema, def: &TypeDef, value: Option<&Value>, members: &mut Members<'_>) {
    let order = forms::order(def.go);
    if order.is_empty() {
        def.fields.iter().for_each(|field| one(schema, def, field, value, members));
        return;
    }
    for field in order.iter().filter_map(|name| def.field(name)) {
        match (&field.shape, def.go, field.name.as_str()) {
            (Shape::Struct(id), "PodSpec", "securityContext") => {
                let context = value.and_then(|v| v.get("securityContext"));
                object(members.next("SecurityContext"), |members| {
                    for host in forms::HOST.iter().filter_map(|name| def.field(name)) {
                        one(schema, def, host, value, members);
                    }
                    internal_members(schema, schema.get(*id), context, members);
                });
            }
            _ => one(schema, def, field, value, members),
        }
    }
}

/// One member of `value`, which is a `def`.
fn one(schema: &Schema, def: &TypeDef, field: &Field, value: Option<&Value>, members: &mut Members<'_>) {
    let member = value.and_then(|v| v.get(&field.name));
    match &field.shape {
        // Embedded, so its members stand here.
        Shape::Struct(id) if field.name == "metadata" => {
            tagged_members(schema, schema.get(*id), member, members);
        }
        Shape::String if matches!(field.name.as_str(), "kind" | "apiVersion") && is_typed(def) => {}
        shape => {
            let name = forms::name(def.go, &field.name).map_or_else(|| go_name(&field.name), str::to_owned);
            internal(schema, shape, member, field.pointer, members.next(&name));
        }
    }
}

/// Whether the type is a whole object.
fn is_typed(def: &TypeDef) -> bool {
    ["kind", "apiVersion", "metadata"].iter().all(|name| def.field(name).is_some())
}

/// The members of a type with JSON names, without those that are left out.
fn tagged_members(schema: &Schema, def: &TypeDef, value: Option<&Value>, members: &mut Members<'_>) {
    let kept = |field: &&Field| {
        let given = value.and_then(|v| v.get(&field.name)).filter(|v| !v.is_null());
        field.always() && !field.omit_zero || given.is_some_and(|v| field.pointer || !is_empty(v))
    };
    for field in def.fields.iter().filter(kept) {
        let member = value.and_then(|v| v.get(&field.name));
        internal(schema, &field.shape, member, field.pointer, members.next(&field.name));
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Words that Go writes in capitals.
const CAPITALS: &[&str] = &[
    "api", "aws", "ca", "cel", "cidr", "cpu", "csi", "dns", "fc", "fs", "gce", "gid", "grpc", "gmsa", "http",
    "id", "ip", "iscsi", "json", "nfs", "os", "pd", "pid", "rbd", "se", "sctp", "tcp", "tls", "tty", "ttl",
    "uid", "url", "wwids",
];

/// A field's Go name, from its JSON name.
fn go_name(name: &str) -> String {
    let end = name.find(|c: char| c.is_ascii_uppercase()).unwrap_or(name.len());
    let (first, rest) = name.split_at(end);
    match first {
        "wwids" => format!("WWIDs{rest}"),
        "ips" | "cidrs" => format!("{}s{rest}", first.trim_end_matches('s').to_ascii_uppercase()),
        "cephfs" => format!("CephFS{rest}"),
        _ if CAPITALS.contains(&first) => first.to_ascii_uppercase() + rest,
        _ => {
            let mut chars = first.chars();
            let head = chars.next().map(|c| c.to_ascii_uppercase());
            head.into_iter().chain(chars).chain(rest.chars()).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;
    use crate::schema::builtin;
    use serde_json::json;

    #[test]
    fn members_bear_go_names_in_their_order() {
        for (name, go) in [
            ("cel", "CEL"),
            ("podIP", "PodIP"),
            ("fsType", "FSType"),
            ("hostPID", "HostPID"),
            ("name", "Name"),
        ] {
            assert_eq!(go_name(name), go);
        }
        let root = builtin().kind("resource.k8s.io", "v1", "ResourceClaim").unwrap();
        let mut errors = FieldErrors::new();
        let spec = json!({"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "c", "count": 1}}]}});
        errors.invalid(&Path::new("spec"), spec, "field is immutable");
        errors.invalid(&Path::new("spec"), json!({"Own": 1}), "x");
        show(&builtin().schema, root, &mut errors);
        assert_eq!(
            errors.0[0].to_string(),
            "spec: Invalid value: {\"Devices\":{\"Requests\":[{\"Name\":\"a\",\"Exactly\":{\"DeviceClassName\":\"c\",\"Selectors\":null,\"AllocationMode\":\"\",\"Count\":1,\"AdminAccess\":null,\"Tolerations\":null,\"Capacity\":null},\"FirstAvailable\":null}],\"Constraints\":null,\"Config\":null}}: field is immutable"
        );
        assert_eq!(errors.0[1].to_string(), "spec: Invalid value: {\"Own\":1}: x");
    }
}
