//! Source text to a syntax tree (cel-spec's grammar), with macros expanded as cel-go expands them: the cost model
//! is defined over the expansion.

pub mod ast;
mod lexer;
mod macros;
mod parser;

pub(crate) use parser::RESERVED;
pub use parser::{parse, parse_with};

/// What is wrong with the text, and where (in characters).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    pub at: u32,
    pub message: String,
}

/// Deeper expressions are refused.
pub const MAX_DEPTH: u16 = 250;

/// Longer sources are refused (cel-go's code point limit).
pub const MAX_SOURCE: usize = 100_000;
