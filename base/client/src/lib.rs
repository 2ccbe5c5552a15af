//! The only road to the API: clients, informers, work queues, events, leader election.
//!
//! Invariants:
//! * Nothing here touches storage or knows a router; every byte goes through a [`kube::Client`].
//! * An informer watches one kind once, however many consumers it has; ask the [`InformerFactory`] for it.
//! * Nothing here polls: timers exist only for back-off, delayed adds, leases and the aggregation of events.

mod connect;
pub mod controller;
pub mod errors;
pub mod events;
pub mod informer;
pub mod leader;
pub mod objects;
pub mod patch;
pub mod queue;
pub mod queue_stats;
mod rotating;
mod wait;

pub use connect::{ConnectError, in_process, remote, remote_as, remote_config, settings, user_agent};
pub use events::{EventRecorder, EventType};
pub use informer::{Change, Informer, InformerFactory, MetaChange, ObjectKey, Scope};
pub use leader::{LeaderConfig, LeaderElection};
pub use queue::WorkQueue;
pub use rotating::Rotating;
pub use wait::until;
