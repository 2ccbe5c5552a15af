//! The watch cache: every stored object in its final encoding, ordered, with its history window.
//!
//! One watch on the whole store feeds one [`ResourceCache`] per group-resource. A snapshot is O(1)
//! (structure-sharing map); LIST, GET and WATCH are answered from here and nowhere else.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One object as readers see it.
#[derive(Debug)]
pub struct Entry {
    /// Final JSON, `metadata.resourceVersion` included; what GET writes to the socket.
    pub json: Bytes,
    pub revision: u64,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub labels: BTreeMap<String, String>,
    /// Values of the fields this resource's field selectors can name, `metadata.*` excluded.
    pub fields: Vec<(&'static str, String)>,
}
