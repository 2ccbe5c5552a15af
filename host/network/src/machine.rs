//! What a machine needs once before pods can be joined to it, and how all of it is taken away.

use crate::NetworkError;
use crate::dataplane::Cidr;
use crate::nft::Kernel;
use crate::rtnl::{Changes, ROUTE_PROTOCOL, Route, Rtnl, Veth};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

/// One cluster's mark on one machine: derived from its data folder, so that several clusters share a machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Four hexadecimal digits.
    pub tag: String,
    /// Pods of this machine.
    pub pod_cidr: Cidr,
    pub service_cidr: Cidr,
}

impl Machine {
    /// Name of the cluster's nftables table.
    pub fn table(&self) -> String {
        table_name(&self.tag)
    }

    /// The machine's own address among its pods: source of what it sends to them, home of cluster DNS.
    pub fn gateway(&self) -> Ipv4Addr {
        self.pod_cidr.nth(1).unwrap_or(self.pod_cidr.address)
    }

    /// Turns forwarding on, and makes the anchor: a veth pair with both ends here that carries the gateway address
    /// and the route to service addresses. (On `lo` the kernel would send no ICMP refusals for that route.)
    /// Idempotent. Fails before any change when another network holds the blocks.
    pub fn set_up(&self) -> Result<(), NetworkError> {
        let rtnl = Rtnl::open()?;
        self.check_overlap(&rtnl)?;
        write_sysctl("net/ipv4/ip_forward", "1")?;
        let [near, far] = anchor_names(&self.tag);
        if rtnl.link(&near)?.is_none() {
            let here = std::fs::File::open("/proc/thread-self/ns/net")
                .map_err(|e| NetworkError::os("open this network namespace", e))?;
            let mut changes = Changes::new();
            changes.add_veth(&Veth {
                name: &near,
                mac: [0x0a, 0x58, 0, 0, 0, 1],
                peer_name: &far,
                peer_mac: [0x0a, 0x58, 0, 0, 0, 2],
                peer_netns: here.as_fd(),
                mtu: 1500,
            });
            rtnl.apply(&changes)?;
        }
        let links = rtnl.links()?;
        let index = |name: &str| {
            let found = links.iter().find(|l| l.name == name).map(|l| l.index);
            found.ok_or_else(|| NetworkError::Invalid(format!("this machine has no link {name}")))
        };
        let near = index(&near)?;
        let mut changes = Changes::new();
        changes.link_up(index("lo")?);
        changes.link_up(near);
        changes.link_up(index(&far)?);
        changes.add_address(near, self.gateway(), 32);
        changes.set_route(&Route {
            destination: self.service_cidr.address,
            prefix: self.service_cidr.prefix,
            link: near,
            gateway: None,
            source: Some(self.gateway()),
            protocol: ROUTE_PROTOCOL,
            metric: 0,
        });
        rtnl.apply(&changes)
    }

    /// Whether the blocks are free here, or held by this cluster already. Changes nothing.
    pub fn check(&self) -> Result<(), NetworkError> {
        self.check_overlap(&Rtnl::open()?)
    }

    fn check_overlap(&self, rtnl: &Rtnl) -> Result<(), NetworkError> {
        let blocks = [self.pod_cidr, self.service_cidr];
        if blocks[0].overlaps(blocks[1]) {
            return Err(NetworkError::Overlap(blocks[0].to_string(), blocks[1].to_string()));
        }
        let prefix = link_prefix(&self.tag);
        let own: Vec<u32> =
            rtnl.links()?.iter().filter(|l| l.name.starts_with(&prefix)).map(|l| l.index).collect();
        let routes = rtnl.routes()?.into_iter().filter(|r| r.prefix > 0);
        let routed = routes.map(|r| (r.link, Cidr { address: r.destination, prefix: r.prefix }));
        let addressed =
            rtnl.addresses()?.into_iter().map(|a| (a.link, Cidr { address: a.address, prefix: 32 }));
        for (link, held) in routed.chain(addressed) {
            if let Some(block) = blocks.iter().find(|b| !own.contains(&link) && b.overlaps(held)) {
                return Err(NetworkError::Overlap(block.to_string(), held.to_string()));
            }
        }
        Ok(())
    }
}

/// Removes every link (and with it address and route) and the table of the cluster with that tag. Idempotent; goes
/// on after errors and returns the first. `net.ipv4.ip_forward` stays on: others may have come to rely on it.
pub fn tear_down(tag: &str) -> Result<(), NetworkError> {
    let rtnl = Rtnl::open()?;
    let prefix = link_prefix(tag);
    let [_, far] = anchor_names(tag);
    // Links of pods that have just ended go by themselves, some of them between being listed and being deleted.
    const TRIES: usize = 10;
    let mut changed = Ok(());
    for _ in 0..TRIES {
        let mut changes = Changes::new();
        // Deleting one end of a pair deletes both.
        for link in rtnl.links()?.iter().filter(|l| l.name.starts_with(&prefix) && l.name != far) {
            changes.delete_link(link.index);
        }
        changed = rtnl.apply(&changes);
        if changed.is_ok() {
            break;
        }
    }
    Kernel::open()?.delete_table(&table_name(tag))?;
    changed
}

/// The two ends of the anchor pair.
pub(crate) fn anchor_names(tag: &str) -> [String; 2] {
    let prefix = link_prefix(tag);
    [format!("{prefix}-gw"), format!("{prefix}-nil")]
}

pub(crate) fn link_prefix(tag: &str) -> String {
    format!("ic-{tag}")
}

/// Name of the nftables table of the cluster with that tag.
pub fn table_name(tag: &str) -> String {
    format!("ironclad-{tag}")
}

/// The address other machines (and pods) reach this one at: the default route's source, else the first global
/// address, else `None`.
pub fn primary_address() -> Result<Option<(Ipv4Addr, u32)>, NetworkError> {
    let rtnl = Rtnl::open()?;
    let links = rtnl.links()?;
    let addresses = rtnl.addresses()?;
    let mtu = |index: u32| links.iter().find(|l| l.index == index).map_or(1500, |l| l.mtu);
    let mut defaults: Vec<_> = rtnl.routes()?.into_iter().filter(|r| r.prefix == 0).collect();
    defaults.sort_by_key(|r| r.metric);
    for route in &defaults {
        let own = addresses.iter().find(|a| a.link == route.link && a.scope == 0).map(|a| a.address);
        if let Some(address) = route.source.or(own) {
            return Ok(Some((address, mtu(route.link))));
        }
    }
    // Neither loopback nor a link of any of our clusters.
    let skipped = |l: &&crate::rtnl::Link| l.name == "lo" || l.name.starts_with("ic-");
    let skipped: Vec<u32> = links.iter().filter(skipped).map(|l| l.index).collect();
    let plain = |a: &&crate::rtnl::Address| a.scope == 0 && !skipped.contains(&a.link);
    Ok(addresses.iter().find(plain).map(|a| (a.address, mtu(a.link))))
}

fn write_sysctl(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|e| NetworkError::os(format!("set {path} to {value}"), e))
}
