//! Links, routes, addresses, nftables: Linux networking through netlink, nothing of Kubernetes.
//!
//! * [`wire`], [`socket`]: netlink messages and the socket they go through.
//! * [`rtnl`]: links, addresses, routes, neighbours.
//! * [`nft`]: a table as a value; the difference of two values as one atomic transaction.
//! * [`dataplane`]: frontends to backends, masquerade, host ports: the one owner of this cluster's table.
//! * [`pods`]: joins a network namespace to the machine: address, veth pair, routes.
//! * [`machine`]: what the machine itself needs once, and how to take it all away again.
//!
//! Invariants: every link, address, route and table made here can be found again from the state folder alone, so
//! that a restarted process takes them over and [`machine::teardown`] leaves nothing behind. No program is executed.
//!
//! Pods are not on a bridge: each has a /32 on a veth pair of its own and the machine routes between them, so that
//! replies of translated connections always pass the machine's connection tracking.

pub mod dataplane;
mod error;
pub mod machine;
pub mod nft;
pub mod pods;
pub mod rtnl;
pub mod socket;
pub mod wire;

pub use error::NetworkError;
