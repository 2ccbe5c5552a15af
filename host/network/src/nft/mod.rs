//! nf_tables: one table as a value, and the way from one value to the next as one atomic transaction.
//!
//! A [`Table`] says what should be; [`transaction`] computes the messages that lead there from what is, touching
//! only the chains and elements that differ; [`Kernel::commit`] applies them all or none.

mod encode;
mod expr;
mod plan;

pub use encode::{Changes, Kernel};
pub use expr::{Expr, Register, Verdict};
pub use plan::{Step, transaction};

use std::collections::BTreeMap;

/// Everything in one `ip` family table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Set>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel enters the chain; `None`: only by jumps.
    pub base: Option<Base>,
    pub rules: Vec<Vec<Expr>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// `nat` or `filter`.
    pub kind: &'static str,
    pub hook: Hook,
    pub priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A named set or map. The key is raw bytes as they stand in registers, each field padded to four.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub key_len: u32,
    /// For `nft list` alone; the kernel compares bytes. See [`types`].
    pub key_type: u32,
    pub maps_to: MapsTo,
    /// Elements are added by packets and expire: the planner never touches them.
    pub dynamic_timeout_ms: Option<u64>,
    pub elements: BTreeMap<Vec<u8>, Datum>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapsTo {
    #[default]
    Nothing,
    /// Length and listing type.
    Bytes(u32, u32),
    Verdict,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Datum {
    #[default]
    None,
    Bytes(Vec<u8>),
    Verdict(Verdict),
}

/// The type ids `nft` shows values by; a concatenation packs six bits a field.
pub mod types {
    pub const IPV4: u32 = 7;
    const PROTOCOL: u32 = 12;
    const PORT: u32 = 13;
    pub const PROTOCOL_PORT: u32 = (PROTOCOL << 6) | PORT;
    pub const IPV4_PROTOCOL_PORT: u32 = (IPV4 << 12) | PROTOCOL_PORT;
    pub const IPV4_PORT: u32 = (IPV4 << 6) | PORT;
    pub const IPV4_IPV4: u32 = (IPV4 << 6) | IPV4;
    pub const INTEGER: u32 = 4;
}
