//! Worst-case cost of an expression before it runs: cel-go's `checker.Cost` with upstream's estimator.
//!
//! The numbers are part of the API: they decide which rules a definition may hold.

mod calls;

use super::Checked;
use crate::decl::{Decl, DeclKind};
use crate::syntax::ast::{ACCU, Ast, Comprehension, Expr, Id, Kind};
use crate::types::Type;
use crate::value::Value;
use std::collections::HashMap;

/// A range, of sizes or of costs. Saturates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    pub const fn new(min: u64, max: u64) -> Self {
        Self { min, max }
    }

    pub const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    fn plus(self, other: Self) -> Self {
        Self::new(self.min.saturating_add(other.min), self.max.saturating_add(other.max))
    }

    fn times(self, other: Self) -> Self {
        Self::new(self.min.saturating_mul(other.min), self.max.saturating_mul(other.max))
    }

    fn factor(self, by: f64) -> Self {
        // Casts of floats saturate.
        let scale = |n: u64| (n as f64 * by).ceil() as u64;
        Self::new(scale(self.min), scale(self.max))
    }

    fn union(self, other: Self) -> Self {
        Self::new(self.min.min(other.min), self.max.max(other.max))
    }
}

pub(super) const STRING: f64 = 0.1;
pub(super) const REGEX: f64 = 0.25;

/// Where a value lies in the declared data: how long its path is, and what is declared there.
#[derive(Clone, Copy, Default)]
struct Place<'d> {
    length: usize,
    decl: Option<&'d Decl>,
}

#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

#[derive(Clone)]
struct Local<'d> {
    name: String,
    place: Place<'d>,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// What a call costs, and how large its result is.
struct Call {
    cost: Range,
    size: Option<Range>,
}

struct Coster<'d> {
    root: Option<&'d Decl>,
    checked: &'d Checked,
    places: HashMap<Id, Place<'d>>,
    sizes: HashMap<Id, Range>,
    entries: HashMap<Id, Entries>,
    locals: Vec<Local<'d>>,
}

/// Keys of declared maps: strings of which nothing is known but that upstream takes them as empty.
static KEY: Decl = Decl { kind: DeclKind::Text, nullable: false, max: 0, min_size: 2 };

/// The cost of the whole expression, least and most. `root` declares the variables' data.
pub fn estimate(ast: &Ast, checked: &Checked, root: Option<&Decl>) -> Range {
    let mut coster = Coster {
        root,
        checked,
        places: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    coster.cost(&ast.root)
}

impl<'d> Coster<'d> {
    fn step(&self, from: Place<'d>, name: &str) -> Place<'d> {
        if from.length == 0 {
            // Upstream drops the first element of a path, whatever it is.
            return Place { length: 1, decl: self.root };
        }
        let decl = from.decl.and_then(|decl| match (name, &decl.kind) {
            ("@items", DeclKind::List { item, .. }) => Some(&**item),
            ("@values" | "@items", DeclKind::Map { value, .. }) => Some(&**value),
            ("@keys", DeclKind::Map { key, .. }) => Some(key.as_deref().unwrap_or(&KEY)),
            // Of such a map every member is alike.
            (_, DeclKind::Map { value, .. }) if matches!(value.kind, DeclKind::Any) => Some(&**value),
            (_, DeclKind::Object(object)) => object.fields.get(name).map(|f| &f.decl),
            _ => None,
        });
        Place { length: from.length + 1, decl }
    }

    fn local(&self, name: &str) -> Option<&Local<'d>> {
        self.locals.iter().rev().find(|l| l.name == name)
    }

    fn place(&self, e: &Expr) -> Place<'d> {
        if let Kind::Ident(name) = &e.kind
            && let Some(local) = self.local(name)
        {
            return local.place;
        }
        self.places.get(&e.id).copied().unwrap_or_default()
    }

    fn cost(&mut self, e: &Expr) -> Range {
        if self.checked.qualified.contains_key(&e.id) && matches!(e.kind, Kind::Select { .. }) {
            return Range::fixed(1);
        }
        match &e.kind {
            Kind::Literal(_) => Range::fixed(0),
            Kind::Ident(name) => {
                let place = self.local(name).map(|l| l.place);
                let place = place.unwrap_or(Place { length: 1, decl: self.root });
                self.places.insert(e.id, place);
                Range::fixed(1)
            }
            Kind::Select { operand, field, test } => {
                let mut sum = self.cost(operand);
                if *test {
                    return sum;
                }
                if matches!(
                    self.checked.ty(operand.id),
                    Type::Map(..) | Type::Object(_) | Type::Var(_) | Type::Param(_)
                ) {
                    sum = sum.plus(Range::fixed(1));
                }
                let place = self.step(self.place(operand), field);
                self.places.insert(e.id, place);
                sum
            }
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List { items, .. } => {
                let mut sum = Range::fixed(10);
                let mut size = Range::new(if items.is_empty() { 0 } else { u64::MAX }, 0);
                for item in items {
                    sum = sum.plus(self.cost(item));
                    size = size.union(self.size_or_unknown(item));
                }
                self.entries.insert(e.id, Entries { list: true, key: Range::fixed(1), value: size });
                sum
            }
            Kind::Map(entries) => {
                let mut sum = Range::fixed(30);
                let least = if entries.is_empty() { 0 } else { u64::MAX };
                let (mut keys, mut values) = (Range::new(least, 0), Range::new(least, 0));
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    keys = keys.union(self.size_or_unknown(&entry.key));
                    values = values.union(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(e.id, Entries { list: false, key: keys, value: values });
                sum
            }
            Kind::Struct { fields, .. } => {
                let mut sum = Range::fixed(40);
                for field in fields {
                    sum = sum.plus(self.cost(&field.value));
                }
                sum
            }
            Kind::Comprehension(c) if is_bind(c) => self.bind(e, c),
            Kind::Comprehension(c) => self.fold(e, c),
        }
    }

    fn push(&mut self, name: &str, place: Place<'d>, size: Option<Range>, entries: Option<Entries>) {
        self.locals.push(Local { name: name.to_owned(), place, size, entries });
    }

    fn push_value(&mut self, name: &str, e: &Expr) {
        let (place, size, entries) = (self.place(e), self.size(e), self.entries_of(e));
        self.push(name, place, size, entries);
    }

    fn bind(&mut self, e: &Expr, c: &Comprehension) -> Range {
        let mut sum = self.cost(&c.range).plus(self.cost(&c.init));
        self.push_value(&c.accu, &c.init);
        sum = sum.plus(self.cost(&c.result));
        let (size, entries) = (self.size(&c.result), self.entries_of(&c.result));
        self.locals.pop();
        if let Some(size) = size {
            self.sizes.insert(e.id, size);
        }
        if let Some(entries) = entries {
            self.entries.insert(e.id, entries);
        }
        sum
    }

    fn fold(&mut self, e: &Expr, c: &Comprehension) -> Range {
        let mut sum = self.cost(&c.range).plus(self.cost(&c.init));
        self.push_value(&c.accu, &c.init);
        let entries = self.entries_of(&c.range);
        let is_list = match entries {
            Some(entries) => entries.list,
            None => matches!(self.checked.ty(c.range.id), Type::List(_)),
        };
        let place = self.place(&c.range);
        let (keys, values) = if is_list {
            (self.step(place, "@indices"), self.step(place, "@items"))
        } else {
            (self.step(place, "@keys"), self.step(place, "@values"))
        };
        let (key, value) = (entries.map(|e| e.key), entries.map(|e| e.value));
        match &c.var2 {
            Some(var2) => {
                self.push(&c.var, keys, key, None);
                self.push(var2, values, value, None);
            }
            None if is_list => self.push(&c.var, values, value, None),
            None => self.push(&c.var, keys, key, None),
        }
        let each = self.cost(&c.condition).plus(self.cost(&c.step));
        self.locals.pop();
        if c.var2.is_some() {
            self.locals.pop();
        }
        sum = sum.plus(self.cost(&c.result));
        self.locals.pop();
        let count = self.size_or_unknown(&c.range);
        sum = sum.plus(count.times(each));
        match &c.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&c.init) {
                    self.sizes.insert(e.id, size);
                }
            }
            Kind::List { .. } | Kind::Map(_) => {
                self.sizes.insert(e.id, count);
                if let Some(entries) = self.entries_of(&c.step) {
                    self.entries.insert(e.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    fn entries_of(&self, e: &Expr) -> Option<Entries> {
        if let Some(found) = self.entries.get(&e.id) {
            return Some(*found);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, e: &Expr) -> Range {
        self.size(e).unwrap_or(Range::UNKNOWN)
    }

    fn size(&mut self, e: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&e.id) {
            return Some(*size);
        }
        let own = match &e.kind {
            Kind::Literal(Value::Text(text)) => Some(text.chars().count() as u64),
            Kind::Literal(Value::Bytes(data)) => Some(data.len() as u64),
            Kind::Literal(_) => Some(1),
            Kind::List { items, .. } => Some(items.len() as u64),
            Kind::Map(entries) => Some(entries.len() as u64),
            _ => None,
        };
        if let Some(own) = own {
            return Some(Range::fixed(own));
        }
        if let Some(size) = declared(self.place(e)) {
            self.sizes.insert(e.id, size);
            return Some(size);
        }
        if self.checked.ty(e.id).is_scalar() {
            return Some(Range::fixed(1));
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }
}

/// What the declaration says of the size there.
fn declared(place: Place<'_>) -> Option<Range> {
    (place.length > 0).then_some(())?;
    place.decl.map(|decl| Range::new(0, decl.max.max(0) as u64))
}

fn is_bind(c: &Comprehension) -> bool {
    matches!(&c.range.kind, Kind::List { items, .. } if items.is_empty())
        && matches!(c.condition.kind, Kind::Literal(Value::Bool(false)))
        && c.accu != ACCU
}
