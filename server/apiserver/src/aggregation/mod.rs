//! The aggregation layer: group versions that other API servers answer for, as `APIService`s register them.
//!
//! An [`Extension`] is one such group version. It is an entry of the resolver's index like any other; what differs is
//! who answers. Requests come here after authentication, flow control and authorization, and are sent on
//! ([`proxy`]) under the front proxy's certificate with the user's name in headers. Source: KEP-263 and
//! kube-aggregator.
//!
//! [`controller`] keeps the `APIService`s of what this server serves itself, follows those of others, and swaps the
//! index. Each extension has one task ([`extension`]) that says whether it is available ([`availability`]) and keeps
//! its discovery and OpenAPI documents ([`documents`]). With no extension registered there is no task, no watch and no
//! branch on a request's way but an empty map.

mod autoregister;
mod availability;
mod backend;
mod controller;
mod documents;
mod extension;
pub mod priorities;
pub(crate) mod proxy;
mod transport;

pub(crate) use backend::{Address, Service};
pub(crate) use controller::{metrics, start};
pub use extension::Extension;
pub(crate) use proxy::target;
pub(crate) use transport::{Pool, client_tls, failure, pool, request_bytes, server_response};

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
pub(crate) const PLURAL: &str = "apiservices";
