//! The one owner of this cluster's nftables table: services, host ports, masquerade.
//!
//! Callers say what should be ([`Dataplane::set_services`], [`Dataplane::set_host_ports`]); the table is computed
//! whole, and only the difference goes to the kernel, in one transaction. It keeps forwarding when this process is
//! gone, and is put back when someone else deletes from it.

mod build;
mod repair;

pub use build::build;

use crate::NetworkError;
use crate::nft::{Kernel, Table, transaction};
use parking_lot::Mutex;
use std::net::Ipv4Addr;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// An IPv4 block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Cidr {
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & self.mask() == 0
    }

    pub fn overlaps(self, other: Cidr) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The n-th address of the block; `None` past its end.
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from_bits((self.address.to_bits() & self.mask()).checked_add(n)?);
        self.contains(address).then_some(address)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl std::str::FromStr for Cidr {
    type Err = NetworkError;

    fn from_str(s: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError::Invalid(format!("{s:?} is not an IPv4 block such as 10.244.0.0/16"));
        let (address, prefix) = s.split_once('/').ok_or_else(bad)?;
        let cidr =
            Self { address: address.parse().map_err(|_| bad())?, prefix: prefix.parse().map_err(|_| bad())? };
        let host_bits = cidr.prefix <= 32 && cidr.address.to_bits() & !cidr.mask() == 0;
        host_bits.then_some(cidr).ok_or_else(bad)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    pub address: Ipv4Addr,
    pub port: u16,
}

/// One port of a service: where it is reached, and what stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique and stable; names the chains.
    pub id: String,
    pub protocol: Protocol,
    pub port: u16,
    /// Addresses reached from inside.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// Addresses reached from outside (external IPs, load balancer addresses).
    pub external_ips: Vec<Ipv4Addr>,
    /// A port on every address of this machine, loopback excepted.
    pub node_port: Option<u16>,
    /// For inside traffic.
    pub backends: Vec<Backend>,
    /// For outside traffic; `None`: the same as inside, and masqueraded. `Some`: exactly these, source kept.
    pub local_backends: Option<Vec<Backend>>,
    /// `ClientIP` affinity.
    pub affinity_seconds: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `None`: every address of this machine.
    pub address: Option<Ipv4Addr>,
    pub protocol: Protocol,
    pub port: u16,
    pub backend: Backend,
}

/// What one table is computed from.
#[derive(Clone, Debug)]
pub struct Desired {
    pub table: String,
    /// All pods of the cluster: traffic that leaves it is masqueraded.
    pub pod_cidr: Cidr,
    pub services: Vec<Service>,
    pub host_ports: Vec<HostPort>,
}

struct State {
    kernel: Kernel,
    desired: Desired,
    /// What the kernel holds; `None` after a failure or drift.
    committed: Option<Table>,
    /// Whether the services have been told once. Until then the rules of an earlier run serve, and writing would take
    /// its Services away.
    told: bool,
}

impl State {
    fn sync(&mut self) -> Result<(), NetworkError> {
        if !self.told {
            return Ok(());
        }
        let table = build(&self.desired);
        let steps = transaction(self.committed.as_ref(), &table);
        if steps.is_empty() {
            return Ok(());
        }
        tracing::debug!(table = table.name, steps = steps.len(), "nftables transaction");
        match self.kernel.commit(&table, &steps) {
            Ok(()) => {
                self.committed = Some(table);
                Ok(())
            }
            Err(error) if self.committed.is_some() => {
                // The kernel is not where we thought: start from nothing.
                tracing::warn!(%error, "nftables transaction failed, rebuilding the table");
                self.committed = None;
                self.kernel.commit(&table, &transaction(None, &table))?;
                self.committed = Some(table);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Cheap to clone; all clones write one table.
#[derive(Clone)]
pub struct Dataplane(Arc<Mutex<State>>);

impl Dataplane {
    /// Takes the table over. Until the first `set_services` the rules of an earlier run stay.
    pub fn open(table: &str, pod_cidr: Cidr) -> Result<Self, NetworkError> {
        let desired = Desired { table: table.into(), pod_cidr, services: Vec::new(), host_ports: Vec::new() };
        Ok(Self(Arc::new(Mutex::new(State {
            kernel: Kernel::open()?,
            desired,
            committed: None,
            told: false,
        }))))
    }

    /// Replaces all services. Returns once the kernel has them.
    pub fn set_services(&self, services: Vec<Service>) -> Result<(), NetworkError> {
        let mut state = self.0.lock();
        state.desired.services = services;
        state.told = true;
        state.sync()
    }

    pub fn set_host_ports(&self, host_ports: Vec<HostPort>) -> Result<(), NetworkError> {
        let mut state = self.0.lock();
        if state.desired.host_ports == host_ports && state.committed.is_some() {
            return Ok(());
        }
        state.desired.host_ports = host_ports;
        state.sync()
    }

    /// Puts the table back whenever someone else deletes from it; runs until dropped.
    pub async fn keep_repaired(&self) -> Result<(), NetworkError> {
        repair::run(self).await
    }

    fn rebuild(&self) -> Result<(), NetworkError> {
        let mut state = self.0.lock();
        state.committed = None;
        state.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_parsed_and_counted() {
        let c: Cidr = "10.96.0.0/12".parse().unwrap();
        assert_eq!(c.nth(10), Some(Ipv4Addr::new(10, 96, 0, 10)));
        assert!(c.contains(Ipv4Addr::new(10, 111, 255, 255)) && !c.contains(Ipv4Addr::new(10, 112, 0, 0)));
        assert!("10.96.0.1/12".parse::<Cidr>().is_err() && "10.96.0.0".parse::<Cidr>().is_err());
        let one: Cidr = "10.0.0.4/32".parse().unwrap();
        assert_eq!((one.nth(0), one.nth(1)), (Some(Ipv4Addr::new(10, 0, 0, 4)), None));
        assert!(
            c.overlaps("10.100.0.0/24".parse().unwrap()) && !c.overlaps("10.244.0.0/16".parse().unwrap())
        );
    }
}
