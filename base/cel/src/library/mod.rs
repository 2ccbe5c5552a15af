//! The functions: cel-go's standard library and extensions, and Kubernetes' own.

pub mod authz;
mod convert;
mod formats;
mod lists;
mod net;
pub mod opaque;
mod operators;
mod optional;
mod quantity;
pub(crate) mod regexes;
mod semver;
pub mod signatures;
mod strings;
mod text_format;
pub mod time;

use crate::error::EvalError;
use crate::run::Function;
use crate::value::Value;

type Outcome<'a> = Result<Value<'a>, EvalError>;

/// The implementation of a function; it looks at the arguments' types itself.
pub(crate) fn function(name: &str) -> Option<Function> {
    operators::function(name)
        .or_else(|| convert::function(name))
        .or_else(|| optional::function(name))
        .or_else(|| strings::function(name))
        .or_else(|| lists::function(name))
        .or_else(|| regexes::function(name))
        .or_else(|| time::function(name))
        .or_else(|| net::function(name))
        .or_else(|| quantity::function(name))
        .or_else(|| formats::function(name))
        .or_else(|| authz::function(name))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_declared_function_is_implemented() {
        const NODES: [&str; 8] =
            ["_&&_", "_||_", "_?_:_", "@not_strictly_false", "_[_]", "_[?_]", "cel.@mapInsert", "_?._"];
        for name in super::signatures::table().keys() {
            assert!(NODES.contains(name) || super::function(name).is_some(), "{name}");
        }
    }
}
