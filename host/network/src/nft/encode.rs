//! Steps as one nf_tables batch, and the socket that commits it.

use super::expr::{Register, encode_verdict};
use super::types;
use super::{Chain, Datum, Expr, MapsTo, Set, Step, Table};
use crate::NetworkError;
use crate::socket::{Family, Socket};
use crate::wire::{Attributes, Messages, flags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const VERDICT_TYPE: u32 = 0xffff_ff00;
/// Elements of one message: keeps every attribute below netlink's 64 KiB.
const CHUNK: usize = 400;
/// `NFNLGRP_NFTABLES` as a bit of `nl_groups`.
const GROUP: u32 = 1 << 6;

/// The kernel's tables in one network namespace.
pub struct Kernel {
    socket: Socket,
}

impl Kernel {
    pub fn open() -> Result<Self, NetworkError> {
        Ok(Self { socket: Socket::open(Family::Netfilter)? })
    }

    /// The port id that notifications of this socket's own transactions carry.
    pub fn port(&self) -> Result<u32, NetworkError> {
        self.socket.port()
    }

    /// Applies all steps or none.
    pub fn commit(&self, table: &Table, steps: &[Step]) -> Result<(), NetworkError> {
        if steps.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::begin(&table.name);
        for step in steps {
            batch.step(table, step);
        }
        batch.commit(&self.socket)
    }

    /// Removes a table; absent is fine.
    pub fn delete_table(&self, name: &str) -> Result<(), NetworkError> {
        let mut batch = Batch::begin(name);
        batch.add_table();
        batch.message("delete table", DELTABLE, 0, |a| a.text(1, name));
        batch.commit(&self.socket)
    }
}

/// Wakes when anyone changes any table of this namespace, so that drift can be repaired.
pub struct Changes {
    socket: Socket,
}

impl Changes {
    pub fn listen() -> Result<Self, NetworkError> {
        Ok(Self { socket: Socket::listen(Family::Netfilter, GROUP)? })
    }

    /// Reads one notification without blocking; true if another socket than `own_port` deletes something of the
    /// named table.
    pub fn foreign_deletion(
        &self,
        table: &str,
        own_port: u32,
        buffer: &mut [u8],
    ) -> rustix::io::Result<bool> {
        let length = match self.socket.receive(buffer) {
            // Notifications were lost: something may have been deleted.
            Err(rustix::io::Errno::NOBUFS) => return Ok(true),
            other => other?,
        };
        Ok(crate::wire::messages(&buffer[..length]).any(|m| {
            let deletion = [DELTABLE, DELCHAIN, DELRULE, DELSET, DELSETELEM].contains(&(m.kind & 0xff));
            let names = |m: &crate::wire::Received<'_>| {
                crate::wire::attributes(m.payload.get(4..).unwrap_or_default())
                    .any(|(kind, value)| kind == 1 && value.strip_suffix(&[0]) == Some(table.as_bytes()))
            };
            m.kind >> 8 == SUBSYSTEM && m.port != own_port && deletion && names(&m)
        }))
    }
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

struct Batch<'t> {
    table: &'t str,
    messages: Messages,
    names: Vec<String>,
    anonymous: u32,
}

impl<'t> Batch<'t> {
    fn begin(table: &'t str) -> Self {
        let mut messages = Messages::new();
        messages.push(BATCH_BEGIN, flags::REQUEST, &[0, 0, 0, SUBSYSTEM as u8], |_| {});
        Self { table, messages, names: vec!["begin a transaction".into()], anonymous: 0 }
    }

    fn message(
        &mut self,
        name: impl Into<String>,
        kind: u16,
        extra: u16,
        f: impl FnOnce(&mut Attributes<'_>),
    ) {
        let kind = (SUBSYSTEM << 8) | kind;
        self.messages.push(kind, flags::REQUEST | extra, &[2, 0, 0, 0], f);
        self.names.push(name.into());
    }

    fn commit(mut self, socket: &Socket) -> Result<(), NetworkError> {
        // The acknowledgement of the last real message says that the whole batch went through.
        self.messages.flag_last(flags::ACK);
        let last = self.messages.last_sequence();
        let (table, names) = (self.table.to_owned(), self.names);
        let mut framed = self.messages;
        framed.push_bare(BATCH_END, &[0, 0, 0, SUBSYSTEM as u8]);
        socket.transact(&framed, last, |sequence| {
            let name = names.get((sequence as usize).saturating_sub(1)).map_or("change", String::as_str);
            format!("nftables table {table}: {name}")
        })
    }

    fn add_table(&mut self) {
        let table = self.table;
        self.message("add table", NEWTABLE, flags::CREATE, |a| a.text(1, table));
    }

    fn step(&mut self, new: &Table, step: &Step) {
        let table = self.table;
        match step {
            Step::ResetTable => {
                self.add_table();
                self.message("delete table", DELTABLE, 0, |a| a.text(1, table));
                self.add_table();
            }
            Step::AddChain(name, base) => {
                self.message(format!("add chain {name}"), NEWCHAIN, flags::CREATE, |a| {
                    a.text(1, table);
                    a.text(3, name);
                    if let Some(base) = base {
                        a.nest(4, |a| {
                            a.be32(1, base.hook as u32);
                            a.be32(2, base.priority as u32);
                        });
                        a.be32(5, 1);
                        a.text(7, base.kind);
                    }
                });
            }
            Step::AddSet(name) => {
                if let Some(set) = new.sets.get(name) {
                    self.add_set(name, set);
                }
            }
            Step::FlushChain(name) => self.message(format!("flush chain {name}"), DELRULE, 0, |a| {
                a.text(1, table);
                a.text(2, name);
            }),
            Step::DeleteSet(name) => self.message(format!("delete set {name}"), DELSET, 0, |a| {
                a.text(1, table);
                a.text(2, name);
            }),
            Step::DeleteChain(name) => self.message(format!("delete chain {name}"), DELCHAIN, 0, |a| {
                a.text(1, table);
                a.text(3, name);
            }),
            Step::AddElements(name, elements) => {
                for chunk in elements.chunks(CHUNK) {
                    let elements = chunk.iter().map(|(k, v)| (k.as_slice(), v));
                    self.elements(format!("add elements of {name}"), NEWSETELEM, name, None, elements);
                }
            }
            Step::DeleteElements(name, keys) => {
                for chunk in keys.chunks(CHUNK) {
                    let elements = chunk.iter().map(|k| (k.as_slice(), &Datum::None));
                    self.elements(format!("delete elements of {name}"), DELSETELEM, name, None, elements);
                }
            }
            Step::AddRules(name) => {
                if let Some(Chain { rules, .. }) = new.chains.get(name) {
                    for rule in rules {
                        self.add_rule(name, rule);
                    }
                }
            }
        }
    }

    fn add_set(&mut self, name: &str, set: &Set) {
        let table = self.table;
        let mut set_flags = 0;
        if set.maps_to != MapsTo::Nothing {
            set_flags |= SET_MAP;
        }
        if set.dynamic_timeout_ms.is_some() {
            set_flags |= SET_TIMEOUT | SET_EVAL;
        }
        self.anonymous += 1;
        let id = self.anonymous;
        self.message(format!("add set {name}"), NEWSET, flags::CREATE, |a| {
            a.text(1, table);
            a.text(2, name);
            a.be32(3, set_flags);
            a.be32(4, set.key_type);
            a.be32(5, set.key_len);
            maps_to(a, set.maps_to);
            a.be32(10, id);
            if let Some(timeout) = set.dynamic_timeout_ms {
                a.be64(11, timeout);
            }
        });
    }

    fn elements<'e>(
        &mut self,
        what: String,
        kind: u16,
        set: &str,
        id: Option<u32>,
        elements: impl Iterator<Item = (&'e [u8], &'e Datum)>,
    ) {
        let table = self.table;
        let create = if kind == NEWSETELEM { flags::CREATE } else { 0 };
        self.message(what, kind, create, |a| {
            a.text(1, table);
            a.text(2, set);
            if let Some(id) = id {
                a.be32(4, id);
            }
            a.nest(3, |a| {
                for (key, datum) in elements {
                    a.nest(1, |a| {
                        a.nest(1, |a| a.put(1, key));
                        match datum {
                            Datum::None => {}
                            Datum::Bytes(bytes) => a.nest(2, |a| a.put(1, bytes)),
                            Datum::Verdict(verdict) => a.nest(2, |a| encode_verdict(a, verdict)),
                        }
                    });
                }
            });
        });
    }

    fn add_rule(&mut self, chain: &str, rule: &[Expr]) {
        let table = self.table;
        // Anonymous maps come first, so that the rule can name them by id.
        let mut maps = Vec::new();
        for expr in rule {
            let Expr::Random { values, .. } = expr else { continue };
            self.anonymous += 1;
            let id = self.anonymous;
            let target = match values.first() {
                Some(Datum::Bytes(bytes)) => MapsTo::Bytes(bytes.len() as u32, types::IPV4_PORT),
                _ => MapsTo::Verdict,
            };
            self.message("add anonymous map", NEWSET, flags::CREATE, |a| {
                a.text(1, table);
                a.text(2, "__map%d");
                a.be32(3, SET_ANONYMOUS | SET_CONSTANT | SET_MAP);
                a.be32(4, types::INTEGER);
                a.be32(5, 4);
                maps_to(a, target);
                a.be32(10, id);
                a.nest(9, |a| a.be32(1, values.len() as u32));
            });
            let keys: Vec<[u8; 4]> = (0..values.len() as u32).map(u32::to_ne_bytes).collect();
            let pairs: Vec<_> = keys.iter().zip(values).collect();
            for chunk in pairs.chunks(CHUNK) {
                let elements = chunk.iter().map(|(k, v)| (k.as_slice(), *v));
                self.elements("add map elements".into(), NEWSETELEM, "__map%d", Some(id), elements);
            }
            maps.push(id);
        }
        let mut maps = maps.into_iter();
        self.message(format!("add rule of {chain}"), NEWRULE, flags::CREATE | flags::APPEND, |a| {
            a.text(1, table);
            a.text(2, chain);
            a.nest(4, |a| {
                for expr in rule {
                    a.nest(1, |a| {
                        a.text(1, expr.name());
                        a.nest(2, |a| expr.encode(a));
                    });
                    if let Expr::Random { values, to } = expr {
                        let id = maps.next().unwrap_or_default();
                        let verdict = !matches!(values.first(), Some(Datum::Bytes(_)));
                        a.nest(1, |a| {
                            a.text(1, "lookup");
                            a.nest(2, |a| random_lookup(a, id, *to, verdict));
                        });
                    }
                }
            });
        });
    }
}

fn random_lookup(a: &mut Attributes<'_>, id: u32, register: Register, verdict: bool) {
    a.text(1, "__map%d");
    a.be32(2, 8 + register.0);
    a.be32(3, if verdict { 0 } else { 8 + register.0 });
    a.be32(4, id);
}

fn maps_to(a: &mut Attributes<'_>, target: MapsTo) {
    match target {
        MapsTo::Nothing => {}
        MapsTo::Bytes(len, kind) => {
            a.be32(6, kind);
            a.be32(7, len);
        }
        MapsTo::Verdict => {
            a.be32(6, VERDICT_TYPE);
            a.be32(7, 16);
        }
    }
}
