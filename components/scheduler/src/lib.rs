//! The built-in scheduler: finds each pod a node.
//!
//! [`world`] is what is known, kept up to date change by change; [`cycle`] chooses a node, [`preemption`] makes room;
//! both are pure. [`run`] is the loop around them: it assumes a placement at once and binds it in the background, so the
//! next pod never waits for the API server. There is no timer in the path of a pod that fits.

pub mod cycle;
pub mod framework;
pub mod plugins;
pub mod preemption;
mod queue;
pub mod resources;
mod run;
#[cfg(test)]
mod testing;
pub mod world;

pub use plugins::all as default_plugins;
pub use run::{Config, Error, run};
