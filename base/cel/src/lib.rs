//! The Common Expression Language, as Kubernetes v1.36 uses it in the API server.
//!
//! Source to value: [`syntax`] (lexer, parser, macros), [`check`] (types, and the worst-case cost of an expression),
//! [`run`] (evaluation with its actual cost), over the functions of [`library`] and the data of [`value`], read
//! through declared types ([`decl`]).
//!
//! The crate is pure: no I/O, no clock, no threads. What needs the outside (an authorizer's decision, a deadline)
//! is asked of the caller. Names, error messages and costs are cel-go's and upstream's.
//!
//! Invariants: no input makes it panic; depth and length of a source, and the cost of an evaluation, are bounded.

pub mod check;
pub mod decl;
pub mod error;
pub mod library;
pub mod names;
mod program;
pub mod run;
pub mod syntax;
pub mod types;
pub mod value;

pub use check::Env;
pub use check::estimate::Range;
pub use decl::{Decl, from_schema};
pub use error::{ErrorKind, EvalError};
pub use program::{CompileError, Program, compile};
pub use run::{Evaluation, NoVars, Vars};
pub use types::Type;
pub use value::Value;

/// The most one evaluation may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// The most all evaluations for one object, or for one binding of a policy, may cost.
pub const RUNTIME_BUDGET: i64 = 10_000_000;
/// The most the match conditions of one webhook or binding may cost.
pub const MATCH_BUDGET: i64 = 2_500_000;
