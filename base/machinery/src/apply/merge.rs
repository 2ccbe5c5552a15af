//! Merging an applied configuration into the live object, and taking away what an applier gave up.

use super::set::{PathElement, Set};
use super::typed::{self, Kind};
use crate::schema::{ListShape, Schema, Shape};
use serde_json::{Map, Value};

/// The merge of `new` into `old`: members of `new` win, everything else stays. `None`: nothing is left to say.
pub(super) fn merge(
    schema: &Schema,
    of: Kind<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Option<Value> {
    let resolved = match (old, new) {
        (_, Some(new)) => typed::resolve(of, new),
        (Some(old), None) => typed::resolve(of, old),
        (None, None) => return None,
    };
    let keep = || new.or(old).cloned();
    match resolved {
        Kind::Leaf => keep(),
        Kind::List(list) => {
            let (a, b) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            match (a.filter(|l| !l.is_empty()), b.filter(|l| !l.is_empty())) {
                (None, None) => keep(),
                (Some(a), None) => Some(Value::Array(a.clone())),
                (a, Some(b)) => {
                    let merged = merge_lists(schema, list, a.map_or(&[], Vec::as_slice), b);
                    (!merged.is_empty()).then_some(Value::Array(merged))
                }
            }
        }
        of => {
            let (a, b) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            match (a.filter(|m| !m.is_empty()), b.filter(|m| !m.is_empty())) {
                (None, None) => keep(),
                (Some(a), None) => Some(Value::Object(a.clone())),
                (a, Some(b)) => Some(Value::Object(merge_maps(schema, of, a, b))),
            }
        }
    }
}

fn merge_maps(
    schema: &Schema,
    of: Kind<'_>,
    old: Option<&Map<String, Value>>,
    new: &Map<String, Value>,
) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in old.into_iter().flatten() {
        match new.get(name) {
            None => {
                out.insert(name.clone(), value.clone());
            }
            Some(change) => insert(schema, of, &mut out, name, Some(value), change),
        }
    }
    for (name, change) in new {
        if !old.is_some_and(|o| o.contains_key(name)) {
            insert(schema, of, &mut out, name, None, change);
        }
    }
    out
}

fn insert(
    schema: &Schema,
    of: Kind<'_>,
    out: &mut Map<String, Value>,
    name: &str,
    old: Option<&Value>,
    change: &Value,
) {
    let (below, field) = typed::member(schema, of, name);
    let merged = merge(schema, below, old, Some(change));
    // Null is absence for a declared field that does not say otherwise, and so is an empty list or map where
    // upstream's types leave it out.
    let empty = |v: &Value| match v {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let omitted = |f: &crate::schema::Field| {
        !schema.custom && f.omit_empty && !f.pointer && matches!(f.shape, Shape::List(_) | Shape::Map(_))
    };
    let absent = |v: &Value| field.is_some_and(|f| (v.is_null() && !f.nullable) || (omitted(f) && empty(v)));
    if let Some(merged) = merged.filter(|v| !absent(v)) {
        out.insert(name.to_string(), merged);
    }
}

/// The order is the applied one, with the live object's other items woven in where they stood.
fn merge_lists(schema: &Schema, list: &ListShape, old: &[Value], new: &[Value]) -> Vec<Value> {
    let element = |v: &Value| typed::item_element(schema, list, v).ok();
    let left: Vec<(Option<PathElement>, &Value)> = old.iter().map(|v| (element(v), v)).collect();
    let right: Vec<(PathElement, &Value)> = new.iter().filter_map(|v| element(v).map(|e| (e, v))).collect();
    let in_right = |e: &PathElement| right.iter().position(|(x, _)| x == e);
    // An entry the live list holds twice has no single value to merge with.
    let in_left = |e: &PathElement| {
        let mut found = left.iter().filter(|(x, _)| x.as_ref() == Some(e)).map(|(_, v)| *v);
        match (found.next(), found.next()) {
            (Some(v), None) => Some(v),
            _ => None,
        }
    };
    let item_kind = typed::kind(schema, &list.item);
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let mut done = vec![false; right.len()];
    let mut shared: Vec<usize> =
        (0..right.len()).filter(|i| left.iter().any(|(e, _)| e.as_ref() == Some(&right[*i].0))).collect();
    shared.reverse();
    let mut next_shared = shared.pop();
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            let at = left[l].0.as_ref();
            if at == Some(&right[r].0) {
                done[r] = true;
                out.extend(merge(schema, item_kind, in_left(&right[r].0), Some(right[r].1)));
                l += 1;
                r += 1;
                next_shared = shared.pop();
                continue;
            }
            if let (Some(at), Some(next)) = (at, next_shared)
                && in_right(at).is_some()
                && right[next].0 != *at
            {
                // Shared, but not the next shared item: it comes later, in the applied order.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            match left[l].0.as_ref().and_then(in_right) {
                None => {
                    out.push(left[l].1.clone());
                    l += 1;
                    continue;
                }
                Some(i) if done[i] => l += 1,
                Some(_) => {}
            }
        }
        if r < right.len() {
            done[r] = true;
            out.extend(merge(schema, item_kind, in_left(&right[r].0), Some(right[r].1)));
            if next_shared == Some(r) {
                next_shared = shared.pop();
            }
            r += 1;
        }
    }
    out
}

/// The value without the paths in `set`; `None` when nothing is left of a container.
pub(super) fn remove(schema: &Schema, of: Kind<'_>, value: &Value, set: &Set) -> Option<Value> {
    match typed::resolve(of, value) {
        Kind::Leaf => Some(value.clone()),
        Kind::List(list) => {
            let items = value.as_array()?;
            let item_kind = typed::kind(schema, &list.item);
            let mut out = Vec::with_capacity(items.len());
            for item in items {
                let node = typed::item_element(schema, list, item).ok().and_then(|e| set.get(&e));
                match node {
                    Some(node) if node.member => {}
                    Some(node) => out.extend(remove(schema, item_kind, item, &node.children)),
                    None => out.push(item.clone()),
                }
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
        of => {
            let map = value.as_object()?;
            let mut out = Map::new();
            for (name, value) in map {
                match set.get(&PathElement::Field(name.clone())) {
                    Some(node) if node.member => {}
                    Some(node) => {
                        let below = typed::member(schema, of, name).0;
                        if let Some(rest) = remove(schema, below, value, &node.children) {
                            out.insert(name.clone(), rest);
                        }
                    }
                    None => {
                        out.insert(name.clone(), value.clone());
                    }
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
    }
}
