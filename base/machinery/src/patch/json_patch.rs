//! JSON patch (RFC 6902), with the error texts and limits of the library upstream uses.

use serde_json::Value;

/// Most operations one patch may have.
pub const MAX_OPERATIONS: usize = 10_000;
/// Most bytes the `copy` operations of one patch may add.
const COPY_LIMIT: usize = 3 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The patch itself cannot be read: 400.
    #[error("{0}")]
    Malformed(String),
    /// 413.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// It does not apply to this document: 422.
    #[error("{0}")]
    DoesNotApply(String),
}

const MISSING: &str = "missing value";
const FAILED: &str = "test failed";
const BAD_INDEX: &str = "invalid index referenced";

fn no<T>(message: String) -> Result<T, Error> {
    Err(Error::DoesNotApply(message))
}

/// Applies the operations of `patch` (a JSON array) in order; on an error nothing can be said of `document`.
pub fn apply(document: &mut Value, patch: &Value) -> Result<(), Error> {
    if patch.is_null() {
        return Ok(());
    }
    let Some(operations) = patch.as_array() else {
        return Err(Error::Malformed(format!(
            "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            kind_name(patch)
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Error::TooManyOperations(operations.len()));
    }
    let mut copied = 0;
    for operation in operations {
        if !operation.is_object() {
            return Err(Error::Malformed(format!(
                "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                kind_name(operation)
            )));
        }
        let kind = operation.get("op").and_then(Value::as_str).unwrap_or("unknown");
        match kind {
            "add" => add(document, operation)?,
            "remove" => {
                let path = text(operation, "path", "remove operation failed to decode path")?;
                remove(document, path)?;
            }
            "replace" => replace(document, operation)?,
            "move" => relocate(document, operation)?,
            "test" => test(document, operation)?,
            "copy" => copy(document, operation, &mut copied)?,
            other => return no(format!("Unexpected kind: {other}")),
        }
    }
    Ok(())
}

fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn text<'a>(operation: &'a Value, member: &str, what: &str) -> Result<&'a str, Error> {
    match operation.get(member).and_then(Value::as_str) {
        Some(path) => Ok(path),
        None if member == "from" => no(format!("{what}: operation, missing from field: {MISSING}")),
        None => no(format!("{what}: operation missing path field: {MISSING}")),
    }
}

fn unescape(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

/// The container a pointer's last segment stands in, and that segment.
fn container<'a>(document: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parents, last) = path.rsplit_once('/')?;
    let mut at = document;
    for segment in parents.split('/').skip(1) {
        let key = unescape(segment);
        at = match at {
            Value::Object(map) => map.get_mut(&key)?,
            Value::Array(items) => {
                let index = index_of(&key, items.len()).ok()?;
                &mut items[index]
            }
            _ => return None,
        };
    }
    (at.is_object() || at.is_array()).then(|| (at, unescape(last)))
}

/// An index into a list of `len`; negative ones count from the end, as the library allows.
fn index_of(key: &str, len: usize) -> Result<usize, String> {
    let index: i64 = key
        .parse()
        .map_err(|_| format!("strconv.Atoi: parsing {}: invalid syntax", crate::field::quote(key)))?;
    let real = if index < 0 { index + len as i64 } else { index };
    if real < 0 || real >= len as i64 {
        return Err(format!("Unable to access invalid index: {index}: {BAD_INDEX}"));
    }
    Ok(real as usize)
}

/// What is at the pointer; `Ok(None)` for a map's missing key.
fn lookup<'a>(at: &'a Value, key: &str) -> Result<Option<&'a Value>, String> {
    match at {
        Value::Object(map) => Ok(map.get(key)),
        Value::Array(items) => index_of(key, items.len()).map(|i| items.get(i)),
        _ => Ok(None),
    }
}

fn insert(at: &mut Value, key: String, value: Value) -> Result<(), String> {
    match at {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let index: i64 = key.parse().map_err(|_| {
                format!(
                    "value was not a proper array index: '{key}': strconv.Atoi: parsing {}: invalid syntax",
                    crate::field::quote(&key)
                )
            })?;
            let real = if index < 0 { index + items.len() as i64 + 1 } else { index };
            if real < 0 || real > items.len() as i64 {
                return Err(format!("Unable to access invalid index: {index}: {BAD_INDEX}"));
            }
            items.insert(real as usize, value);
        }
        _ => {}
    }
    Ok(())
}

fn take(at: &mut Value, key: &str) -> Result<Value, String> {
    match at {
        Value::Object(map) => {
            map.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: {MISSING}"))
        }
        Value::Array(items) => index_of(key, items.len()).map(|i| items.remove(i)),
        _ => Err(format!("Unable to remove nonexistent key: {key}: {MISSING}")),
    }
}

fn add(document: &mut Value, operation: &Value) -> Result<(), Error> {
    let path = text(operation, "path", "add operation failed to decode path")?;
    let value = operation.get("value").cloned().unwrap_or(Value::Null);
    let Some((at, key)) = container(document, path) else {
        return no(format!("add operation does not apply: doc is missing path: \"{path}\": {MISSING}"));
    };
    insert(at, key, value).or_else(|e| no(format!("error in add for path: '{path}': {e}")))
}

fn remove(document: &mut Value, path: &str) -> Result<Value, Error> {
    let Some((at, key)) = container(document, path) else {
        return no(format!("remove operation does not apply: doc is missing path: \"{path}\": {MISSING}"));
    };
    take(at, &key).or_else(|e| no(format!("error in remove for path: '{path}': {e}")))
}

fn replace(document: &mut Value, operation: &Value) -> Result<(), Error> {
    let path = text(operation, "path", "replace operation failed to decode path")?;
    let value = operation.get("value").cloned().unwrap_or(Value::Null);
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return no("replace operation value must be object or array".into());
        }
        *document = value;
        return Ok(());
    }
    let Some((at, key)) = container(document, path) else {
        return no(format!("replace operation does not apply: doc is missing path: {path}: {MISSING}"));
    };
    // A member of an object need not be there: the library upstream uses cannot tell it from a null.
    match lookup(at, &key) {
        Ok(Some(_)) => {}
        Ok(None) if at.is_object() => {}
        _ => return no(format!("replace operation does not apply: doc is missing key: {path}: {MISSING}")),
    }
    match at {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(items) => {
            let index = index_of(&key, items.len()).or_else(no)?;
            items[index] = value;
        }
        _ => {}
    }
    Ok(())
}

fn relocate(document: &mut Value, operation: &Value) -> Result<(), Error> {
    let from = text(operation, "from", "move operation failed to decode from")?;
    let Some((at, key)) = container(document, from) else {
        return no(format!("move operation does not apply: doc is missing from path: {from}: {MISSING}"));
    };
    let value = take(at, &key).or_else(|e| no(format!("error in move for path: '{key}': {e}")))?;
    let path = text(operation, "path", "move operation failed to decode path")?;
    let Some((at, key)) = container(document, path) else {
        return no(format!(
            "move operation does not apply: doc is missing destination path: {path}: {MISSING}"
        ));
    };
    insert(at, key, value).or_else(|e| no(format!("error in move for path: '{path}': {e}")))
}

fn test(document: &mut Value, operation: &Value) -> Result<(), Error> {
    let path = text(operation, "path", "test operation failed to decode path")?;
    let want = operation.get("value").unwrap_or(&Value::Null);
    let failed = || no(format!("testing value {path} failed: {FAILED}"));
    if path.is_empty() {
        return if *document == *want { Ok(()) } else { failed() };
    }
    let Some((at, key)) = container(document, path) else {
        return no(format!("test operation does not apply: is missing path: {path}: {MISSING}"));
    };
    match lookup(at, &key) {
        Ok(have) if same(have.unwrap_or(&Value::Null), want) => Ok(()),
        Ok(_) => failed(),
        Err(e) => no(format!("error in test for path: '{path}': {e}")),
    }
}

/// JSON equality; `1` and `1.0` differ in text but not in value.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

fn copy(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), Error> {
    let from = text(operation, "from", "copy operation failed to decode from")?;
    let Some((at, key)) = container(document, from) else {
        return no(format!("copy operation does not apply: doc is missing from path: \"{from}\": {MISSING}"));
    };
    let value = match lookup(at, &key) {
        Ok(value) => value.cloned().unwrap_or(Value::Null),
        Err(e) => return no(format!("error in copy for from: '{from}': {e}")),
    };
    let path = text(operation, "path", "copy operation failed to decode path")?;
    *copied += value.to_string().len();
    if *copied > COPY_LIMIT {
        return no(format!(
            "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {COPY_LIMIT}"
        ));
    }
    let Some((at, key)) = container(document, path) else {
        return no(format!(
            "copy operation does not apply: doc is missing destination path: {path}: {MISSING}"
        ));
    };
    insert(at, key, value).or_else(|e| no(format!("error while adding value during copy: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::merge_patch::tests::any_json;
    use proptest::prelude::*;
    use serde_json::json;

    fn run(mut doc: Value, patch: Value) -> Result<Value, String> {
        apply(&mut doc, &patch).map(|()| doc).map_err(|e| e.to_string())
    }

    #[test]
    fn operations() {
        let doc = json!({"a": {"b/c": 1}, "l": [1, 2, 3]});
        let cases = [
            (
                json!([{"op": "add", "path": "/a/x", "value": 2}]),
                json!({"a": {"b/c": 1, "x": 2}, "l": [1, 2, 3]}),
            ),
            (json!([{"op": "add", "path": "/l/1", "value": 9}]), json!({"a": {"b/c": 1}, "l": [1, 9, 2, 3]})),
            (json!([{"op": "add", "path": "/l/-", "value": 9}]), json!({"a": {"b/c": 1}, "l": [1, 2, 3, 9]})),
            (json!([{"op": "remove", "path": "/a/b~1c"}]), json!({"a": {}, "l": [1, 2, 3]})),
            (
                json!([{"op": "replace", "path": "/l/0", "value": {}}]),
                json!({"a": {"b/c": 1}, "l": [{}, 2, 3]}),
            ),
            (
                json!([{"op": "move", "from": "/l/0", "path": "/a/f"}]),
                json!({"a": {"b/c": 1, "f": 1}, "l": [2, 3]}),
            ),
            (
                json!([{"op": "copy", "from": "/a", "path": "/z"}]),
                json!({"a": {"b/c": 1}, "l": [1, 2, 3], "z": {"b/c": 1}}),
            ),
            (json!([{"op": "test", "path": "/l", "value": [1, 2, 3]}]), doc.clone()),
            (json!([{"op": "test", "path": "/none", "value": null}]), doc.clone()),
        ];
        for (patch, want) in cases {
            assert_eq!(run(doc.clone(), patch.clone()), Ok(want), "{patch}");
        }
    }

    #[test]
    fn refusals() {
        let doc = json!({"a": 1, "l": []});
        for (patch, want) in [
            (json!({}), "json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
            (json!([{"op": "x", "path": "/a"}]), "Unexpected kind: x"),
            (
                json!([{"op": "remove", "path": "/b"}]),
                "error in remove for path: '/b': Unable to remove nonexistent key: b: missing value",
            ),
            (
                json!([{"op": "replace", "path": "/b/c", "value": 1}]),
                "replace operation does not apply: doc is missing path: /b/c: missing value",
            ),
            (
                json!([{"op": "add", "path": "/b/c", "value": 1}]),
                "add operation does not apply: doc is missing path: \"/b/c\": missing value",
            ),
            (
                json!([{"op": "add", "path": "/l/1", "value": 1}]),
                "error in add for path: '/l/1': Unable to access invalid index: 1: invalid index referenced",
            ),
            (json!([{"op": "test", "path": "/a", "value": 2}]), "testing value /a failed: test failed"),
            (
                json!([{"op": "add", "value": 2}]),
                "add operation failed to decode path: operation missing path field: missing value",
            ),
        ] {
            assert_eq!(run(doc.clone(), patch), Err(want.to_string()));
        }
        let many = Value::Array(vec![json!({"op": "test", "path": "/a", "value": 1}); 10_001]);
        assert_eq!(
            run(doc, many),
            Err("The allowed maximum operations in a JSON patch is 10000, got 10001".into())
        );
    }

    proptest! {
        #[test]
        fn add_then_remove_is_identity(doc in any_json(), value in any_json(), key in "[xyz/~]{1,3}") {
            prop_assume!(doc.is_object() && doc.get(&key).is_none());
            let path = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
            let patch = json!([{"op": "add", "path": path, "value": value}, {"op": "test", "path": path, "value": value}, {"op": "remove", "path": path}]);
            prop_assert_eq!(run(doc.clone(), patch), Ok(doc));
        }
    }
}
