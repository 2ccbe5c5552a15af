//! What every crate needs and none should write twice: PKI and certificate rotation, shutdown, backoff, tracing
//! and metrics set-up. Knows nothing of Kubernetes objects and opens no sockets.

pub mod backoff;
pub mod hash;
pub mod metrics;
pub mod pki;
pub mod shutdown;
pub mod tracing_setup;

pub use shutdown::Shutdown;
