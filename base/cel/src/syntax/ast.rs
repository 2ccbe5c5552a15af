//! The syntax tree: what the parser builds, macros already expanded.

use crate::value::Value;

/// Names an [`Expr`] within its [`Ast`]; types, overloads and positions are kept beside the tree, by it.
pub type Id = u32;

/// The accumulator of expanded macros; no source can spell it.
pub const ACCU: &str = "@result";

/// A parsed expression and where its parts stand.
#[derive(Debug)]
pub struct Ast {
    pub root: Expr,
    /// Offset in characters of every node, by id.
    pub positions: Vec<u32>,
}

#[derive(Clone, Debug)]
pub struct Expr {
    pub id: Id,
    /// Height of the tree below and with this node; bounded by the parser.
    pub depth: u16,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Literal(Value<'static>),
    Ident(String),
    Select {
        operand: Box<Expr>,
        field: String,
        /// `has(operand.field)`.
        test: bool,
    },
    Call {
        function: String,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    List {
        items: Vec<Expr>,
        /// Positions of `?item`.
        optional: Vec<usize>,
    },
    Map(Vec<Entry>),
    Struct {
        name: String,
        fields: Vec<StructField>,
    },
    Comprehension(Box<Comprehension>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct StructField {
    pub id: Id,
    pub name: String,
    pub value: Expr,
    pub optional: bool,
}

/// A fold: `accu = init; for var[, var2] in range { if !condition break; accu = step }; result`.
#[derive(Clone, Debug)]
pub struct Comprehension {
    pub var: String,
    pub var2: Option<String>,
    pub range: Expr,
    pub accu: String,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

impl Kind {
    /// Height of the highest child.
    pub fn height(&self) -> u16 {
        let of = |all: &[Expr]| all.iter().map(|e| e.depth).max().unwrap_or(0);
        match self {
            Self::Literal(_) | Self::Ident(_) => 0,
            Self::Select { operand, .. } => operand.depth,
            Self::Call { target, args, .. } => of(args).max(target.as_ref().map_or(0, |t| t.depth)),
            Self::List { items, .. } => of(items),
            Self::Map(entries) => entries.iter().map(|e| e.key.depth.max(e.value.depth)).max().unwrap_or(0),
            Self::Struct { fields, .. } => fields.iter().map(|f| f.value.depth).max().unwrap_or(0),
            Self::Comprehension(c) => [&c.range, &c.init, &c.condition, &c.step, &c.result]
                .into_iter()
                .map(|e| e.depth)
                .max()
                .unwrap_or(0),
        }
    }
}
