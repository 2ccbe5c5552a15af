//! Sets of field paths: what a manager owns, what a write changed.

use crate::field::quote;
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;

/// One step of a path. Ordered as upstream orders them.
#[derive(Clone, Debug)]
pub enum PathElement {
    /// A member of a struct or map.
    Field(String),
    /// An item of an associative list, by its key fields (sorted by name).
    Key(Vec<(String, Value)>),
    /// An item of a set, by its value.
    Value(Value),
    /// An item of an atomic list; only ever decoded.
    Index(i64),
}

impl PathElement {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

/// Numbers, then strings, booleans, lists, maps, null.
pub(super) fn compare_values(a: &Value, b: &Value) -> Ordering {
    let rank = |v: &Value| match v {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x.as_f64().unwrap_or(0.0).total_cmp(&y.as_f64().unwrap_or(0.0)),
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => {
            a.to_string().cmp(&b.to_string())
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((an, av), (bn, bv)) in a.iter().zip(b) {
                    let order = an.cmp(bn).then_with(|| compare_values(av, bv));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

fn show(value: &Value) -> String {
    match value {
        Value::String(s) => quote(s),
        other => other.to_string(),
    }
}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Vec<String> = keys.iter().map(|(n, v)| format!("{n}={}", show(v))).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(v) => write!(f, "[={}]", show(v)),
            Self::Index(i) => write!(f, "[{i}]"),
        }
    }
}

/// What a set says of one path: whether the path is a member, and which paths below it are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub member: bool,
    pub children: Set,
}

impl Node {
    pub fn leaf() -> Self {
        Node { member: true, children: Set::default() }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// A set of paths, as a tree; siblings are sorted and no node is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(pub(super) Vec<(PathElement, Node)>);

impl Set {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of member paths.
    pub fn len(&self) -> usize {
        self.0.iter().map(|(_, n)| usize::from(n.member) + n.children.len()).sum()
    }

    pub fn get(&self, element: &PathElement) -> Option<&Node> {
        self.0.binary_search_by(|(e, _)| e.cmp(element)).ok().map(|i| &self.0[i].1)
    }

    pub fn entry(&mut self, element: PathElement) -> &mut Node {
        let at = match self.0.binary_search_by(|(e, _)| e.cmp(&element)) {
            Ok(i) => i,
            Err(i) => {
                self.0.insert(i, (element, Node::default()));
                i
            }
        };
        &mut self.0[at].1
    }

    /// Takes one path out, with all that lies below it (`below`) or alone.
    pub(super) fn forget(&mut self, path: &[&str], below: bool) {
        let Some((first, rest)) = path.split_first() else { return };
        let found = self.0.iter().position(|(e, _)| matches!(e, PathElement::Field(name) if name == first));
        let Some(at) = found else { return };
        let node = &mut self.0[at].1;
        match rest {
            [] if below => *node = Node::default(),
            [] => node.member = false,
            rest => node.children.forget(rest, below),
        }
        if node.is_empty() {
            self.0.remove(at);
        }
    }

    /// Puts a node where none is yet, unless it is empty.
    pub(super) fn put(&mut self, element: PathElement, node: Node) {
        // Most come in order.
        if self.0.last().is_none_or(|(last, _)| *last < element) {
            if !node.is_empty() {
                self.0.push((element, node));
            }
        } else if !node.is_empty() {
            let entry = self.entry(element);
            entry.member |= node.member;
            let children = std::mem::take(&mut entry.children);
            entry.children = children.union(node.children);
        }
    }

    pub fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => {}
            [last] => self.entry(last.clone()).member = true,
            [first, rest @ ..] => self.entry(first.clone()).children.insert(rest),
        }
    }

    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last).is_some_and(|n| n.member),
            [first, rest @ ..] => self.get(first).is_some_and(|n| n.children.has(rest)),
        }
    }

    pub fn union(self, other: Set) -> Set {
        if other.is_empty() {
            return self;
        }
        if self.is_empty() {
            return other;
        }
        let mut out = Vec::with_capacity(self.0.len().max(other.0.len()));
        let mut left = self.0.into_iter().peekable();
        let mut right = other.0.into_iter().peekable();
        loop {
            let order = match (left.peek(), right.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Set(out),
            };
            match order {
                Ordering::Less => out.extend(left.next()),
                Ordering::Greater => out.extend(right.next()),
                Ordering::Equal => {
                    if let (Some((element, a)), Some((_, b))) = (left.next(), right.next()) {
                        out.push((
                            element,
                            Node { member: a.member || b.member, children: a.children.union(b.children) },
                        ));
                    }
                }
            }
        }
    }

    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Vec::new();
        for (element, a) in &self.0 {
            if let Some(b) = other.get(element) {
                let node =
                    Node { member: a.member && b.member, children: a.children.intersection(&b.children) };
                if !node.is_empty() {
                    out.push((element.clone(), node));
                }
            }
        }
        Set(out)
    }

    /// Members of this that are not members of `other`; a member of `other` does not take what lies below it.
    pub fn difference(self, other: &Set) -> Set {
        if other.is_empty() {
            return self;
        }
        let keep = |(element, mut node): (PathElement, Node)| {
            if let Some(b) = other.get(&element) {
                node.member &= !b.member;
                node.children = node.children.difference(&b.children);
            }
            (!node.is_empty()).then_some((element, node))
        };
        Set(self.0.into_iter().filter_map(keep).collect())
    }

    /// Like [`difference`](Self::difference), and a member of `other` takes everything below it.
    pub fn recursive_difference(self, other: &Set) -> Set {
        if other.is_empty() {
            return self;
        }
        let keep = |(element, mut node): (PathElement, Node)| {
            if let Some(b) = other.get(&element) {
                if b.member {
                    return None;
                }
                node.children = node.children.recursive_difference(&b.children);
            }
            (!node.is_empty()).then_some((element, node))
        };
        Set(self.0.into_iter().filter_map(keep).collect())
    }

    /// Every member path; at each level members first, as upstream walks.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, out: &mut Vec<Vec<PathElement>>) {
        for (element, node) in &self.0 {
            if node.member {
                let mut path = prefix.clone();
                path.push(element.clone());
                out.push(path);
            }
        }
        for (element, node) in &self.0 {
            if !node.children.is_empty() {
                prefix.push(element.clone());
                node.children.collect(prefix, out);
                prefix.pop();
            }
        }
    }
}

/// `.spec.containers[name="a"].image`
pub fn show_path(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}
