//! URLs, IP addresses and CIDRs.

use super::Outcome;
use super::opaque::{Cidr, Opaque, Url};
use crate::error::EvalError;
use crate::run::Function;
use crate::value::{Key, Value};
use indexmap::IndexMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "url" => |args| {
            parse_url(text(args)?)
                .map(|u| Value::opaque(Opaque::Url(u)))
                .map_err(|e| EvalError::new(format!("URL parse error during conversion from string: {e}")))
        },
        "isURL" => |args| Ok(Value::Bool(parse_url(text(args)?).is_ok())),
        "getScheme" => |args| url(args).map(|u| Value::text(u.scheme.as_str())),
        "getHost" => |args| url(args).map(|u| Value::text(u.host.as_str())),
        "getHostname" => |args| url(args).map(|u| Value::text(split_host(&u.host).0)),
        "getPort" => |args| url(args).map(|u| Value::text(split_host(&u.host).1)),
        "getEscapedPath" => |args| url(args).map(|u| Value::text(u.path.as_str())),
        "getQuery" => |args| url(args).map(|u| query(&u.query)),
        "ip" => |args| match args {
            [Value::Text(text)] => {
                parse_ip(text).map(|ip| Value::opaque(Opaque::Ip(ip))).map_err(EvalError::new)
            }
            _ => cidr(args).map(|c| Value::opaque(Opaque::Ip(c.address))),
        },
        "isIP" => |args| Ok(Value::Bool(parse_ip(text(args)?).is_ok())),
        "ip.isCanonical" => |args| {
            let text = text(args)?;
            parse_ip(text).map(|ip| Value::Bool(ip.to_string() == text)).map_err(EvalError::new)
        },
        "family" => |args| ip(args).map(|ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => |args| ip(args).map(|ip| Value::Bool(ip.is_unspecified())),
        "isLoopback" => |args| ip(args).map(|ip| Value::Bool(ip.is_loopback())),
        "isLinkLocalMulticast" => |args| ip(args).map(|ip| Value::Bool(link_local_multicast(&ip))),
        "isLinkLocalUnicast" => |args| ip(args).map(|ip| Value::Bool(link_local_unicast(&ip))),
        "isGlobalUnicast" => |args| ip(args).map(|ip| Value::Bool(global_unicast(&ip))),
        "cidr" => |args| {
            parse_cidr(text(args)?).map(|c| Value::opaque(Opaque::Cidr(c))).map_err(|e| {
                EvalError::new(format!("network address parse error during conversion from string: {e}"))
            })
        },
        "isCIDR" => |args| Ok(Value::Bool(parse_cidr(text(args)?).is_ok())),
        "containsIP" => contains_ip,
        "containsCIDR" => contains_cidr,
        "prefixLength" => |args| cidr(args).map(|c| Value::Int(i64::from(c.bits))),
        "masked" => |args| {
            let cidr = cidr(args)?;
            Ok(Value::opaque(Opaque::Cidr(Cidr { address: mask(cidr.address, cidr.bits), bits: cidr.bits })))
        },
        _ => return None,
    })
}

fn text<'s>(args: &'s [Value<'_>]) -> Result<&'s str, EvalError> {
    match args {
        [Value::Text(text)] => Ok(text),
        _ => Err(EvalError::no_overload()),
    }
}

fn opaque<'s>(args: &'s [Value<'_>]) -> Result<&'s Opaque, EvalError> {
    match args.first() {
        Some(Value::Opaque(o)) => Ok(o),
        _ => Err(EvalError::no_overload()),
    }
}

fn url<'s>(args: &'s [Value<'_>]) -> Result<&'s Url, EvalError> {
    match opaque(args)? {
        Opaque::Url(url) => Ok(url),
        _ => Err(EvalError::no_overload()),
    }
}

fn ip(args: &[Value<'_>]) -> Result<IpAddr, EvalError> {
    match opaque(args)? {
        Opaque::Ip(ip) => Ok(*ip),
        _ => Err(EvalError::no_overload()),
    }
}

fn cidr(args: &[Value<'_>]) -> Result<Cidr, EvalError> {
    match opaque(args)? {
        Opaque::Cidr(cidr) => Ok(*cidr),
        _ => Err(EvalError::no_overload()),
    }
}

/// An absolute URI or an absolute path (Go's `ParseRequestURI`).
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    let bad = |why: &str| format!("parse {text:?}: {why}");
    if text.is_empty() {
        return Err(bad("empty url"));
    }
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(bad("net/url: invalid control character in URL"));
    }
    let (scheme, rest) = match text.find(':') {
        Some(at)
            if text.as_bytes()[0].is_ascii_alphabetic()
                && text[..at].bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) =>
        {
            (text[..at].to_ascii_lowercase(), &text[at + 1..])
        }
        Some(0) => return Err(bad("missing protocol scheme")),
        _ => (String::new(), text),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if scheme.is_empty() && !rest.starts_with('/') {
        return Err(bad("invalid URI for request"));
    }
    let (host, path) = match rest.strip_prefix("//") {
        Some(after) if !scheme.is_empty() || !rest.starts_with("///") => {
            let end = after.find('/').unwrap_or(after.len());
            let authority = &after[..end];
            let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
            (host, &after[end..])
        }
        _ => ("", rest),
    };
    if host.contains([' ', '<', '>', '"', '\\', '^', '`', '{', '|', '}']) {
        return Err(bad("invalid character in host name"));
    }
    if host.starts_with('[') && !host.contains(']') {
        return Err(bad("missing ']' in host"));
    }
    let port = split_host(host).1;
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad(&format!("invalid port {:?} after host", format!(":{port}"))));
    }
    let mut escapes = path.match_indices('%');
    if let Some((at, _)) = escapes.find(|(at, _)| {
        !path.as_bytes().get(at + 1..at + 3).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit))
    }) {
        let part: String = path[at..].chars().take(3).collect();
        return Err(bad(&format!("invalid URL escape {part:?}")));
    }
    let path = path.chars().fold(String::new(), |mut out, c| {
        if c.is_ascii_graphic() && !"\"<>\\^`{|}#".contains(c) {
            out.push(c);
        } else {
            let mut buffer = [0; 4];
            c.encode_utf8(&mut buffer).bytes().for_each(|b| out.push_str(&format!("%{b:02X}")));
        }
        out
    });
    Ok(Url { scheme, host: host.to_owned(), path, query: query.to_owned(), whole: text.to_owned() })
}

/// Name and port.
fn split_host(host: &str) -> (&str, &str) {
    if let Some(rest) = host.strip_prefix('[')
        && let Some((inner, after)) = rest.split_once(']')
    {
        return (inner, after.strip_prefix(':').unwrap_or(""));
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex = text.get(at + 1..at + 3)?;
                out.push(u8::from_str_radix(hex, 16).ok()?);
                at += 3;
                continue;
            }
            b'+' => out.push(b' '),
            b => out.push(b),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

fn query<'a>(text: &str) -> Value<'a> {
    let mut out: IndexMap<Key, Vec<Value<'a>>> = IndexMap::new();
    for pair in text.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (unescape(key), unescape(value)) {
            out.entry(Key::Text(Arc::from(key))).or_default().push(Value::text(value));
        }
    }
    Value::map(out.into_iter().map(|(k, v)| (k, Value::list(v))))
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    let ip: IpAddr = text.parse().map_err(|_| format!("IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"))?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        ip => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let bad = |why: &str| format!("netip.ParsePrefix({text:?}): {why}");
    let (address, bits) = text.split_once('/').ok_or_else(|| bad("no '/'"))?;
    if address.contains('%') {
        return Err(bad("IPv6 zones cannot be present in a prefix"));
    }
    let address: IpAddr = address.parse().map_err(|_| bad("unable to parse IP"))?;
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    if !digits || (bits.len() > 1 && bits.starts_with('0')) {
        return Err(bad(&format!("bad bits after slash: {bits:?}")));
    }
    let bits: u8 = bits.parse().map_err(|_| bad("prefix length out of range"))?;
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return Err(bad("prefix length out of range"));
    }
    Ok(Cidr { address, bits })
}

fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

fn holds(cidr: &Cidr, ip: IpAddr) -> bool {
    cidr.address.is_ipv4() == ip.is_ipv4() && mask(cidr.address, cidr.bits) == mask(ip, cidr.bits)
}

fn contains_ip<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let whole = cidr(args)?;
    let other = match &args[1..] {
        [Value::Text(text)] => parse_ip(text).map_err(EvalError::new)?,
        rest => ip(rest)?,
    };
    Ok(Value::Bool(holds(&whole, other)))
}

fn contains_cidr<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let whole = cidr(args)?;
    let other = match &args[1..] {
        [Value::Text(text)] => parse_cidr(text).map_err(|e| {
            EvalError::new(format!("network address parse error during conversion from string: {e}"))
        })?,
        rest => cidr(rest)?,
    };
    Ok(Value::Bool(holds(&whole, mask(other.address, other.bits)) && whole.bits <= other.bits))
}

fn v6_link_local(ip: &Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6_link_local(v6),
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local_unicast(ip)
}
