//! Values of the libraries' own types.

use super::authz::Authz;
use super::semver::Version;
use super::signatures::{CIDR, FORMAT, IP, QUANTITY, SEMVER, URL};
use machinery::quantity::Quantity;
use std::net::IpAddr;

#[derive(Clone, Debug)]
pub enum Opaque {
    Quantity(Quantity),
    Url(Url),
    Ip(IpAddr),
    Cidr(Cidr),
    Format(&'static super::formats::Format),
    Semver(Version),
    Authz(Authz),
}

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Url {
    pub scheme: String,
    /// With the port.
    pub host: String,
    pub path: String,
    pub query: String,
    pub whole: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cidr {
    pub address: IpAddr,
    pub bits: u8,
}

impl Opaque {
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => QUANTITY,
            Self::Url(_) => URL,
            Self::Ip(_) => IP,
            Self::Cidr(_) => CIDR,
            Self::Format(_) => FORMAT,
            Self::Semver(_) => SEMVER,
            Self::Authz(a) => a.type_name(),
        }
    }

    pub fn size(&self) -> u64 {
        let bytes = |ip: &IpAddr| if ip.is_ipv4() { 4 } else { 16 };
        match self {
            Self::Ip(ip) => bytes(ip),
            Self::Cidr(cidr) => u64::from(cidr.bits).div_ceil(8),
            _ => 1,
        }
    }

    /// As text, for those that have one.
    pub fn show(&self) -> Option<String> {
        match self {
            Self::Ip(ip) => Some(ip.to_string()),
            Self::Cidr(cidr) => Some(format!("{}/{}", cidr.address, cidr.bits)),
            Self::Quantity(q) => Some(q.to_string()),
            Self::Url(url) => Some(url.whole.clone()),
            Self::Semver(version) => Some(version.to_string()),
            Self::Format(_) | Self::Authz(_) => None,
        }
    }
}

impl PartialEq for Opaque {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a.whole == b.whole,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Semver(a), Self::Semver(b)) => a == b,
            (Self::Authz(a), Self::Authz(b)) => a == b,
            _ => false,
        }
    }
}
