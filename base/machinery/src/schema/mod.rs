//! The schema model: what a kind may hold, how its lists and maps merge, and its protobuf numbers.
//!
//! Built-in kinds come from a generated table, custom kinds from an OpenAPI v3 schema; both compile to the
//! same [`Schema`], and decoding, pruning, defaulting, patching and applying walk nothing else.

mod builtin;
pub mod defaults;
mod model;
pub mod settle;
pub mod shown;
pub mod structural;
mod table;

pub use builtin::{Builtin, builtin};
pub use model::*;
pub use table::{KindRow, TableError};
