//! A v3 document as gnostic's `openapi.v3.Document`, as far as clients read it in this form: paths, their
//! operations, the parameters' names, and the kinds operations speak. kubectl asks it which query parameters a
//! kind's PATCH takes.

use serde_json::Value;

/// Appends one length-delimited field.
fn field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number << 3 | 2));
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn text(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
        field(out, number, text.as_bytes());
    }
}

fn message(out: &mut Vec<u8>, number: u32, build: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    build(&mut inner);
    field(out, number, &inner);
}

pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &document["openapi"]);
    message(&mut out, 2, |info| {
        text(info, 1, &document["info"]["title"]);
        text(info, 6, &document["info"]["version"]);
    });
    message(&mut out, 4, |paths| {
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            message(paths, 1, |named| {
                field(named, 1, path.as_bytes());
                message(named, 2, |value| path_item(value, item));
            });
        }
    });
    out
}

fn path_item(out: &mut Vec<u8>, item: &Value) {
    // Numbers of `PathItem`'s operations.
    for (method, number) in
        [("get", 4), ("put", 5), ("post", 6), ("delete", 7), ("options", 8), ("head", 9), ("patch", 10)]
    {
        if item[method].is_object() {
            message(out, number, |op| operation(op, &item[method]));
        }
    }
    for p in item["parameters"].as_array().into_iter().flatten() {
        message(out, 13, |or| message(or, 1, |out| parameter(out, p)));
    }
}

fn operation(out: &mut Vec<u8>, op: &Value) {
    for tag in op["tags"].as_array().into_iter().flatten() {
        text(out, 1, tag);
    }
    text(out, 5, &op["operationId"]);
    for p in op["parameters"].as_array().into_iter().flatten() {
        message(out, 6, |or| match p["$ref"].as_str() {
            Some(reference) => message(or, 2, |r| field(r, 1, reference.as_bytes())),
            None => message(or, 1, |out| parameter(out, p)),
        });
    }
    for (name, value) in op.as_object().into_iter().flatten().filter(|(k, _)| k.starts_with("x-")) {
        message(out, 13, |named| {
            field(named, 1, name.as_bytes());
            // `Any`: the YAML of the value, which JSON is.
            message(named, 2, |any| field(any, 2, value.to_string().as_bytes()));
        });
    }
}

fn parameter(out: &mut Vec<u8>, p: &Value) {
    text(out, 1, &p["name"]);
    text(out, 2, &p["in"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_where_gnostic_has_them() {
        let out = encode(&json!({"openapi": "3.0.0", "info": {}, "paths": {"/a": {"patch": {
            "parameters": [{"name": "fieldValidation", "in": "query"}]}}}}));
        // openapi=1, empty info=2, paths=4 { path=1 { name=1 "/a", value=2 { patch=10 { parameters=6 { parameter=1
        // { name=1, in=2 }}}}}}
        let tail =
            b"\x22\x26\x0a\x24\x0a\x02/a\x12\x1e\x52\x1c\x32\x1a\x0a\x18\x0a\x0ffieldValidation\x12\x05query";
        assert_eq!(&out[..9], b"\x0a\x053.0.0\x12\x00");
        assert_eq!(&out[9..], tail);
    }
}
