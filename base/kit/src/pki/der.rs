//! Just enough DER to write certificates and requests. Reading is `x509-parser`'s work.
//!
//! Own because certificates need what the usual writers leave out: several organizations in one subject (a
//! Kubernetes user's groups) and a subject taken over byte for byte from a request.

/// One value: tag, length, content.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    let len = content.len();
    if len < 0x80 {
        out.push(len as u8);
    } else {
        let bytes = len.to_be_bytes();
        let skip = bytes.iter().take_while(|b| **b == 0).count();
        out.push(0x80 | (bytes.len() - skip) as u8);
        out.extend_from_slice(&bytes[skip..]);
    }
    out.extend_from_slice(content);
    out
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub fn set(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x31, &parts.concat())
}

/// `[n] EXPLICIT` or a constructed implicit tag.
pub fn context(n: u8, content: &[u8]) -> Vec<u8> {
    tlv(0xa0 | n, content)
}

pub fn octet_string(content: &[u8]) -> Vec<u8> {
    tlv(0x04, content)
}

/// A whole number of octets.
pub fn bit_string(content: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], content].concat())
}

/// Named bits, highest first, as KeyUsage needs them: trailing zero bits are dropped.
pub fn bit_flags(flags: u16) -> Vec<u8> {
    let bytes = flags.to_be_bytes();
    let used = if bytes[1] != 0 { &bytes[..] } else { &bytes[..1] };
    let unused = used[used.len() - 1].trailing_zeros().min(7) as u8;
    tlv(0x03, &[&[unused], used].concat())
}

pub fn boolean_true() -> Vec<u8> {
    vec![0x01, 0x01, 0xff]
}

/// A non-negative integer from its big-endian bytes.
pub fn integer(bytes: &[u8]) -> Vec<u8> {
    let skip = bytes.iter().take_while(|b| **b == 0).count();
    let bytes = &bytes[skip..];
    if bytes.first().is_none_or(|b| b & 0x80 != 0) {
        tlv(0x02, &[&[0], bytes].concat())
    } else {
        tlv(0x02, bytes)
    }
}

pub fn utf8(text: &str) -> Vec<u8> {
    tlv(0x0c, text.as_bytes())
}

pub fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = vec![(arcs[0] * 40 + arcs[1]) as u8];
    for &arc in &arcs[2..] {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.extend(groups.iter().rev());
    }
    tlv(0x06, &content)
}

/// UTCTime until 2049, GeneralizedTime after (RFC 5280, 4.1.2.5).
pub fn time(at: time::OffsetDateTime) -> Vec<u8> {
    let (y, mo, d) = (at.year(), u8::from(at.month()), at.day());
    let (h, mi, s) = (at.hour(), at.minute(), at.second());
    if (1950..2050).contains(&y) {
        tlv(0x17, format!("{:02}{mo:02}{d:02}{h:02}{mi:02}{s:02}Z", y % 100).as_bytes())
    } else {
        tlv(0x18, format!("{y:04}{mo:02}{d:02}{h:02}{mi:02}{s:02}Z").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_encodings() {
        assert_eq!(oid(&[1, 2, 840, 10045, 4, 3, 2]), [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(bit_flags(0x8000), [3, 2, 7, 0x80]);
        assert_eq!(bit_flags(0x8600), [3, 2, 1, 0x86]);
        assert_eq!(tlv(4, &[0; 200])[..4], [4, 0x81, 200, 0]);
        assert_eq!(tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }
}
