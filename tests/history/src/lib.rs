//! Did the server tell one story? A pure checker of what concurrent clients did and saw, and clients that make such
//! histories against a server whose process, and whose etcd, are killed at random moments.
//!
//! * [`linear`]: the writes and reads of each key can be put in one order that agrees with real time, with every
//!   outcome that was told, and with an unknown outcome counted as done at any later time, or never.
//! * [`watch`]: every watcher saw each key's versions in order, without gaps or repeats; lists are snapshots; versions
//!   only grow; what was acknowledged happened at the version it was acknowledged with.

pub mod clients;
pub mod linear;
pub mod subject;
pub mod watch;
