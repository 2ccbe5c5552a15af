//! Checked tree to program.

use super::{Fold, Function, Node, cost};
use crate::check::Checked;
use crate::library;
use crate::syntax::ast::{ACCU, Comprehension, Expr, Kind};
use crate::types::Type;
use crate::value::{Key, Value};
use indexmap::IndexMap;

/// A name the checker knew and the library does not: a defect of this crate.
#[derive(Debug, thiserror::Error)]
#[error("function {0} has no implementation")]
pub struct PlanError(String);

struct Planner<'c> {
    checked: &'c Checked,
    scopes: Vec<(String, usize)>,
    depth: usize,
    most: usize,
}

/// The program, and how many slots it needs.
pub(crate) fn plan(root: &Expr, checked: &Checked) -> Result<(Node, usize), PlanError> {
    let mut planner = Planner { checked, scopes: Vec::new(), depth: 0, most: 0 };
    let node = planner.node(root)?;
    Ok((node, planner.most))
}

type Planned = Result<Node, PlanError>;

impl Planner<'_> {
    fn boxed(&mut self, e: &Expr) -> Result<Box<Node>, PlanError> {
        self.node(e).map(Box::new)
    }

    fn ident(&self, name: &str) -> Node {
        let bare = name.strip_prefix('.').unwrap_or(name);
        if let Some((_, slot)) = self.scopes.iter().rev().find(|(n, _)| n == bare) {
            return Node::Local(*slot);
        }
        if self.checked.used.iter().any(|u| u == bare) {
            return Node::Var(bare.into());
        }
        Node::Const(Value::Type(bare.to_owned().into()))
    }

    fn node(&mut self, e: &Expr) -> Planned {
        if let Some(name) = self.checked.qualified.get(&e.id)
            && matches!(e.kind, Kind::Select { .. })
        {
            return Ok(self.ident(name));
        }
        Ok(match &e.kind {
            Kind::Literal(value) => Node::Const(value.clone()),
            Kind::Ident(name) => self.ident(name),
            Kind::Select { operand, field, test } => {
                let of = self.boxed(operand)?;
                if let Node::Var(name) = &*of
                    && &**name == "variables"
                    && matches!(self.checked.ty(operand.id), Type::Object(_))
                {
                    return Ok(if *test {
                        Node::Const(Value::Bool(true))
                    } else {
                        Node::Variable(field.as_str().into())
                    });
                }
                if *test {
                    Node::Has(of, field.as_str().into())
                } else {
                    Node::Select(of, field.as_str().into())
                }
            }
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args)?,
            Kind::List { items, optional } => {
                let items: Vec<Node> = items.iter().map(|i| self.node(i)).collect::<Result<_, _>>()?;
                let constant = |n: &Node| match n {
                    Node::Const(value) => Some(value.clone()),
                    _ => None,
                };
                match items.iter().map(constant).collect::<Option<Vec<_>>>() {
                    Some(values) if optional.is_empty() && !values.is_empty() => {
                        Node::Const(Value::list(values))
                    }
                    _ => Node::List { items: items.into(), optional: optional.as_slice().into() },
                }
            }
            Kind::Map(entries) => {
                let mut out = Vec::with_capacity(entries.len());
                for entry in entries {
                    out.push((self.node(&entry.key)?, self.node(&entry.value)?, entry.optional));
                }
                constant_map(&out).unwrap_or_else(|| Node::Map(out.into()))
            }
            Kind::Struct { name, fields } => {
                let mut out = Vec::with_capacity(fields.len());
                for field in fields {
                    out.push((field.name.as_str().into(), self.node(&field.value)?, field.optional));
                }
                Node::Struct { name: name.as_str().into(), fields: out.into() }
            }
            Kind::Comprehension(c) => self.comprehension(c)?,
        })
    }

    fn call(&mut self, e: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Planned {
        match (function, target, args) {
            ("_&&_", None, [a, b]) => return Ok(Node::And(self.boxed(a)?, self.boxed(b)?)),
            ("_||_", None, [a, b]) => return Ok(Node::Or(self.boxed(a)?, self.boxed(b)?)),
            ("_?_:_", None, [a, b, c]) => {
                return Ok(Node::If(self.boxed(a)?, self.boxed(b)?, self.boxed(c)?));
            }
            ("@not_strictly_false", None, [a]) => return Ok(Node::NotStrictlyFalse(self.boxed(a)?)),
            ("_[_]" | "_[?_]", None, [a, b]) => {
                let (operand, index) = (self.boxed(a)?, self.boxed(b)?);
                return Ok(Node::Index { operand, index, optional: function == "_[?_]" });
            }
            ("_?._", None, [a, field]) => {
                if let Kind::Literal(Value::Text(name)) = &field.kind {
                    return Ok(Node::OptSelect(self.boxed(a)?, (**name).into()));
                }
            }
            ("_+_", None, [a, b]) => {
                if let (Node::Local(slot), Kind::List { items, optional }) = (self.accu(a), &b.kind)
                    && let ([item], true) = (items.as_slice(), optional.is_empty())
                {
                    return Ok(Node::Append { slot, item: self.boxed(item)? });
                }
            }
            ("cel.@mapInsert", None, [a, rest @ ..]) => {
                if let Node::Local(slot) = self.accu(a) {
                    match rest {
                        [value] => {
                            return Ok(Node::Insert { slot, key: None, value: self.boxed(value)? });
                        }
                        [key, value] => {
                            let key = Some(self.boxed(key)?);
                            return Ok(Node::Insert { slot, key, value: self.boxed(value)? });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        let qualified = self.checked.qualified.get(&e.id);
        let name = qualified.map_or(function, String::as_str);
        let name = name.strip_prefix('.').unwrap_or(name);
        let mut all = Vec::with_capacity(args.len() + 1);
        if let (Some(target), None) = (target, qualified) {
            all.push(self.node(target)?);
        }
        for arg in args {
            all.push(self.node(arg)?);
        }
        let function: Function = library::function(name).ok_or_else(|| PlanError(name.to_owned()))?;
        let overload = self.checked.overloads.get(&e.id).and_then(|o| o.first()).copied().unwrap_or("");
        Ok(Node::Call { function, cost: cost::Kind::of(name, overload), args: all.into() })
    }

    /// The accumulator of the innermost fold; anything else is no place to write to.
    fn accu(&self, e: &Expr) -> Node {
        match &e.kind {
            Kind::Ident(name) if name == ACCU => self.ident(name),
            _ => Node::Const(Value::Null),
        }
    }

    fn comprehension(&mut self, c: &Comprehension) -> Planned {
        let range = self.node(&c.range)?;
        let init = self.node(&c.init)?;
        let slot = self.depth;
        self.depth += 3;
        self.most = self.most.max(self.depth);
        let before = self.scopes.len();
        self.scopes.push((c.accu.clone(), slot));
        let is_bind = matches!(&c.range.kind, Kind::List { items, .. } if items.is_empty()) && c.accu != ACCU;
        if is_bind {
            let result = self.boxed(&c.result)?;
            self.scopes.truncate(before);
            self.depth -= 3;
            return Ok(Node::Bind { slot, init: Box::new(init), result });
        }
        self.scopes.push((c.var.clone(), slot + 1));
        if let Some(var2) = &c.var2 {
            self.scopes.push((var2.clone(), slot + 2));
        }
        let condition = self.node(&c.condition)?;
        let step = self.node(&c.step)?;
        self.scopes.truncate(before + 1);
        let result = self.node(&c.result)?;
        self.scopes.truncate(before);
        self.depth -= 3;
        let two = c.var2.is_some();
        Ok(Node::Fold(Box::new(Fold { range, init, condition, step, result, slot, two })))
    }
}

fn constant_map(entries: &[(Node, Node, bool)]) -> Option<Node> {
    if entries.is_empty() {
        return None;
    }
    let mut out: IndexMap<Key, Value<'static>> = IndexMap::new();
    for (key, value, optional) in entries {
        let (Node::Const(key), Node::Const(value), false) = (key, value, optional) else { return None };
        if out.insert(Key::of(key).ok()?, value.clone()).is_some() {
            return None;
        }
    }
    Some(Node::Const(Value::map(out)))
}
