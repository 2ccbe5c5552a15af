//! Kubernetes protobuf: messages by the schema's field numbers, byte for byte as upstream's generated code writes
//! them, in the `k8s\0` envelope (`runtime.Unknown`).
//!
//! A value that was never set is written as Go's zero unless it is a pointer, list or map; map entries are sorted.

mod read;
pub(crate) mod wire;
mod write;

pub use read::{Envelope, decode, decode_message, open};
pub use write::{encode, encode_list, encode_message, envelope, frame, watch_event};

/// The four bytes before every object.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// A value cannot be written, or bytes cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    NoMagic,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: integer overflow")]
    Overflow,
    #[error("exceeded max depth")]
    TooDeep,
    #[error("{0} has no protobuf form")]
    NoForm(String),
    /// A value of another type than the schema says, or of a wrong format.
    #[error("{path}: {reason}")]
    Value { path: String, reason: String },
}

#[cfg(test)]
mod tests;
