//! What a write changed, walking the two objects side by side. Nothing is built for parts that are the same.

use super::set::{Node, PathElement, Set};
use super::typed::{self, Kind, as_map};
use crate::schema::{ListShape, Schema};
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// Upstream keeps added and modified apart; nothing here needs them apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Diff {
    pub changed: Set,
    pub removed: Set,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

#[derive(Default)]
struct Pair {
    changed: Node,
    removed: Node,
}

pub(super) fn diff(schema: &Schema, root: Kind<'_>, old: &Value, new: &Value) -> Diff {
    let pair = compare(schema, root, Some(old), Some(new));
    Diff { changed: pair.changed.children, removed: pair.removed.children }
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Pair {
    let mut pair = Pair::default();
    match (old, new) {
        (Some(a), Some(b)) if a == b => {}
        (Some(_), None) => pair.removed.member = true,
        (None, None) => {}
        _ => pair.changed.member = true,
    }
    pair
}

/// What a value brings that was not there: everything in it. [`compare`] with nothing, without looking for it.
fn added(schema: &Schema, of: Kind<'_>, new: &Value) -> Node {
    let children = match typed::resolve(of, new) {
        Kind::Leaf => return Node::leaf(),
        Kind::List(list) => {
            let item_kind = typed::kind(schema, &list.item);
            let items = index(schema, list, new.as_array().map_or(&[], Vec::as_slice)).into_iter();
            items
                .map(|(element, values)| match values.as_slice() {
                    [only] => (element, added(schema, item_kind, only)),
                    _ => (element, Node::leaf()),
                })
                .collect()
        }
        of => {
            let members = as_map(Some(new)).into_iter().flatten();
            members
                .map(|(name, value)| {
                    (
                        PathElement::Field(name.clone()),
                        added(schema, typed::member(schema, of, name).0, value),
                    )
                })
                .collect()
        }
    };
    Node { member: true, children: Set(children) }
}

fn compare(schema: &Schema, of: Kind<'_>, old: Option<&Value>, new: Option<&Value>) -> Pair {
    if let (None, Some(new)) = (old, new) {
        return Pair { changed: added(schema, of, new), removed: Node::default() };
    }
    let resolve = |v: Option<&Value>| v.map(|v| typed::resolve(of, v));
    let mut pair = match (resolve(old), resolve(new)) {
        (None, None) => Pair::default(),
        (Some(Kind::Leaf), None | Some(Kind::Leaf)) | (None, Some(Kind::Leaf)) => return leaf(old, new),
        (Some(Kind::Leaf), Some(_)) | (Some(_), Some(Kind::Leaf)) => {
            // A scalar became a map or the reverse: the path changed, and what was below came or went.
            let mut pair = maps(schema, of, as_map(old), as_map(new));
            pair.changed.member = true;
            return pair;
        }
        (Some(Kind::List(list)), _) | (_, Some(Kind::List(list))) => {
            let (a, b) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            if a.is_none_or(|l| l.is_empty()) && b.is_none_or(|l| l.is_empty()) {
                return leaf(old, new);
            }
            if a == b {
                return Pair::default();
            }
            lists(schema, list, a.map_or(&[], Vec::as_slice), b.map_or(&[], Vec::as_slice))
        }
        _ => {
            let (a, b) = (as_map(old), as_map(new));
            if a.is_none_or(|m| m.is_empty()) && b.is_none_or(|m| m.is_empty()) {
                return leaf(old, new);
            }
            maps(schema, of, a, b)
        }
    };
    if new.is_none() {
        pair.removed.member = true;
    }
    pair
}

fn attach(out: &mut Pair, element: impl Fn() -> PathElement, below: Pair) {
    if !below.changed.is_empty() {
        out.changed.children.put(element(), below.changed);
    }
    if !below.removed.is_empty() {
        out.removed.children.put(element(), below.removed);
    }
}

fn maps(
    schema: &Schema,
    of: Kind<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
) -> Pair {
    let mut out = Pair::default();
    let mut left = old.into_iter().flatten().peekable();
    let mut right = new.into_iter().flatten().peekable();
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return out,
        };
        let a = if order != Ordering::Greater { left.next() } else { None };
        let b = if order != Ordering::Less { right.next() } else { None };
        let Some(name) = a.or(b).map(|(name, _)| name) else { return out };
        let below = compare(schema, typed::member(schema, of, name).0, a.map(|(_, v)| v), b.map(|(_, v)| v));
        attach(&mut out, || PathElement::Field(name.clone()), below);
    }
}

type Items<'v> = Vec<(PathElement, Vec<&'v Value>)>;

fn index<'v>(schema: &Schema, list: &ListShape, items: &'v [Value]) -> Items<'v> {
    let mut keyed: Vec<(PathElement, &Value)> =
        items.iter().filter_map(|i| typed::item_element(schema, list, i).ok().map(|e| (e, i))).collect();
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out: Items<'v> = Vec::with_capacity(keyed.len());
    for (element, item) in keyed {
        match out.last_mut() {
            Some((last, values)) if *last == element => values.push(item),
            _ => out.push((element, vec![item])),
        }
    }
    out
}

fn lists(schema: &Schema, list: &ListShape, old: &[Value], new: &[Value]) -> Pair {
    let mut out = Pair::default();
    let item_kind = typed::kind(schema, &list.item);
    let mut left = index(schema, list, old).into_iter().peekable();
    let mut right = index(schema, list, new).into_iter().peekable();
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return out,
        };
        let a = if order != Ordering::Greater { left.next() } else { None };
        let b = if order != Ordering::Less { right.next() } else { None };
        let (l, r) =
            (a.as_ref().map_or(&[] as &[&Value], |x| &x.1), b.as_ref().map_or(&[] as &[&Value], |x| &x.1));
        let below = match (l.len(), r.len()) {
            (0 | 1, 0 | 1) => compare(schema, item_kind, l.first().copied(), r.first().copied()),
            (2.., 2..) => {
                let mut pair = Pair::default();
                pair.changed.member = l != r;
                pair
            }
            // Duplicates came or went: the entry as a whole did.
            (2.., _) => {
                let mut pair =
                    r.first().map_or_else(Pair::default, |r| compare(schema, item_kind, None, Some(r)));
                pair.removed.member = true;
                pair
            }
            _ => {
                let mut pair =
                    l.first().map_or_else(Pair::default, |l| compare(schema, item_kind, Some(l), None));
                pair.changed.member = true;
                pair
            }
        };
        if let Some((element, _)) = a.or(b) {
            attach(&mut out, || element.clone(), below);
        }
    }
}
