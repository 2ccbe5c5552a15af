//! What every pod actor uses.

use crate::config::Config;
use crate::events::Recorder;
use crate::fields::Facts;
use crate::images::Images;
use crate::machine::Machine;
use crate::network::PodNetwork;
use crate::objects::Objects;
use crate::probes::Prober;
use crate::statuses::Statuses;
use crate::volumes;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::runtime::reflector::Store;
use runtime::Runtime;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;

pub struct Shared {
    pub client: kube::Client,
    pub runtime: Arc<dyn Runtime>,
    pub network: Arc<dyn PodNetwork>,
    pub config: Arc<Config>,
    pub machine: Arc<Machine>,
    pub objects: Arc<Objects>,
    pub images: Images,
    pub recorder: Recorder,
    pub services: Store<Service>,
    pub prober: Prober,
    pub statuses: Statuses,
    pub node: watch::Receiver<Option<Arc<Node>>>,
    pub volumes: volumes::Context,
}

impl Shared {
    pub fn facts(&self, pod: &Pod, pod_ips: &[IpAddr]) -> Facts {
        let host = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let node = self.node.borrow();
        Facts {
            node_name: self.config.node_name.clone(),
            host_ips: self.config.addresses.clone(),
            pod_ips: if host { self.config.addresses.clone() } else { pod_ips.to_vec() },
            allocatable: node
                .as_ref()
                .and_then(|n| n.status.as_ref()?.allocatable.clone())
                .unwrap_or_default(),
        }
    }
}
