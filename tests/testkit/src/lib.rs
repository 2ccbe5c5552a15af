//! Starts what tests need and cleans it up: images from this machine's own programs, network namespaces that act as
//! machines, private servers, the built binary itself.
//!
//! Everything here is released on drop, also when a test panics. What a machine lacks is an error with the reason,
//! which a test prints as `skipped: reason`.

pub mod api;
pub mod cluster;
pub mod image;
pub mod netns;
pub mod process;
pub mod traces;
