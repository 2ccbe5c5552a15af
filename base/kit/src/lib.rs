//! What every crate needs and none should write twice: PKI and certificate rotation, shutdown, backoff, tracing
//! and metrics set-up. Knows nothing of Kubernetes objects and opens no sockets.

pub mod shutdown;

pub use shutdown::Shutdown;
