//! The expressions rules are made of, in the kernel's words (`nft --debug=netlink` prints the same).

use super::Datum;
use crate::wire::Attributes;

/// A 32-bit register, 0 to 15; wider values take several in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    fn number(self) -> u32 {
        8 + self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Bytes of the network (`true`) or transport header.
    Payload {
        network: bool,
        offset: u32,
        len: u32,
        to: Register,
    },
    /// `meta l4proto`.
    L4Proto {
        to: Register,
    },
    /// `meta mark`.
    Mark {
        to: Register,
    },
    /// `meta mark set`.
    SetMark {
        from: Register,
    },
    /// `meta iifname` / `oifname`, 16 bytes.
    IfName {
        incoming: bool,
        to: Register,
    },
    /// `ct state`.
    CtState {
        to: Register,
    },
    /// `fib daddr type`.
    DestinationType {
        to: Register,
    },
    Compare {
        from: Register,
        equal: bool,
        value: Vec<u8>,
    },
    /// `(from & mask) ^ xor` in place.
    Bitwise {
        register: Register,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Breaks the rule unless found (or found, with `invert`).
    Lookup {
        set: String,
        from: Register,
        invert: bool,
    },
    /// Looks up a value into registers.
    Map {
        set: String,
        from: Register,
        to: Register,
    },
    /// Takes the verdict found.
    VerdictMap {
        set: String,
        from: Register,
    },
    /// `numgen random mod N map { ... }`: one of the values, evenly.
    Random {
        values: Vec<Datum>,
        to: Register,
    },
    Immediate {
        value: Vec<u8>,
        to: Register,
    },
    /// Adds or refreshes a key of a dynamic set.
    Update {
        set: String,
        key: Register,
        timeout_ms: u64,
    },
    Verdict(Verdict),
    Dnat {
        address: Register,
        port: Option<Register>,
    },
    Masquerade,
    /// ICMP port unreachable (or TCP reset).
    Reject {
        tcp_reset: bool,
    },
}

impl Expr {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::L4Proto { .. } | Self::Mark { .. } | Self::SetMark { .. } | Self::IfName { .. } => "meta",
            Self::CtState { .. } => "ct",
            Self::DestinationType { .. } => "fib",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Lookup { .. } | Self::Map { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Random { .. } => "numgen",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Update { .. } => "dynset",
            Self::Dnat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Reject { .. } => "reject",
        }
    }

    /// Writes the expression's own attributes. `Random` is followed by a lookup that the encoder adds.
    pub(super) fn encode(&self, a: &mut Attributes<'_>) {
        match self {
            Self::Payload { network, offset, len, to } => {
                a.be32(1, to.number());
                a.be32(2, if *network { 1 } else { 2 });
                a.be32(3, *offset);
                a.be32(4, *len);
            }
            Self::L4Proto { to } => meta(a, *to, 16),
            Self::Mark { to } => meta(a, *to, 3),
            Self::SetMark { from } => {
                a.be32(2, 3);
                a.be32(3, from.number());
            }
            Self::IfName { incoming, to } => meta(a, *to, if *incoming { 6 } else { 7 }),
            Self::CtState { to } => {
                a.be32(1, to.number());
                a.be32(2, 0);
            }
            Self::DestinationType { to } => {
                a.be32(1, to.number());
                a.be32(2, 3);
                a.be32(3, 2);
            }
            Self::Compare { from, equal, value } => {
                a.be32(1, from.number());
                a.be32(2, u32::from(!equal));
                a.nest(3, |a| a.put(1, value));
            }
            Self::Bitwise { register, mask, xor } => {
                a.be32(1, register.number());
                a.be32(2, register.number());
                a.be32(3, mask.len() as u32);
                a.nest(4, |a| a.put(1, mask));
                a.nest(5, |a| a.put(1, xor));
            }
            Self::Lookup { set, from, invert } => {
                a.text(1, set);
                a.be32(2, from.number());
                if *invert {
                    a.be32(5, 1);
                }
            }
            Self::Map { set, from, to } => {
                a.text(1, set);
                a.be32(2, from.number());
                a.be32(3, to.number());
            }
            Self::VerdictMap { set, from } => {
                a.text(1, set);
                a.be32(2, from.number());
                a.be32(3, 0);
            }
            Self::Random { values, to } => {
                a.be32(1, to.number());
                a.be32(2, values.len() as u32);
                a.be32(3, 1);
            }
            Self::Immediate { value, to } => {
                a.be32(1, to.number());
                a.nest(2, |a| a.put(1, value));
            }
            Self::Verdict(verdict) => {
                a.be32(1, 0);
                a.nest(2, |a| encode_verdict(a, verdict));
            }
            Self::Update { set, key, timeout_ms } => {
                a.text(1, set);
                a.be32(3, 1);
                a.be32(4, key.number());
                a.be64(6, *timeout_ms);
            }
            Self::Dnat { address, port } => {
                a.be32(1, 1);
                a.be32(2, 2);
                a.be32(3, address.number());
                if let Some(port) = port {
                    a.be32(5, port.number());
                }
            }
            Self::Masquerade => {}
            Self::Reject { tcp_reset } => {
                a.be32(1, u32::from(*tcp_reset));
                a.put(2, &[3]);
            }
        }
    }
}

fn meta(a: &mut Attributes<'_>, to: Register, key: u32) {
    a.be32(1, to.number());
    a.be32(2, key);
}

/// `NFTA_DATA_VERDICT`.
pub(super) fn encode_verdict(a: &mut Attributes<'_>, verdict: &Verdict) {
    a.nest(2, |a| {
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3i32 as u32, Some(chain)),
            Verdict::Goto(chain) => (-4i32 as u32, Some(chain)),
            Verdict::Return => (-5i32 as u32, None),
        };
        a.be32(1, code);
        if let Some(chain) = chain {
            a.text(2, chain);
        }
    });
}
