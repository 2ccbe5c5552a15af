//! Programs: checked trees with names resolved to slots and functions, and their evaluation.

mod cost;
mod eval;
mod plan;

pub(crate) use eval::run;
pub use eval::{Evaluation, NoVars, Vars};
pub use plan::PlanError;
pub(crate) use plan::plan;

use crate::error::EvalError;
use crate::value::Value;

/// A function of the library: arguments (a member's target first) to a value.
pub type Function = for<'a> fn(&[Value<'a>]) -> Result<Value<'a>, EvalError>;

/// A resolved tree.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    /// A variable of the environment, by name.
    Var(Box<str>),
    /// `variables.name`: asked of the environment when first read.
    Variable(Box<str>),
    Local(usize),
    Select(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    OptSelect(Box<Node>, Box<str>),
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<Node>, Box<Node>, Box<Node>),
    NotStrictlyFalse(Box<Node>),
    Call {
        function: Function,
        cost: cost::Kind,
        args: Box<[Node]>,
    },
    List {
        items: Box<[Node]>,
        optional: Box<[usize]>,
    },
    Map(Box<[(Node, Node, bool)]>),
    Struct {
        name: Box<str>,
        fields: Box<[(Box<str>, Node, bool)]>,
    },
    /// `accu + [item]`, in place.
    Append {
        slot: usize,
        item: Box<Node>,
    },
    /// `cel.@mapInsert(accu, ...)`, in place.
    Insert {
        slot: usize,
        key: Option<Box<Node>>,
        value: Box<Node>,
    },
    Bind {
        slot: usize,
        init: Box<Node>,
        result: Box<Node>,
    },
    Fold(Box<Fold>),
}

#[derive(Debug)]
pub(crate) struct Fold {
    pub range: Node,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
    /// The accumulator's slot; the variables follow.
    pub slot: usize,
    pub two: bool,
}
