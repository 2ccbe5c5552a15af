//! Nodes: whether they live, which pods must leave them, which addresses they hand out.

pub mod eviction;
pub mod ipam;
pub mod lifecycle;
pub mod podgc;

pub use eviction::run as run_eviction;
pub use ipam::run as run_ipam;
pub use lifecycle::run as run_lifecycle;
pub use podgc::run as run_podgc;
