//! The core group.

mod addresses;
mod affinity;
mod claims;
mod config;
mod containers;
mod controllers;
mod endpoints;
mod event;
mod limits;
mod namespace;
mod node;
mod pod;
pub(super) mod pod_defaults;
mod pod_resize;
pub(super) mod pod_spec;
mod pod_status;
mod pod_update;
mod qos;
mod resources;
mod secret;
mod security;
mod service;
mod sources;
mod volume;
mod volume_plugins;
mod volumes;
pub(super) mod warnings;

pub(super) use addresses::cluster as cluster_addresses;
pub(super) use affinity::{node_selector, tolerations};
pub(super) use claims::claim_spec;
pub(super) use endpoints::{endpoint_ip, is_own};
pub(super) use resources::{container_amount, container_resource_name};
pub(super) use volume::inline as inline_volume;

use super::kind::{Kind, Metadata};

pub(super) static KINDS: &[Kind] = &[
    pod::KIND,
    service::KIND,
    namespace::KIND,
    node::KIND,
    config::KIND,
    secret::KIND,
    Kind::namespaced("", "ServiceAccount").metadata(Metadata::Both),
    endpoints::KIND,
    event::KIND,
    event::NEW,
    claims::KIND,
    volume::KIND,
    limits::LIMIT_RANGE,
    limits::QUOTA,
    controllers::REPLICATION_CONTROLLER,
    controllers::POD_TEMPLATE,
];
