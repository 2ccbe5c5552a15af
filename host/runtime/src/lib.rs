//! Images, snapshots and containers: the built-in container runtime.
//!
//! Knows nothing of Kubernetes objects: its words are CRI's. [`Runtime`] is the seam the node agent talks
//! through; [`builtin`] answers it here, an external CRI endpoint can answer it too.

pub mod api;
pub mod builtin;
mod cgroup;
mod image;
mod launch;
mod supervisor;
mod sys;
mod wire;

pub use api::*;
pub use supervisor::supervise_main;
