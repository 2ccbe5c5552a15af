//! Evaluation, with its cost.

use super::{Fold, Node};
use crate::error::EvalError;
use crate::value::{Key, List, Map, Struct, Value};
use indexmap::IndexMap;
use indexmap::map::Entry;
use std::sync::Arc;

/// How many rounds of a fold pass between two looks at the caller's deadline.
const ROUNDS: usize = 100;

/// What an expression reads.
pub trait Vars<'a> {
    /// A variable of the environment.
    fn get(&self, name: &str) -> Option<Result<Value<'a>, EvalError>>;

    /// `variables.name`, which a policy evaluates when it is first read.
    fn variable(&self, name: &str) -> Result<Value<'a>, EvalError> {
        Err(EvalError::no_key(name))
    }

    /// The caller has given up.
    fn interrupted(&self) -> bool {
        false
    }
}

/// An environment without variables.
pub struct NoVars;

impl<'a> Vars<'a> for NoVars {
    fn get(&self, _: &str) -> Option<Result<Value<'a>, EvalError>> {
        None
    }
}

/// The outcome and what it cost.
#[derive(Debug)]
pub struct Evaluation<'a> {
    pub value: Result<Value<'a>, EvalError>,
    pub cost: u64,
}

type Outcome<'a> = Result<Value<'a>, EvalError>;

pub(crate) struct Run<'a, 'v> {
    vars: &'v dyn Vars<'a>,
    locals: Vec<Outcome<'a>>,
    cost: u64,
    limit: u64,
}

pub(crate) fn run<'a>(root: &Node, slots: usize, vars: &dyn Vars<'a>, limit: u64) -> Evaluation<'a> {
    let mut run = Run { vars, locals: vec![Ok(Value::Null); slots], cost: 0, limit };
    let value = run.eval(root);
    Evaluation { value, cost: run.cost }
}

impl<'a> Run<'a, '_> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::cost()) } else { Ok(()) }
    }

    fn eval(&mut self, node: &Node) -> Outcome<'a> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Var(name) => {
                self.charge(1)?;
                match self.vars.get(name) {
                    Some(value) => value,
                    None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
                }
            }
            Node::Variable(name) => {
                self.charge(2)?;
                self.vars.variable(name)
            }
            Node::Local(slot) => {
                self.charge(1)?;
                self.locals[*slot].clone()
            }
            Node::Select(operand, field) => {
                let value = self.eval(operand)?;
                self.charge(1)?;
                select(&value, field)
            }
            Node::Has(operand, field) => {
                let value = self.eval(operand)?;
                has(&value, field).map(Value::Bool)
            }
            Node::OptSelect(operand, field) => {
                let value = self.eval(operand)?;
                self.charge(1)?;
                match &value {
                    Value::Optional(None) => Ok(Value::Optional(None)),
                    Value::Optional(Some(inner)) => optional(inner.member(field)),
                    Value::Map(_) | Value::Struct(_) => optional(value.member(field)),
                    _ => Err(EvalError::no_overload()),
                }
            }
            Node::Index { operand, index, optional: wanted } => {
                let value = self.eval(operand)?;
                let index = self.attribute(index)?;
                self.charge(1)?;
                match (&value, wanted) {
                    (Value::Optional(None), _) => Ok(Value::Optional(None)),
                    (Value::Optional(Some(inner)), _) => optional(at(inner, &index)?),
                    (_, true) => optional(at(&value, &index)?),
                    (_, false) => at(&value, &index)?.unwrap_or_else(|| Err(absent(&value, &index))),
                }
            }
            Node::And(left, right) => self.logic(left, right, false),
            Node::Or(left, right) => self.logic(left, right, true),
            Node::If(condition, yes, no) => match self.eval(condition)? {
                Value::Bool(true) => self.attribute(yes),
                Value::Bool(false) => self.attribute(no),
                _ => Err(EvalError::no_overload()),
            },
            Node::NotStrictlyFalse(operand) => {
                let value = self.eval(operand);
                self.charge(1)?;
                match value {
                    Ok(Value::Bool(b)) => Ok(Value::Bool(b)),
                    Err(e) if e.is_final() => Err(e),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::Call { function, cost, args } => match &**args {
                [one] => {
                    let args = [self.eval(one)?];
                    let value = function(&args);
                    self.charge(cost.cost(&args, value.as_ref().ok()))?;
                    value
                }
                [one, two] => {
                    let args = [self.eval(one)?, self.eval(two)?];
                    let value = function(&args);
                    self.charge(cost.cost(&args, value.as_ref().ok()))?;
                    value
                }
                more => {
                    let args = more.iter().map(|a| self.eval(a)).collect::<Result<Vec<_>, _>>()?;
                    let value = function(&args);
                    self.charge(cost.cost(&args, value.as_ref().ok()))?;
                    value
                }
            },
            Node::List { items, optional } => {
                let mut out = Vec::with_capacity(items.len());
                for (i, item) in items.iter().enumerate() {
                    let value = self.eval(item)?;
                    if !optional.contains(&i) {
                        out.push(value);
                    } else if let Some(value) = unwrap(value)? {
                        out.push(value);
                    }
                }
                self.charge(10)?;
                Ok(Value::list(out))
            }
            Node::Map(entries) => {
                let mut out = IndexMap::with_capacity(entries.len());
                for (key, value, optional) in entries {
                    let key = Key::of(&self.eval(key)?)?;
                    let mut value = Some(self.eval(value)?);
                    if *optional {
                        value = value.map(unwrap).transpose()?.flatten();
                    }
                    if let Some(value) = value {
                        insert(&mut out, key, value)?;
                    }
                }
                self.charge(30)?;
                Ok(Value::Map(Map::Owned(Arc::new(out))))
            }
            Node::Struct { name, fields } => {
                let mut out = IndexMap::with_capacity(fields.len());
                for (field, value, optional) in fields {
                    let mut value = Some(self.eval(value)?);
                    if *optional {
                        value = value.map(unwrap).transpose()?.flatten();
                    }
                    if let Some(value) = value {
                        out.insert(Arc::from(&**field), value);
                    }
                }
                self.charge(40)?;
                Ok(Value::Struct(Arc::new(Struct { name: Arc::from(&**name), fields: out })))
            }
            Node::Append { slot, item } => {
                let item = self.eval(item)?;
                self.charge(12)?;
                let accu = std::mem::replace(&mut self.locals[*slot], Ok(Value::Null))?;
                let Value::List(list) = accu else { return Err(EvalError::no_overload()) };
                let mut items = match list {
                    List::Owned(items) => items,
                    other => Arc::new(other.to_vec()?),
                };
                Arc::make_mut(&mut items).push(item);
                Ok(Value::List(List::Owned(items)))
            }
            Node::Insert { slot, key, value } => {
                let key = key.as_ref().map(|k| self.eval(k)).transpose()?;
                let value = self.eval(value)?;
                self.charge(2)?;
                let accu = std::mem::replace(&mut self.locals[*slot], Ok(Value::Null))?;
                let Value::Map(Map::Owned(mut map)) = accu else { return Err(EvalError::no_overload()) };
                let entries = Arc::make_mut(&mut map);
                match (key, value) {
                    (Some(key), value) => insert(entries, Key::of(&key)?, value)?,
                    (None, Value::Map(more)) => {
                        for key in more.keys() {
                            let value = more.get(&key).unwrap_or_else(|| Err(EvalError::no_overload()))?;
                            insert(entries, key, value)?;
                        }
                    }
                    _ => return Err(EvalError::no_overload()),
                }
                Ok(Value::Map(Map::Owned(map)))
            }
            Node::Bind { slot, init, result } => {
                self.charge(10)?;
                let value = self.eval(init);
                if let Err(e) = &value
                    && e.is_final()
                {
                    return value;
                }
                self.locals[*slot] = value;
                self.eval(result)
            }
            Node::Fold(fold) => self.fold(fold),
        }
    }

    /// A branch or an index: cel-go resolves plain variables there without counting them.
    fn attribute(&mut self, node: &Node) -> Outcome<'a> {
        let mut base = node;
        while let Node::Select(operand, _) = base {
            base = operand;
        }
        let free = matches!(base, Node::Var(_) | Node::Local(_));
        let value = self.eval(node);
        if free {
            self.cost = self.cost.saturating_sub(1);
        }
        value
    }

    fn logic(&mut self, left: &Node, right: &Node, decides: bool) -> Outcome<'a> {
        let left = self.eval(left);
        match &left {
            Ok(Value::Bool(b)) if *b == decides => return left,
            Err(e) if e.is_final() => return left,
            _ => {}
        }
        let right = self.eval(right);
        match (left, right) {
            (_, Err(e)) if e.is_final() => Err(e),
            (_, Ok(Value::Bool(b))) if b == decides => Ok(Value::Bool(b)),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decides)),
            (Err(e), _) | (_, Err(e)) => Err(e),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn fold(&mut self, fold: &Fold) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        self.locals[fold.slot] = init;
        let keys = match &range {
            Value::Map(map) => map.keys(),
            Value::List(_) => Vec::new(),
            _ => return Err(EvalError::no_overload()),
        };
        let mut keys = keys.into_iter();
        let mut round = 0;
        loop {
            let (first, second) = match &range {
                Value::List(list) => match list.get(round) {
                    None => break,
                    Some(item) if fold.two => (Ok(Value::Int(round as i64)), item),
                    Some(item) => (item, Ok(Value::Null)),
                },
                Value::Map(map) => match keys.next() {
                    None => break,
                    Some(key) if fold.two => {
                        (Ok(key.value()), map.get(&key).unwrap_or_else(|| Err(EvalError::no_key(""))))
                    }
                    Some(key) => (Ok(key.value()), Ok(Value::Null)),
                },
                _ => break,
            };
            round += 1;
            if round % ROUNDS == 0 && self.vars.interrupted() {
                return Err(EvalError::interrupted());
            }
            self.locals[fold.slot + 1] = first;
            self.locals[fold.slot + 2] = second;
            match self.eval(&fold.condition)? {
                Value::Bool(true) => {}
                _ => break,
            }
            let step = self.eval(&fold.step);
            match step {
                Err(e) if e.is_final() => return Err(e),
                // Nothing takes an error out of a list or map that is being built.
                Err(e) if matches!(fold.condition, Node::Const(_)) => return Err(e),
                step => self.locals[fold.slot] = step,
            }
        }
        self.eval(&fold.result)
    }
}

fn insert<'a>(into: &mut IndexMap<Key, Value<'a>>, key: Key, value: Value<'a>) -> Result<(), EvalError> {
    match into.entry(key) {
        Entry::Vacant(slot) => {
            slot.insert(value);
            Ok(())
        }
        Entry::Occupied(slot) => {
            let key = match slot.key() {
                Key::Text(text) => text.to_string(),
                other => format!("{other:?}"),
            };
            Err(EvalError::new(format!("insert failed: key {key} already exists")))
        }
    }
}

fn unwrap(value: Value<'_>) -> Result<Option<Value<'_>>, EvalError> {
    match value {
        Value::Optional(None) => Ok(None),
        Value::Optional(Some(inner)) => Ok(Some((*inner).clone())),
        other => Err(EvalError::new(format!(
            "cannot initialize optional entry from non-optional value {}",
            other.type_name()
        ))),
    }
}

fn optional<'a>(found: Option<Outcome<'a>>) -> Outcome<'a> {
    match found {
        None => Ok(Value::Optional(None)),
        Some(value) => value.map(Value::some),
    }
}

fn select<'a>(value: &Value<'a>, field: &str) -> Outcome<'a> {
    match value {
        Value::Map(_) | Value::Struct(_) => {
            value.member(field).unwrap_or_else(|| Err(EvalError::no_key(field)))
        }
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => optional(inner.member(field)),
        _ => Err(EvalError::no_overload()),
    }
}

fn has(value: &Value<'_>, field: &str) -> Result<bool, EvalError> {
    match value {
        Value::Map(map) => match map.get_text(field) {
            Some(Err(e)) => Err(e),
            other => Ok(other.is_some()),
        },
        Value::Struct(s) => Ok(s.fields.contains_key(field)),
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(inner)) => has(inner, field),
        _ => Err(EvalError::no_overload()),
    }
}

/// The element, `None` where there is none.
fn at<'a>(value: &Value<'a>, index: &Value<'a>) -> Result<Option<Outcome<'a>>, EvalError> {
    match value {
        Value::List(list) => {
            let index = match index {
                Value::Int(n) => *n,
                Value::Uint(n) => i64::try_from(*n).unwrap_or(i64::MAX),
                Value::Double(n) if n.fract() == 0.0 => *n as i64,
                other => {
                    return Err(EvalError::new(format!(
                        "unsupported index type '{}' in list",
                        other.type_name()
                    )));
                }
            };
            Ok(usize::try_from(index).ok().and_then(|i| list.get(i)))
        }
        Value::Map(map) => Ok(map.get(&Key::of(index)?)),
        _ => Err(EvalError::no_overload()),
    }
}

fn absent(value: &Value<'_>, index: &Value<'_>) -> EvalError {
    let shown = match index {
        Value::Text(text) => text.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        other => other.type_name().to_owned(),
    };
    match value {
        Value::List(_) => EvalError::new(format!("index out of bounds: {shown}")),
        _ => EvalError::no_key(shown),
    }
}
