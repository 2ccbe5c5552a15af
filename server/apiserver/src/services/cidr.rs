//! The range Service addresses come from.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    bits: u8,
}

impl Default for Cidr {
    /// 10.96.0.0/16.
    fn default() -> Self {
        Self { base: u32::from(Ipv4Addr::new(10, 96, 0, 0)), bits: 16 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range of /12 to /30, as 10.96.0.0/16")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (ip, bits) = text.split_once('/')?;
            let bits: u8 = bits.parse().ok().filter(|b| (12..=30).contains(b))?;
            let ip = u32::from(ip.parse::<Ipv4Addr>().ok()?);
            Some(Self { base: ip & (u32::MAX << (32 - bits)), bits })
        };
        parse().ok_or_else(|| CidrError(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

impl Cidr {
    /// Without the network's own address and the broadcast address.
    pub fn usable(&self) -> usize {
        (1usize << (32 - self.bits)) - 2
    }

    /// Upstream's band for addresses asked for by name.
    pub fn static_band(&self) -> usize {
        let size = self.usable();
        if size < 16 { 0 } else { (size / 16).clamp(16, 256) }
    }

    pub fn address(&self, index: usize) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1 + u32::try_from(index).unwrap_or(0))
    }

    pub fn index(&self, ip: Ipv4Addr) -> Option<usize> {
        let at = u32::from(ip).checked_sub(self.base + 1)? as usize;
        (at < self.usable()).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let c: Cidr = "10.96.0.7/24".parse().unwrap();
        assert_eq!(c.to_string(), "10.96.0.0/24");
        assert_eq!(c.address(0), Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(c.index(Ipv4Addr::new(10, 96, 0, 254)), Some(253));
        assert_eq!(c.index(Ipv4Addr::new(10, 96, 0, 255)), None);
        assert_eq!(c.index(Ipv4Addr::new(10, 96, 0, 0)), None);
        assert!("10.0.0.0/8".parse::<Cidr>().is_err());
    }
}
