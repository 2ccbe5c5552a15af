//! Services and EndpointSlices to one nftables ruleset: kube-proxy's work.
//!
//! [`plan`] is pure: what the cluster says in, what the dataplane should hold out. The loop in [`run`] only wakes it
//! and hands the result to the [`network::dataplane::Dataplane`], which sends the difference to the kernel.
//!
//! Not here: rules themselves (`network`), pod addresses (`network::pods`), DNS.

mod plan;
mod run;

pub use plan::{plan, service_key};
pub use run::{Config, ProxyError, run};
