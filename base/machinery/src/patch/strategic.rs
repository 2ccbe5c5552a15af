//! Strategic merge patch: a merge patch that knows, from the schema, which lists merge and by what key.

use super::go_print;
use crate::schema::{Field, Schema, Shape, Strategic, TypeId};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("unknown patch type: {0} in map: {1}")]
    UnknownDirective(String, String),
    #[error("map: {0} does not contain declared merge key: {1}")]
    NoMergeKey(String, String),
    #[error("expected a {0}, but received a {1}")]
    WrongType(&'static str, &'static str),
    #[error("cannot merge lists without merge key for {0}")]
    NoKeyDeclared(String),
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirectiveInList,
    #[error("value for key {0} is not a map")]
    NotAMap(usize),
    #[error("list element types are not identical: {0}")]
    MixedList(String),
    #[error("The order in patch list:\n{0}\n doesn't match $setElementOrder list:\n{1}\n")]
    Order(String, String),
}

/// Applies `patch` to `original`, both objects of type `ty`.
pub fn apply(original: Value, patch: Value, schema: &Schema, ty: TypeId) -> Result<Value, Error> {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => {
            merge_map(original, patch, At { schema, shape: Some(&Shape::Struct(ty)) }).map(Value::Object)
        }
        (_, patch) => Err(Error::WrongType("map[string]interface {}", go_type(&patch))),
    }
}

/// Where the merge stands in the schema; `None` where the schema says nothing.
#[derive(Clone, Copy)]
struct At<'s> {
    schema: &'s Schema,
    shape: Option<&'s Shape>,
}

impl<'s> At<'s> {
    fn field(self, key: &str) -> Option<&'s Field> {
        match self.shape {
            Some(Shape::Struct(ty)) => self.schema.get(*ty).field(key),
            _ => None,
        }
    }

    fn child(self, key: &str) -> At<'s> {
        let shape = match self.shape {
            Some(Shape::Map(map)) => Some(&map.value),
            _ => self.field(key).map(|f| &f.shape),
        };
        At { schema: self.schema, shape }
    }

    fn item(self) -> At<'s> {
        let shape = match self.shape {
            Some(Shape::List(list)) => Some(&list.item),
            _ => None,
        };
        At { schema: self.schema, shape }
    }

    fn name(self) -> String {
        match self.shape {
            Some(Shape::Struct(ty)) => self.schema.get(*ty).name.rsplit('.').next().unwrap_or("").to_string(),
            _ => String::new(),
        }
    }

    fn strategy(self, key: &str) -> Strategic {
        self.field(key).map(|f| f.strategic.clone()).unwrap_or_default()
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn same_type(a: &Value, b: &Value) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    at: At<'_>,
) -> Result<Map<String, Value>, Error> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => {
                let shown = go_print(directive);
                Err(Error::UnknownDirective(shown, go_print(&Value::Object(patch))))
            }
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_element_order(&mut original, &mut patch, at)?;
    for (key, value) in patch {
        let (key, deleting) = match key.strip_prefix(DELETE_PREFIX) {
            Some(list) => (list.to_string(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        match original.remove(&key) {
            Some(before) if same_type(&before, &value) => {
                if let Some(merged) = merge_value(before, value, at, &key, deleting)? {
                    original.insert(key, merged);
                }
            }
            before => {
                if deleting {
                    if let Some(before) = before {
                        original.insert(key, before);
                    }
                } else if let Some(value) = clean(discard_nulls(value)) {
                    original.insert(key, value);
                }
            }
        }
    }
    Ok(original)
}

fn merge_value(
    before: Value,
    value: Value,
    at: At<'_>,
    key: &str,
    deleting: bool,
) -> Result<Option<Value>, Error> {
    match (before, value) {
        (Value::Object(before), Value::Object(value)) => {
            if at.strategy(key).replace {
                return Ok(Some(Value::Object(value)));
            }
            merge_map(before, value, at.child(key)).map(|m| Some(Value::Object(m)))
        }
        (Value::Array(before), Value::Array(value)) => {
            let strategy = at.strategy(key);
            if strategy.merge || deleting {
                let merge_key = strategy.merge_key.as_deref().unwrap_or("");
                return merge_list(before, value, at.child(key), merge_key, deleting)
                    .map(|l| Some(Value::Array(l)));
            }
            Ok(Some(Value::Array(value)))
        }
        (_, value) => Ok(clean(value)),
    }
}

/// `$retainKeys`: everything it does not name goes.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(Error::RetainKeys) };
    let kept = |key: &str| keys.iter().any(|k| k == key);
    for (key, value) in patch.iter() {
        if !value.is_null() && !key.starts_with(DELETE_PREFIX) && !key.starts_with(ORDER_PREFIX) && !kept(key)
        {
            return Err(Error::RetainKeys);
        }
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// `$setElementOrder/x`: merges the list `x` at once and puts it in the order given; removes both from `patch`.
fn set_element_order(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    at: At<'_>,
) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER_PREFIX)).cloned().collect();
    for directive in directives {
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            Some(other) => return Err(Error::WrongType("[]interface {}", go_type(&other))),
            None => continue,
        };
        let key = directive[ORDER_PREFIX.len()..].to_string();
        let list = |value: Option<&Value>| match value {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list.clone())),
            Some(other) => Err(Error::WrongType("[]interface {}", go_type(other))),
        };
        let before = list(original.get(&key))?;
        let change = list(patch.get(&key))?;
        let strategy = at.strategy(&key);
        let merge_key = strategy.merge_key.as_deref().unwrap_or("");
        check_order(change.as_deref().unwrap_or(&[]), &order, merge_key)?;
        let server_order = before.clone().unwrap_or_default();
        let merged = match (before, change) {
            (None, None) => continue,
            (Some(before), None) => before,
            (None, Some(change)) => match clean(Value::Array(change)) {
                Some(Value::Array(list)) => list,
                _ => continue,
            },
            (Some(before), Some(change)) if strategy.merge => {
                merge_list(before, change, at.child(&key), merge_key, false)?
            }
            (Some(_), Some(change)) => change,
        };
        let (ours, theirs) = partition(merged, &order, merge_key)?;
        original.insert(key.clone(), Value::Array(arrange(ours, theirs, &order, &server_order, merge_key)));
        patch.remove(&key);
    }
    Ok(())
}

/// The items of a patch list must come in the order the directive gives.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), Error> {
    let mut rest = order.iter();
    for item in patch {
        if item.get(DIRECTIVE).is_some() {
            continue;
        }
        if !rest.any(|o| identity(o, merge_key) == identity(item, merge_key)) {
            let shown = |l: &[Value]| go_print(&Value::Array(l.to_vec()));
            return Err(Error::Order(shown(patch), shown(order)));
        }
    }
    Ok(())
}

/// What makes a list item itself: its merge key's value, or the whole scalar.
fn identity<'v>(item: &'v Value, merge_key: &str) -> Option<&'v Value> {
    match item {
        Value::Object(map) if !merge_key.is_empty() => map.get(merge_key),
        other => Some(other),
    }
}

fn position(list: &[Value], item: &Value, merge_key: &str) -> Option<usize> {
    let wanted = identity(item, merge_key);
    list.iter().position(|x| identity(x, merge_key) == wanted)
}

fn list_of_maps(lists: [&[Value]; 2]) -> Result<bool, Error> {
    let mut items = lists.into_iter().flatten();
    let Some(first) = items.next() else { return Ok(false) };
    if items.any(|v| !same_type(first, v)) {
        let shown: Vec<String> = lists.iter().map(|l| go_print(&Value::Array(l.to_vec()))).collect();
        return Err(Error::MixedList(format!("[{}]", shown.join(" "))));
    }
    Ok(first.is_object())
}

fn merge_list(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    at: At<'_>,
    merge_key: &str,
    deleting: bool,
) -> Result<Vec<Value>, Error> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if !list_of_maps([&original, &patch])? {
        if deleting {
            original.retain(|v| !patch.contains(v));
            return Ok(original);
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        let (ours, theirs) = partition(merged, &patch, "")?;
        return Ok(arrange(ours, theirs, &patch, &original, ""));
    }
    if merge_key.is_empty() {
        return Err(Error::NoKeyDeclared(at.item().name()));
    }
    let (mut base, patch) = special_elements(original, patch, merge_key)?;
    let order = base.clone();
    let mut keys = Vec::with_capacity(patch.len());
    for item in patch {
        let Value::Object(change) = item else { return Err(Error::NotAMap(0)) };
        let Some(value) = change.get(merge_key).cloned() else {
            return Err(Error::NoMergeKey(go_print(&Value::Object(change)), merge_key.into()));
        };
        match find(&base, merge_key, &value)? {
            Some(i) => {
                let Value::Object(before) = std::mem::take(&mut base[i]) else {
                    return Err(Error::NotAMap(i));
                };
                base[i] = Value::Object(merge_map(before, change, at.item())?);
            }
            None => base.push(discard_nulls(Value::Object(change))),
        }
        let mut key = Map::new();
        key.insert(merge_key.to_string(), value);
        keys.push(Value::Object(key));
    }
    let (ours, theirs) = partition(base, &keys, merge_key)?;
    Ok(arrange(ours, theirs, &keys, &order, merge_key))
}

/// Carries out `$patch: delete` and `$patch: replace` items; answers the base to merge into and what to merge.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or("")) {
            None => rest.push(item),
            Some("delete") => {
                let Some(value) = item.get(merge_key) else {
                    return Err(Error::NoMergeKey(go_print(&item), merge_key.into()));
                };
                while let Some(i) = find(&original, merge_key, value)? {
                    original.remove(i);
                }
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(Error::MergeDirectiveInList),
            Some(_) => {
                return Err(Error::UnknownDirective(go_print(&item[DIRECTIVE]), go_print(&item)));
            }
        }
    }
    Ok(if replace { (rest, Vec::new()) } else { (original, rest) })
}

fn find(list: &[Value], merge_key: &str, value: &Value) -> Result<Option<usize>, Error> {
    for (i, item) in list.iter().enumerate() {
        let Value::Object(map) = item else { return Err(Error::NotAMap(i)) };
        if map.get(merge_key) == Some(value) {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

/// Splits a merged list into the items `by` names and the others.
fn partition(merged: Vec<Value>, by: &[Value], merge_key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    if !merge_key.is_empty()
        && let Some(bad) = merged.iter().find(|v| v.get(merge_key).is_none())
    {
        return Err(Error::NoMergeKey(go_print(bad), merge_key.into()));
    }
    Ok(merged.into_iter().partition(|v| position(by, v, merge_key).is_some()))
}

/// The patch's items in the patch's order, the server's own woven in where the server's order puts them.
fn arrange(
    mut ours: Vec<Value>,
    theirs: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    merge_key: &str,
) -> Vec<Value> {
    ours.sort_by_key(|v| position(order, v, merge_key).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let mut ours = ours.into_iter().peekable();
    for item in theirs {
        let mine = position(server_order, &item, merge_key);
        while let Some(next) = ours.peek() {
            match (mine, position(server_order, next, merge_key)) {
                (Some(a), Some(b)) if a < b => break,
                _ => out.extend(ours.next()),
            }
        }
        out.push(item);
    }
    out.extend(ours);
    out
}

/// Nulls in a value that meets nothing to delete say nothing.
fn discard_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, discard_nulls(v))).collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(discard_nulls).collect()),
        other => other,
    }
}

/// Drops values that are directives, and directives inside new values.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            Some(Value::Object(map.into_iter().filter_map(|(k, v)| clean(v).map(|v| (k, v))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(clean).collect())),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin;
    use proptest::prelude::*;
    use serde_json::json;

    fn patched(original: Value, patch: Value) -> Result<Value, Error> {
        let b = builtin();
        apply(original, patch, &b.schema, b.kind("", "v1", "Pod").unwrap())
    }

    fn spec(original: Value, patch: Value) -> Value {
        patched(json!({"spec": original}), json!({"spec": patch})).unwrap()["spec"].take()
    }

    #[test]
    fn lists_merge_by_key() {
        assert_eq!(
            spec(
                json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
                json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]})
            ),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]})
        );
        assert_eq!(
            spec(
                json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}], "args": ["a"]}]}),
                json!({"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}, {"name": "Z", "value": "3"}], "args": ["b"]}]})
            ),
            json!({"containers": [{"name": "a", "env": [{"name": "Z", "value": "3"}, {"name": "Y", "value": "1"}], "args": ["b"]}]})
        );
        // Lists without a strategy are replaced.
        assert_eq!(
            spec(json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": [{"key": "b"}]})),
            json!({"tolerations": [{"key": "b"}]})
        );
    }

    #[test]
    fn directives() {
        assert_eq!(
            spec(
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"$patch": "replace"}, {"name": "c"}]})
            ),
            json!({"containers": [{"name": "c"}]})
        );
        assert_eq!(
            spec(
                json!({"securityContext": {"runAsUser": 1}}),
                json!({"securityContext": {"$patch": "replace", "runAsGroup": 2}})
            ),
            json!({"securityContext": {"runAsGroup": 2}})
        );
        assert_eq!(
            spec(
                json!({"securityContext": {"runAsUser": 1}}),
                json!({"securityContext": {"$patch": "delete"}})
            ),
            json!({"securityContext": {}})
        );
        assert_eq!(
            spec(
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]})
            ),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]})
        );
        assert_eq!(
            spec(
                json!({"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "x"}]})
            ),
            json!({"containers": [{"name": "s"}, {"name": "b", "image": "x"}, {"name": "a"}]})
        );
        let meta = patched(
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["d", "a", "c"], "finalizers": ["d"]}}),
        );
        assert_eq!(meta.unwrap(), json!({"metadata": {"finalizers": ["d", "a", "c"]}}));
        assert_eq!(spec(json!({"nodeName": "a"}), json!({"nodeName": null})), json!({}));
        assert_eq!(spec(json!({}), json!({"affinity": {"nodeAffinity": null}})), json!({"affinity": {}}));
    }

    #[test]
    fn refusals() {
        let bad = |patch| {
            patched(json!({"spec": {"containers": [{"name": "a"}]}}), json!({"spec": patch}))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            bad(json!({"containers": [{"image": "x"}]})),
            "map: map[image:x] does not contain declared merge key: name"
        );
        assert_eq!(bad(json!({"$patch": "sing"})), "unknown patch type: sing in map: map[$patch:sing]");
        assert_eq!(bad(json!({"$retainKeys": ["a"], "nodeName": "x"})), "invalid patch format of retainKeys");
        assert!(
            bad(json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}))
                .starts_with("The order in patch list:\n[map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n")
        );
    }

    proptest! {
        /// Where no list merges, a strategic patch is a merge patch.
        #[test]
        fn agrees_with_merge_patch_on_maps(a in proptest::collection::btree_map("[a-c]", "[xy]", 0..3), b in proptest::collection::btree_map("[a-c]", proptest::option::of("[xy]"), 0..3)) {
            let object = json!({"metadata": {"labels": a}});
            let patch = json!({"metadata": {"labels": b}});
            let mut want = object.clone();
            crate::patch::merge_patch::apply(&mut want, &patch);
            prop_assert_eq!(patched(object, patch).unwrap(), want);
        }

        #[test]
        fn merging_twice_is_merging_once(a in proptest::sample::subsequence(vec!["a", "b", "c", "d"], 0..=4), b in proptest::sample::subsequence(vec!["a", "b", "c", "d"], 0..=4).prop_shuffle()) {
            let list = |names: &[&str], image: &str| json!({"spec": {"containers": names.iter().map(|n| json!({"name": n, "image": image})).collect::<Vec<_>>()}});
            let once = patched(list(&a, "x"), list(&b, "y")).unwrap();
            prop_assert_eq!(patched(once.clone(), list(&b, "y")).unwrap(), once);
        }
    }
}
