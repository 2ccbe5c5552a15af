//! Links, addresses, routes and neighbours (`rtnetlink(7)`).

use crate::NetworkError;
use crate::socket::{Family, Socket};
use crate::wire::{self, Messages, flags};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;

const AF_INET: u8 = 2;
const MAIN_TABLE: u8 = 254;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;
/// `rtm_protocol` of every route made here, so that they can be told from foreign ones.
pub const ROUTE_PROTOCOL: u8 = 0x69;

pub type Mac = [u8; 6];

#[derive(Clone, Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub scope: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    pub link: u32,
    pub gateway: Option<Ipv4Addr>,
    pub source: Option<Ipv4Addr>,
    pub protocol: u8,
    pub metric: u32,
}

/// A veth pair to make: one end here, the other in another namespace.
pub struct Veth<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    pub peer_netns: BorrowedFd<'a>,
    pub mtu: u32,
}

/// Changes that are sent together. The kernel applies them in order and goes on after a failed one.
#[derive(Default)]
pub struct Changes {
    messages: Messages,
    names: Vec<String>,
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn address_header(link: u32, prefix: u8) -> [u8; 8] {
    let mut header = [AF_INET, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}

impl Changes {
    pub fn new() -> Self {
        Self::default()
    }

    fn push(
        &mut self,
        name: String,
        kind: u16,
        extra: u16,
        fixed: &[u8],
        f: impl FnOnce(&mut wire::Attributes<'_>),
    ) {
        self.messages.push(kind, flags::REQUEST | flags::ACK | extra, fixed, f);
        self.names.push(name);
    }

    pub fn add_veth(&mut self, veth: &Veth<'_>) {
        let name = format!("add veth {}", veth.name);
        self.push(name, NEWLINK, flags::CREATE | flags::EXCL, &link_header(0, 0, 0), |a| {
            a.text(IFLA_IFNAME, veth.name);
            a.put(IFLA_ADDRESS, &veth.mac);
            a.u32(IFLA_MTU, veth.mtu);
            a.nest(IFLA_LINKINFO, |a| {
                a.text(INFO_KIND, "veth");
                a.nest(INFO_DATA, |a| {
                    a.nest_with(VETH_PEER, &link_header(0, 0, 0), |a| {
                        a.text(IFLA_IFNAME, veth.peer_name);
                        a.put(IFLA_ADDRESS, &veth.peer_mac);
                        a.u32(IFLA_MTU, veth.mtu);
                        a.u32(IFLA_NET_NS_FD, veth.peer_netns.as_raw_fd() as u32);
                    });
                });
            });
        });
    }

    pub fn link_up(&mut self, link: u32) {
        self.push(format!("set link {link} up"), NEWLINK, 0, &link_header(link, 1, 1), |_| {});
    }

    pub fn delete_link(&mut self, link: u32) {
        self.push(format!("delete link {link}"), DELLINK, 0, &link_header(link, 0, 0), |_| {});
    }

    pub fn add_address(&mut self, link: u32, address: Ipv4Addr, prefix: u8) {
        let create = flags::CREATE | flags::REPLACE;
        self.push(
            format!("add address {address}/{prefix}"),
            NEWADDR,
            create,
            &address_header(link, prefix),
            |a| {
                a.put(2, &address.octets());
                a.put(1, &address.octets());
            },
        );
    }

    pub fn delete_address(&mut self, link: u32, address: Ipv4Addr, prefix: u8) {
        self.push(
            format!("delete address {address}/{prefix}"),
            DELADDR,
            0,
            &address_header(link, prefix),
            |a| {
                a.put(2, &address.octets());
            },
        );
    }

    /// Adds or replaces a unicast route of the main table.
    pub fn set_route(&mut self, route: &Route) {
        let scope = if route.gateway.is_some() { 0 } else { SCOPE_LINK };
        let fixed = [AF_INET, route.prefix, 0, 0, MAIN_TABLE, route.protocol, scope, UNICAST, 0, 0, 0, 0];
        let name = format!("add route {}/{}", route.destination, route.prefix);
        self.push(name, NEWROUTE, flags::CREATE | flags::REPLACE, &fixed, |a| route_attributes(a, route));
    }

    pub fn delete_route(&mut self, route: &Route) {
        let fixed = [AF_INET, route.prefix, 0, 0, MAIN_TABLE, 0, 255, 0, 0, 0, 0, 0];
        let name = format!("delete route {}/{}", route.destination, route.prefix);
        self.push(name, DELROUTE, 0, &fixed, |a| route_attributes(a, route));
    }

    /// A neighbour that is never asked for on the wire.
    pub fn set_neighbour(&mut self, link: u32, address: Ipv4Addr, mac: Mac) {
        let mut fixed = [AF_INET, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0];
        fixed[4..8].copy_from_slice(&link.to_ne_bytes());
        let create = flags::CREATE | flags::REPLACE;
        self.push(format!("add neighbour {address}"), NEWNEIGH, create, &fixed, |a| {
            a.put(1, &address.octets());
            a.put(2, &mac);
        });
    }
}

fn route_attributes(a: &mut wire::Attributes<'_>, route: &Route) {
    if route.prefix > 0 {
        a.put(1, &route.destination.octets());
    }
    a.u32(4, route.link);
    if let Some(gateway) = route.gateway {
        a.put(5, &gateway.octets());
    }
    if let Some(source) = route.source {
        a.put(7, &source.octets());
    }
    if route.metric > 0 {
        a.u32(6, route.metric);
    }
}

/// A route socket in the namespace of the thread that opened it.
pub struct Rtnl {
    socket: Socket,
}

impl Rtnl {
    pub fn open() -> Result<Self, NetworkError> {
        Ok(Self { socket: Socket::open(Family::Route)? })
    }

    /// Sends all changes and returns the first error; later ones were tried all the same.
    pub fn apply(&self, changes: &Changes) -> Result<(), NetworkError> {
        if changes.names.is_empty() {
            return Ok(());
        }
        self.socket.transact(&changes.messages, changes.messages.last_sequence(), |sequence| {
            let at = (sequence as usize).saturating_sub(1);
            changes.names.get(at).cloned().unwrap_or_else(|| "change the network".into())
        })
    }

    pub fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let mut request = Messages::new();
        request.push(GETLINK, flags::REQUEST | flags::DUMP, &link_header(0, 0, 0), |_| {});
        let mut links = Vec::new();
        self.socket.dump(&request, "list links", |kind, payload| {
            if kind != NEWLINK || payload.len() < 16 {
                return;
            }
            let (mut name, mut mtu) = (String::new(), 0);
            for (kind, value) in wire::attributes(&payload[16..]) {
                match kind {
                    IFLA_IFNAME => name = text(value),
                    IFLA_MTU => mtu = u32_of(value),
                    _ => {}
                }
            }
            links.push(Link { index: u32_of(&payload[4..8]), name, mtu, up: payload[8] & 1 == 1 });
        })?;
        Ok(links)
    }

    pub fn link(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        Ok(self.links()?.into_iter().find(|l| l.name == name))
    }

    /// IPv4 addresses of every link.
    pub fn addresses(&self) -> Result<Vec<Address>, NetworkError> {
        let mut request = Messages::new();
        request.push(GETADDR, flags::REQUEST | flags::DUMP, &address_header(0, 0), |_| {});
        let mut found = Vec::new();
        self.socket.dump(&request, "list addresses", |kind, payload| {
            if kind != NEWADDR || payload.len() < 8 || payload[0] != AF_INET {
                return;
            }
            let address = wire::attributes(&payload[8..]).find(|(k, _)| *k == 2).and_then(|(_, v)| ipv4(v));
            if let Some(address) = address {
                let link = u32_of(&payload[4..8]);
                found.push(Address { link, address, prefix: payload[1], scope: payload[3] });
            }
        })?;
        Ok(found)
    }

    /// IPv4 unicast routes of the main table.
    pub fn routes(&self) -> Result<Vec<Route>, NetworkError> {
        let mut request = Messages::new();
        let fixed = [AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        request.push(GETROUTE, flags::REQUEST | flags::DUMP, &fixed, |_| {});
        let mut found = Vec::new();
        self.socket.dump(&request, "list routes", |kind, payload| {
            let main = payload.len() >= 12 && payload[4] == MAIN_TABLE && payload[7] == UNICAST;
            if kind != NEWROUTE || !main || payload[0] != AF_INET {
                return;
            }
            let mut route = Route {
                destination: Ipv4Addr::UNSPECIFIED,
                prefix: payload[1],
                link: 0,
                gateway: None,
                source: None,
                protocol: payload[5],
                metric: 0,
            };
            for (kind, value) in wire::attributes(&payload[12..]) {
                match kind {
                    1 => route.destination = ipv4(value).unwrap_or(Ipv4Addr::UNSPECIFIED),
                    4 => route.link = u32_of(value),
                    5 => route.gateway = ipv4(value),
                    6 => route.metric = u32_of(value),
                    7 => route.source = ipv4(value),
                    _ => {}
                }
            }
            found.push(route);
        })?;
        Ok(found)
    }
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.try_into().ok()?;
    Some(octets.into())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// Runs `work` on a short-lived thread inside the network namespace at `path`; the caller's thread never leaves its
/// own.
pub fn in_netns<T: Send>(
    path: &str,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let fd = std::fs::File::open(path).map_err(|e| NetworkError::os(format!("open {path}"), e))?;
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&fd), Some(LinkNameSpaceType::Network))
                .map_err(|e| NetworkError::os(format!("enter network namespace {path}"), e))?;
            work()
        });
        worker.join().unwrap_or_else(|_| Err(NetworkError::Invalid(format!("work in {path} panicked"))))
    })
}
