//! Readers of untrusted input, each as one function `fn(&[u8])` that panics when a promise is broken: never a panic of
//! the reader's own, what was read and written reads back the same, codecs agree, a second application changes nothing.
//!
//! [`drive::run`] mutates a corpus (`corpus/<target>/`, files of our own) for a bounded time; that is what CI does. The
//! functions of [`targets`] fit libFuzzer and AFL as they are: `fuzz_target!(|data: &[u8]| fuzz::targets::json(data))`.

pub mod drive;
mod identity;
mod language;
mod objects;
mod words;

/// One function a kind of input.
pub mod targets {
    pub use crate::identity::{certificate, request, token};
    pub use crate::language::cel;
    pub use crate::objects::{apply, json, json_patch, merge_patch, protobuf, strategic_patch, yaml};
    pub use crate::words::{fields, labels, quantity};
}
