//! The built-in controllers.
//!
//! Each module is one controller: `plan` (pure) says what to do, a thin loop watches and does it. All are
//! level-triggered, woken by events only, and ask whether an optional kind is served before they watch it. They share
//! the informers of the [`InformerFactory`] they are handed, so each kind is cached once in a process.

pub mod certificates;
mod common;
mod context;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod gc;
pub mod job;
pub mod namespace;
pub mod nodes;
pub mod quota;
pub mod replicaset;
pub mod rootca;
pub mod served;
pub mod serviceaccount;
pub mod statefulset;
pub mod tokens;

pub(crate) use context::synced;
pub use context::{Config, Context, Error, run};
