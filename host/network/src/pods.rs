//! Joins pods to the machine: an address, a veth pair and two routes each.
//!
//! The state folder holds one small file per pod and is the only truth about who has which address; links are named
//! after it. Both are put right against each other when a pod is joined again or forgotten.

use crate::NetworkError;
use crate::dataplane::{Backend, Cidr, Dataplane, HostPort, Protocol};
use crate::machine::{Machine, anchor_names, link_prefix};
use crate::rtnl::{Changes, Mac, ROUTE_PROTOCOL, Route, Rtnl, Veth, in_netns};
use camino::{Utf8Path, Utf8PathBuf};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

/// Next hop inside every pod; link-local, so it collides with nothing.
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const HOST_MAC: Mac = [0xee; 6];

/// A pod that wants an address.
#[derive(Clone, Debug)]
pub struct Attach {
    pub uid: String,
    /// For messages: `namespace/name`.
    pub name: String,
    /// Path of its network namespace.
    pub netns: String,
    pub host_ports: Vec<WantedPort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedPort {
    pub address: Option<Ipv4Addr>,
    /// IP protocol number.
    pub protocol: u8,
    pub host_port: u16,
    pub container_port: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    uid: String,
    name: String,
    address: Ipv4Addr,
    netns: String,
    host_ports: Vec<WantedPort>,
}

/// The pods of one machine.
pub struct Pods {
    folder: Utf8PathBuf,
    tag: String,
    block: Cidr,
    mtu: u32,
    dataplane: Dataplane,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<String, Record>,
    used: BTreeSet<Ipv4Addr>,
    next: u32,
}

impl Pods {
    /// Reads what an earlier run left. `folder` is made if missing.
    pub fn open(
        folder: &Utf8Path,
        machine: &Machine,
        mtu: u32,
        dataplane: Dataplane,
    ) -> Result<Self, NetworkError> {
        let os = |e| NetworkError::os(format!("open {folder}"), e);
        std::fs::create_dir_all(folder).map_err(os)?;
        let mut state = State::default();
        for entry in std::fs::read_dir(folder).map_err(os)? {
            let path = entry.map_err(os)?.path();
            // A file that was being written when the process died names no pod that ever got an address.
            match std::fs::read(&path).ok().and_then(|b| serde_json::from_slice::<Record>(&b).ok()) {
                Some(record) if machine.pod_cidr.contains(record.address) => {
                    state.used.insert(record.address);
                    state.records.insert(record.uid.clone(), record);
                }
                _ => std::fs::remove_file(&path).map_err(os)?,
            }
        }
        let pods = Self {
            folder: folder.into(),
            tag: machine.tag.clone(),
            block: machine.pod_cidr,
            mtu,
            dataplane,
            state: Mutex::new(state),
        };
        pods.publish_host_ports(&pods.state.lock())?;
        Ok(pods)
    }

    /// Idempotent: a pod that is joined already keeps its address. Blocks for a few milliseconds.
    pub fn attach(&self, pod: &Attach) -> Result<Ipv4Addr, NetworkError> {
        let rtnl = Rtnl::open()?;
        let record = self.reserve(pod)?;
        if let Err(error) = self.wire(&rtnl, &record) {
            // Leaves nothing half-made: the caller tries again from the start.
            let _ = self.detach(&pod.uid);
            return Err(error);
        }
        if !record.host_ports.is_empty() {
            self.publish_host_ports(&self.state.lock())?;
        }
        Ok(record.address)
    }

    /// Takes link, routes and address away; unknown pods are fine.
    pub fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        let rtnl = Rtnl::open()?;
        if let Some(link) = rtnl.link(&self.link_name(uid))? {
            let mut changes = Changes::new();
            changes.delete_link(link.index);
            // Gone with its namespace in the meantime is as good.
            rtnl.apply(&changes).or_else(|e| if e.raw_os_error() == Some(19) { Ok(()) } else { Err(e) })?;
        }
        let mut state = self.state.lock();
        let Some(record) = state.records.remove(uid) else { return Ok(()) };
        state.used.remove(&record.address);
        let path = self.folder.join(format!("{uid}.json"));
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(NetworkError::os(format!("remove {path}"), e));
            }
            _ => {}
        }
        if record.host_ports.is_empty() { Ok(()) } else { self.publish_host_ports(&state) }
    }

    /// Detaches every pod that is not in `keep`, and deletes links that no record knows.
    pub fn detach_all_except(&self, keep: &BTreeSet<String>) -> Result<(), NetworkError> {
        let gone: Vec<String> = {
            let state = self.state.lock();
            state.records.keys().filter(|uid| !keep.contains(*uid)).cloned().collect()
        };
        for uid in gone {
            self.detach(&uid)?;
        }
        let mut known: BTreeSet<String> =
            self.state.lock().records.keys().map(|uid| self.link_name(uid)).collect();
        known.extend(anchor_names(&self.tag));
        let rtnl = Rtnl::open()?;
        let prefix = link_prefix(&self.tag);
        let mut changes = Changes::new();
        for link in rtnl.links()?.iter().filter(|l| l.name.starts_with(&prefix) && !known.contains(&l.name)) {
            changes.delete_link(link.index);
        }
        rtnl.apply(&changes)
    }

    pub fn address_of(&self, uid: &str) -> Option<Ipv4Addr> {
        self.state.lock().records.get(uid).map(|r| r.address)
    }

    fn link_name(&self, uid: &str) -> String {
        let hash = kit::hash::fnv1a(uid.as_bytes());
        format!("{}{:08x}", link_prefix(&self.tag), (hash >> 32) as u32 ^ hash as u32)
    }

    /// Gives the pod its address and writes it down before anything in the kernel changes.
    fn reserve(&self, pod: &Attach) -> Result<Record, NetworkError> {
        let mut state = self.state.lock();
        for port in &pod.host_ports {
            let taken = |r: &&Record| r.uid != pod.uid && r.host_ports.iter().any(|p| collides(p, port));
            if let Some(by) = state.records.values().find(taken) {
                let protocol = protocol_of(port.protocol).name();
                return Err(NetworkError::HostPortTaken {
                    port: port.host_port,
                    protocol,
                    by: by.name.clone(),
                });
            }
        }
        let address = match state.records.get(&pod.uid) {
            Some(record) => record.address,
            None => self.free_address(&mut state)?,
        };
        let record = Record {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            address,
            netns: pod.netns.clone(),
            host_ports: pod.host_ports.clone(),
        };
        self.write(&record)?;
        state.used.insert(address);
        state.records.insert(pod.uid.clone(), record.clone());
        Ok(record)
    }

    /// The next address after the one given last, so that a released one rests as long as possible.
    fn free_address(&self, state: &mut State) -> Result<Ipv4Addr, NetworkError> {
        let size = 1u32.checked_shl(32 - u32::from(self.block.prefix)).unwrap_or(0);
        // Network, gateway and broadcast are not given out.
        let count = size.saturating_sub(3);
        for _ in 0..count {
            let n = 2 + state.next % count;
            state.next = state.next.wrapping_add(1);
            match self.block.nth(n) {
                Some(address) if !state.used.contains(&address) => return Ok(address),
                _ => {}
            }
        }
        Err(NetworkError::Exhausted(self.block.to_string()))
    }

    fn write(&self, record: &Record) -> Result<(), NetworkError> {
        let path = self.folder.join(format!("{}.json", record.uid));
        let temporary = self.folder.join(format!(".{}.tmp", record.uid));
        let bytes = serde_json::to_vec(record).map_err(|e| NetworkError::Invalid(e.to_string()))?;
        std::fs::write(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|e| NetworkError::os(format!("write {path}"), e))
    }

    fn wire(&self, rtnl: &Rtnl, record: &Record) -> Result<(), NetworkError> {
        let name = self.link_name(&record.uid);
        let ip = record.address.octets();
        let pod_mac = [0x0a, 0x58, ip[0], ip[1], ip[2], ip[3]];
        let link = match rtnl.link(&name)? {
            Some(link) if self.is_wired(record)? => link,
            Some(stale) => {
                let mut changes = Changes::new();
                changes.delete_link(stale.index);
                rtnl.apply(&changes)?;
                self.make_pair(rtnl, &name, record, pod_mac)?
            }
            None => self.make_pair(rtnl, &name, record, pod_mac)?,
        };
        let mut changes = Changes::new();
        changes.link_up(link.index);
        changes.set_neighbour(link.index, record.address, pod_mac);
        changes.set_route(&Route {
            destination: record.address,
            prefix: 32,
            link: link.index,
            gateway: None,
            source: self.block.nth(1),
            protocol: ROUTE_PROTOCOL,
            metric: 0,
        });
        rtnl.apply(&changes)
    }

    fn is_wired(&self, record: &Record) -> Result<bool, NetworkError> {
        let address = record.address;
        in_netns(&record.netns, move || Ok(Rtnl::open()?.addresses()?.iter().any(|a| a.address == address)))
    }

    fn make_pair(
        &self,
        rtnl: &Rtnl,
        name: &str,
        record: &Record,
        pod_mac: Mac,
    ) -> Result<crate::rtnl::Link, NetworkError> {
        let netns = std::fs::File::open(&record.netns)
            .map_err(|e| NetworkError::os(format!("open network namespace {}", record.netns), e))?;
        let mut changes = Changes::new();
        changes.add_veth(&Veth {
            name,
            mac: HOST_MAC,
            peer_name: "eth0",
            peer_mac: pod_mac,
            peer_netns: netns.as_fd(),
            mtu: self.mtu,
        });
        rtnl.apply(&changes)?;
        let address = record.address;
        in_netns(&record.netns, move || {
            let rtnl = Rtnl::open()?;
            let links = rtnl.links()?;
            let index = |name: &str| {
                let found = links.iter().find(|l| l.name == name).map(|l| l.index);
                found.ok_or_else(|| NetworkError::Invalid(format!("the pod has no {name}")))
            };
            let (loopback, eth0) = (index("lo")?, index("eth0")?);
            let mut changes = Changes::new();
            changes.link_up(loopback);
            changes.link_up(eth0);
            changes.add_address(eth0, address, 32);
            changes.set_neighbour(eth0, NEXT_HOP, HOST_MAC);
            let route = |destination, prefix, gateway, source| Route {
                destination,
                prefix,
                link: eth0,
                gateway,
                source,
                protocol: ROUTE_PROTOCOL,
                metric: 0,
            };
            changes.set_route(&route(NEXT_HOP, 32, None, Some(address)));
            changes.set_route(&route(Ipv4Addr::UNSPECIFIED, 0, Some(NEXT_HOP), Some(address)));
            rtnl.apply(&changes)
        })?;
        rtnl.link(name)?.ok_or_else(|| NetworkError::Invalid(format!("link {name} went away")))
    }

    fn publish_host_ports(&self, state: &State) -> Result<(), NetworkError> {
        let ports = state.records.values().flat_map(|record| {
            record.host_ports.iter().map(|port| HostPort {
                address: port.address.filter(|a| !a.is_unspecified()),
                protocol: protocol_of(port.protocol),
                port: port.host_port,
                backend: Backend { address: record.address, port: port.container_port },
            })
        });
        self.dataplane.set_host_ports(ports.collect())
    }
}

fn protocol_of(number: u8) -> Protocol {
    match number {
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn collides(a: &WantedPort, b: &WantedPort) -> bool {
    let anywhere = |p: &WantedPort| p.address.is_none_or(|a| a.is_unspecified());
    a.host_port == b.host_port
        && a.protocol == b.protocol
        && (anywhere(a) || anywhere(b) || a.address == b.address)
}
