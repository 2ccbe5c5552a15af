//! One range of pod addresses for each node, cut from the cluster's.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use client::controller::Outcome;
use client::objects::name;
use client::{EventRecorder, Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use tracing::{info, warn};

use crate::{Context, Error, synced};

const NAME: &str = "node-controller";

/// Which ranges are taken. Pure.
#[derive(Debug)]
pub struct Ranges {
    base: u32,
    mask: u8,
    count: u32,
    /// Slot to node.
    taken: HashMap<u32, String>,
    next: u32,
}

impl Ranges {
    /// `cidr` cut into ranges with `mask` leading bits.
    pub fn new(cidr: &str, mask: u8) -> Option<Self> {
        let (ip, bits) = parse(cidr)?;
        if mask < bits || mask > 30 || mask - bits > 24 {
            return None;
        }
        let base = u32::from(ip) & (u32::MAX << (32 - u32::from(bits).min(31)).min(31));
        let base = if bits == 0 { 0 } else { base };
        Some(Self { base, mask, count: 1 << (mask - bits), taken: HashMap::new(), next: 0 })
    }

    fn slot_of(&self, cidr: &str) -> Option<u32> {
        let (ip, bits) = parse(cidr)?;
        let offset = u32::from(ip).checked_sub(self.base)? >> (32 - u32::from(self.mask));
        (bits == self.mask && offset < self.count).then_some(offset)
    }

    /// Notes that a node has a range already; false when another has it.
    pub fn occupy(&mut self, node: &str, cidr: &str) -> bool {
        let Some(slot) = self.slot_of(cidr) else { return true };
        let owner = self.taken.entry(slot).or_insert_with(|| node.to_owned());
        owner == node
    }

    /// A free range, each in turn, so that one given back is not given out again at once.
    pub fn allocate(&mut self, node: &str) -> Option<String> {
        let slot =
            (0..self.count).map(|i| (self.next + i) % self.count).find(|s| !self.taken.contains_key(s))?;
        self.taken.insert(slot, node.to_owned());
        self.next = (slot + 1) % self.count;
        let ip = Ipv4Addr::from(self.base + (slot << (32 - u32::from(self.mask))));
        Some(format!("{ip}/{}", self.mask))
    }

    pub fn release(&mut self, node: &str) {
        self.taken.retain(|_, owner| owner != node);
    }
}

fn parse(cidr: &str) -> Option<(Ipv4Addr, u8)> {
    let (ip, bits) = cidr.split_once('/')?;
    Some((ip.parse().ok()?, bits.parse().ok().filter(|b| *b <= 32)?))
}

struct Loop {
    client: Client,
    recorder: EventRecorder,
    nodes: Informer<Node>,
    queue: WorkQueue<String>,
    ranges: Mutex<Ranges>,
}

fn pod_cidr(node: &Node) -> Option<&str> {
    let spec = node.spec.as_ref()?;
    spec.pod_cidr
        .as_deref()
        .or_else(|| spec.pod_cidrs.as_ref()?.first().map(String::as_str))
        .filter(|c| !c.is_empty())
}

/// Returns at once when the configuration names no cluster range.
pub async fn run(cx: Context) -> Result<(), Error> {
    let Some(cidr) = &cx.config.cluster_cidr else { return Ok(()) };
    let ranges = Ranges::new(cidr, cx.config.node_cidr_mask).ok_or_else(|| {
        Error::Config(format!(
            "cluster range {cidr} cannot be cut into ranges of /{}",
            cx.config.node_cidr_mask
        ))
    })?;
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        recorder: cx.recorder_as(NAME, "cidrAllocator"),
        nodes: cx.informers.informer(),
        queue: WorkQueue::new().named("node_ipam"),
        ranges: Mutex::new(ranges),
    });
    let c = &controller;
    if !synced!(cx, c.nodes) {
        return Ok(());
    }
    // What nodes have already is taken before anything is given out.
    c.nodes.for_each(|key, node| {
        if let Some(cidr) = pod_cidr(node)
            && !c.ranges.lock().occupy(&key.name, cidr)
        {
            warn!(node = key.name, cidr, "two nodes have the same range");
        }
    });
    let this = c.clone();
    c.nodes.subscribe(move |change| {
        let node = change.object();
        let key = name(&node.metadata);
        if change.is_deleted() {
            this.ranges.lock().release(key);
            // One that found none may have one now.
            this.nodes.for_each(|other, node| {
                if pod_cidr(node).is_none() {
                    this.queue.add(other.name.clone());
                }
            });
        } else if let Some(cidr) = pod_cidr(node) {
            this.ranges.lock().occupy(key, cidr);
        } else {
            this.queue.add(key.to_owned());
        }
    });
    let this = c.clone();
    client::controller::run("nodeipam", 1, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

impl Loop {
    async fn reconcile(&self, key: &str) -> Result<Outcome, kube::Error> {
        let Some(node) = self.nodes.get(&ObjectKey::cluster(key)) else { return Ok(Outcome::DONE) };
        if pod_cidr(&node).is_some() {
            return Ok(Outcome::DONE);
        }
        let Some(cidr) = self.ranges.lock().allocate(key) else {
            let words = format!("Node {key} status is now: CIDRNotAvailable");
            self.recorder.normal(&*node, "CIDRNotAvailable", words);
            return Ok(Outcome::DONE);
        };
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        });
        match api.patch(key, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => {
                info!(node = key, cidr, "range given to node");
                Ok(Outcome::DONE)
            }
            Err(error) => {
                self.ranges.lock().release(key);
                if client::errors::is_not_found(&error) { Ok(Outcome::DONE) } else { Err(error) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn four_of_a_22_and_the_fifth_waits() {
        let mut r = Ranges::new("10.244.0.0/22", 24).unwrap();
        let given: Vec<_> = (0..4).map(|i| r.allocate(&i.to_string()).unwrap()).collect();
        assert_eq!(given, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]);
        assert_eq!(r.allocate("4"), None);
        r.release("2");
        assert_eq!(r.allocate("4").as_deref(), Some("10.244.2.0/24"));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Ranges::new("10.0.0.0/25", 24).is_none());
        assert!(Ranges::new("x/8", 24).is_none());
        assert!(Ranges::new("10.0.0.0/33", 24).is_none());
        assert!(
            Ranges::new("10.244.3.7/16", 24).is_some_and(|mut r| r.allocate("a").unwrap() == "10.244.0.0/24")
        );
    }

    proptest! {
        #[test]
        fn ranges_never_overlap(ops in prop::collection::vec((0u8..12, any::<bool>()), 0..60)) {
            let mut r = Ranges::new("10.0.0.0/21", 24).unwrap();
            let mut held: HashMap<u8, String> = HashMap::new();
            for (node, take) in ops {
                if take && !held.contains_key(&node) {
                    match r.allocate(&node.to_string()) {
                        Some(cidr) => { held.insert(node, cidr); }
                        None => prop_assert_eq!(held.len(), 8),
                    }
                } else if !take {
                    r.release(&node.to_string());
                    held.remove(&node);
                }
                let distinct: HashSet<&String> = held.values().collect();
                prop_assert_eq!(distinct.len(), held.len());
            }
        }
    }
}
