//! From services and host ports to a table: pure.
//!
//! A packet makes one hash look-up by (address, protocol, port) whatever the number of services, then takes one of
//! the backends at random.

use super::{Backend, Cidr, Desired, Service};
use crate::nft::{Base, Chain, Datum, Expr, Hook, MapsTo, Register, Set, Table, Verdict, types};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

const MASQUERADE_MARK: u32 = 0x4000;
const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);

/// The whole table for what is desired.
pub fn build(desired: &Desired) -> Table {
    let mut b = Builder { table: Table { name: desired.table.clone(), ..Table::default() } };
    b.set("service-ips", 12, types::IPV4_PROTOCOL_PORT, MapsTo::Verdict);
    b.set("node-ports", 8, types::PROTOCOL_PORT, MapsTo::Verdict);
    b.set("host-ports", 8, types::PROTOCOL_PORT, MapsTo::Bytes(8, types::IPV4_PORT));
    b.set("host-ports-by-address", 12, types::IPV4_PROTOCOL_PORT, MapsTo::Bytes(8, types::IPV4_PORT));
    b.set("no-backend-ips", 12, types::IPV4_PROTOCOL_PORT, MapsTo::Nothing);
    b.set("no-backend-node-ports", 8, types::PROTOCOL_PORT, MapsTo::Nothing);
    b.set("hairpin", 8, types::IPV4_IPV4, MapsTo::Nothing);
    b.entry_chains(desired.pod_cidr);
    for service in &desired.services {
        b.service(service, desired.pod_cidr);
    }
    for port in &desired.host_ports {
        let target = Datum::Bytes(address_and_port(&port.backend));
        let key = port_key(port.protocol.number(), port.port);
        match port.address {
            None => b.element("host-ports", key, target),
            Some(ip) => b.element("host-ports-by-address", [ip.octets().to_vec(), key].concat(), target),
        }
        b.hairpin(&port.backend);
    }
    b.table
}

struct Builder {
    table: Table,
}

impl Builder {
    fn set(&mut self, name: &str, key_len: u32, key_type: u32, maps_to: MapsTo) {
        let set = Set { key_len, key_type, maps_to, dynamic_timeout_ms: None, elements: BTreeMap::new() };
        self.table.sets.insert(name.into(), set);
    }

    fn element(&mut self, set: &str, key: Vec<u8>, datum: Datum) {
        if let Some(set) = self.table.sets.get_mut(set) {
            // The first to claim a key keeps it: order is the caller's, and stable.
            set.elements.entry(key).or_insert(datum);
        }
    }

    fn chain(&mut self, name: &str, base: Option<Base>, rules: Vec<Vec<Expr>>) {
        self.table.chains.insert(name.into(), Chain { base, rules });
    }

    fn hairpin(&mut self, backend: &Backend) {
        let ip = backend.address.octets();
        self.element("hairpin", [ip, ip].concat(), Datum::None);
    }

    fn entry_chains(&mut self, pods: Cidr) {
        let nat = |hook, priority| Some(Base { kind: "nat", hook, priority });
        let filter = |hook| Some(Base { kind: "filter", hook, priority: 0 });
        let jump = |chain: &str| vec![Expr::Verdict(Verdict::Jump(chain.into()))];
        self.chain("nat-prerouting", nat(Hook::Prerouting, -100), vec![jump("services")]);
        self.chain("nat-output", nat(Hook::Output, -100), vec![jump("services")]);

        let by_address = vec![destination(R0), Expr::L4Proto { to: R1 }, destination_port(R2)];
        let local_ports = [to_this_machine(), vec![Expr::L4Proto { to: R0 }, destination_port(R1)]].concat();
        let dnat = Expr::Dnat { address: R0, port: Some(R1) };
        let with = |head: &[Expr], tail: &[Expr]| [head, tail].concat();
        let verdict = |set: &str| Expr::VerdictMap { set: set.into(), from: R0 };
        let map = |set: &str| Expr::Map { set: set.into(), from: R0, to: R0 };
        self.chain(
            "services",
            None,
            vec![
                with(&by_address, &[verdict("service-ips")]),
                with(&local_ports, &[verdict("node-ports")]),
                with(&by_address, &[map("host-ports-by-address"), dnat.clone()]),
                with(&local_ports, &[map("host-ports"), dnat]),
            ],
        );

        let marked = vec![
            Expr::Mark { to: R0 },
            Expr::Bitwise { register: R0, mask: MASQUERADE_MARK.to_ne_bytes().into(), xor: vec![0; 4] },
            Expr::Compare { from: R0, equal: false, value: vec![0; 4] },
            Expr::Masquerade,
        ];
        let hairpin = vec![
            source(R0),
            destination(R1),
            Expr::Lookup { set: "hairpin".into(), from: R0, invert: false },
            Expr::Masquerade,
        ];
        let leaving = [
            in_block(source(R0), pods, true),
            in_block(destination(R0), pods, false),
            vec![Expr::Masquerade],
        ];
        let postrouting = vec![marked, hairpin, leaving.concat()];
        self.chain("nat-postrouting", nat(Hook::Postrouting, 100), postrouting);

        let reject = |head: &[Expr], set: &str| {
            let tail = [
                Expr::Lookup { set: set.into(), from: R0, invert: false },
                Expr::Verdict(Verdict::Goto("refuse".into())),
            ];
            [&new_connection()[..], head, &tail].concat()
        };
        let unserved = vec![reject(&by_address, "no-backend-ips")];
        self.chain("filter-forward", filter(Hook::Forward), unserved.clone());
        self.chain("filter-output", filter(Hook::Output), unserved);
        self.chain("filter-input", filter(Hook::Input), vec![reject(&local_ports, "no-backend-node-ports")]);
        self.chain("refuse", None, vec![vec![Expr::Reject { tcp_reset: false }]]);
        self.chain(
            "mark-for-masquerade",
            None,
            vec![vec![
                Expr::Mark { to: R0 },
                Expr::Bitwise {
                    register: R0,
                    mask: (!MASQUERADE_MARK).to_ne_bytes().into(),
                    xor: MASQUERADE_MARK.to_ne_bytes().into(),
                },
                Expr::SetMark { from: R0 },
            ]],
        );
    }

    fn service(&mut self, service: &Service, pods: Cidr) {
        let protocol = service.protocol.number();
        let key = |ip: &Ipv4Addr| [ip.octets().to_vec(), port_key(protocol, service.port)].concat();
        let node_port_key = service.node_port.map(|port| port_key(protocol, port));

        let inside = format!("svc-{}", service.id);
        if service.backends.is_empty() {
            for ip in &service.cluster_ips {
                self.element("no-backend-ips", key(ip), Datum::None);
            }
        } else {
            let mut rules = vec![
                [
                    in_block(source(R0), pods, false),
                    vec![Expr::Verdict(Verdict::Jump("mark-for-masquerade".into()))],
                ]
                .concat(),
            ];
            rules.extend(self.balance(&inside, &service.backends, service.affinity_seconds));
            self.chain(&inside, None, rules);
            for ip in &service.cluster_ips {
                self.element("service-ips", key(ip), Datum::Verdict(Verdict::Goto(inside.clone())));
            }
        }

        if service.external_ips.is_empty() && service.node_port.is_none() {
            return;
        }
        let outside = format!("ext-{}", service.id);
        let rules = match &service.local_backends {
            None if service.backends.is_empty() => Vec::new(),
            None => vec![
                vec![Expr::Verdict(Verdict::Jump("mark-for-masquerade".into()))],
                vec![Expr::Verdict(Verdict::Goto(inside.clone()))],
            ],
            Some(local) if local.is_empty() && service.backends.is_empty() => Vec::new(),
            // Others serve it, this machine does not: silence lets a load balancer's health check decide.
            Some(local) if local.is_empty() => vec![vec![Expr::Verdict(Verdict::Drop)]],
            Some(local) => self.balance(&outside, local, service.affinity_seconds),
        };
        if rules.is_empty() {
            for ip in &service.external_ips {
                self.element("no-backend-ips", key(ip), Datum::None);
            }
            if let Some(key) = node_port_key {
                self.element("no-backend-node-ports", key, Datum::None);
            }
            return;
        }
        self.chain(&outside, None, rules);
        let verdict = Datum::Verdict(Verdict::Goto(outside));
        for ip in &service.external_ips {
            self.element("service-ips", key(ip), verdict.clone());
        }
        if let Some(key) = node_port_key {
            self.element("node-ports", key, verdict);
        }
    }

    /// Rules that end in one of the backends.
    fn balance(&mut self, chain: &str, backends: &[Backend], affinity: Option<u32>) -> Vec<Vec<Expr>> {
        for backend in backends {
            self.hairpin(backend);
        }
        let dnat = Expr::Dnat { address: R0, port: Some(R1) };
        let Some(seconds) = affinity else {
            let values: Vec<_> = backends.iter().map(|b| Datum::Bytes(address_and_port(b))).collect();
            return vec![match backends {
                [one] => vec![Expr::Immediate { value: address_and_port(one), to: R0 }, dnat],
                _ => vec![Expr::Random { values, to: R0 }, dnat],
            }];
        };
        let timeout_ms = u64::from(seconds) * 1000;
        let mut rules = Vec::new();
        let mut targets = Vec::new();
        for backend in backends {
            let name = format!("{chain}-{}-{}", backend.address, backend.port);
            let set = Set {
                key_len: 4,
                key_type: types::IPV4,
                dynamic_timeout_ms: Some(timeout_ms),
                ..Set::default()
            };
            self.table.sets.insert(name.clone(), set);
            let remember = vec![source(R2), Expr::Update { set: name.clone(), key: R2, timeout_ms }];
            let go = vec![Expr::Immediate { value: address_and_port(backend), to: R0 }, dnat.clone()];
            self.chain(&name, None, vec![remember, go]);
            rules.push(vec![
                source(R0),
                Expr::Lookup { set: name.clone(), from: R0, invert: false },
                Expr::Verdict(Verdict::Goto(name.clone())),
            ]);
            targets.push(Datum::Verdict(Verdict::Goto(name)));
        }
        rules.push(vec![Expr::Random { values: targets, to: R0 }]);
        rules
    }
}

fn source(to: Register) -> Expr {
    Expr::Payload { network: true, offset: 12, len: 4, to }
}

fn destination(to: Register) -> Expr {
    Expr::Payload { network: true, offset: 16, len: 4, to }
}

fn destination_port(to: Register) -> Expr {
    Expr::Payload { network: false, offset: 2, len: 2, to }
}

fn new_connection() -> [Expr; 3] {
    [
        Expr::CtState { to: R0 },
        Expr::Bitwise { register: R0, mask: 8u32.to_ne_bytes().into(), xor: vec![0; 4] },
        Expr::Compare { from: R0, equal: false, value: vec![0; 4] },
    ]
}

/// `load` is in the block (or not).
fn in_block(load: Expr, block: Cidr, inside: bool) -> Vec<Expr> {
    vec![
        load,
        Expr::Bitwise { register: R0, mask: block.mask().to_be_bytes().into(), xor: vec![0; 4] },
        Expr::Compare { from: R0, equal: inside, value: block.address.octets().into() },
    ]
}

/// Destined to an address of this machine that is not loopback.
fn to_this_machine() -> Vec<Expr> {
    let loopback = Cidr { address: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };
    let mut rule = vec![
        Expr::DestinationType { to: R0 },
        Expr::Compare { from: R0, equal: true, value: 2u32.to_ne_bytes().into() },
    ];
    rule.extend(in_block(destination(R0), loopback, false));
    rule
}

fn port_key(protocol: u8, port: u16) -> Vec<u8> {
    let port = port.to_be_bytes();
    vec![protocol, 0, 0, 0, port[0], port[1], 0, 0]
}

fn address_and_port(backend: &Backend) -> Vec<u8> {
    let port = backend.port.to_be_bytes();
    [&backend.address.octets()[..], &[port[0], port[1], 0, 0]].concat()
}
