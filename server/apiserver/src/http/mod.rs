//! HTTP in and out: what a request asks for, in which encoding, and the sockets it comes through.
//!
//! Nothing here knows a kind or touches storage.

pub mod body;
pub(crate) mod deadline;
pub mod info;
pub mod negotiate;
pub mod options;
pub mod respond;
pub mod serve;
pub mod service;

pub use body::{Body, BoxError, RequestBody};
pub use info::RequestInfo;
pub use negotiate::{Encoding, Negotiated, Transform};
