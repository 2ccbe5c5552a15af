//! The string formats that upstream checks (kube-openapi's `strfmt`). Other formats hold of every text.

use regex::Regex;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

static RGB: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let part = r"\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*";
    Regex::new(&format!(r"^rgb\({part},{part},{part}\)$")).ok()
});
static CARD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$",
    )
    .ok()
});
static TIME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$").ok()
});
static SSN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$").ok());
static SPAN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(\d+)\s*([A-Za-zµ]+)").ok());
/// A letter or a symbol of any script.
static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{S}\p{L}]$").ok());

fn matches(regex: &LazyLock<Option<Regex>>, text: &str) -> bool {
    regex.as_ref().is_none_or(|regex| regex.is_match(text))
}

/// Whether the text is of the format. Names are compared without their hyphens.
pub(super) fn holds(format: &str, text: &str) -> bool {
    if format.contains('-') {
        return named(&format.replace('-', ""), text);
    }
    named(format, text)
}

fn named(format: &str, text: &str) -> bool {
    match format {
        "datetime" => date_time(text),
        "date" => date(text),
        "duration" => duration(text),
        "email" => email(text),
        "hostname" => hostname(text),
        "ipv4" => text.contains('.') && sloppy_address(text).is_some(),
        "ipv6" => text.contains(':') && text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "mac" => mac(text),
        "uri" => request_uri(text),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some(b'3')),
        "uuid4" => uuid(text, Some(b'4')),
        "uuid5" => uuid(text, Some(b'5')),
        "byte" => base64(text),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "creditcard" => credit_card(text),
        "ssn" => text.len() == 11 && matches(&SSN, text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && hexadecimal(digits)
        }
        "rgbcolor" => matches(&RGB, text),
        "bsonobjectid" => text.len() == 24 && hexadecimal(text),
        "k8sshortname" => text.len() <= 63 && label(text),
        "k8slongname" => text.len() <= 253 && text.split('.').all(label),
        _ => true,
    }
}

fn hexadecimal(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Lower case letters, digits and hyphens, no hyphen at either end.
fn label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn date(text: &str) -> bool {
    text.len() == 10 && chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

fn date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(day), Some(time)) = (parts.next(), parts.next()) else { return false };
    let Some(regex) = TIME.as_ref() else { return true };
    let Some(found) = regex.captures(time) else { return false };
    let within = |at: usize, most: &str| found.get(at).is_some_and(|m| m.as_str() <= most);
    date(day) && within(1, "23") && within(2, "59") && within(3, "59")
}

/// Go's `time.ParseDuration`, or numbers with words for units.
fn duration(text: &str) -> bool {
    if go_duration(text) {
        return true;
    }
    // The last name of each unit may go on: `minutes`, `hours`.
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "µs", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    let Some(regex) = SPAN.as_ref() else { return true };
    let mut any = false;
    for found in regex.captures_iter(text) {
        if found.get(1).is_none_or(|n| n.as_str().parse::<i64>().is_err()) {
            return false;
        }
        let unit = found.get(2).map(|u| u.as_str().to_lowercase()).unwrap_or_default();
        any |= UNITS.iter().any(|names| {
            names.contains(&unit.as_str()) || names.last().is_some_and(|last| unit.starts_with(last))
        });
    }
    any
}

fn go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        if !digits.bytes().any(|b| b.is_ascii_digit()) || digits.matches('.').count() > 1 {
            return false;
        }
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        if !matches!(unit, "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h") {
            return false;
        }
        rest = after;
    }
    true
}

/// An address, or a name with one in angle brackets, as RFC 5322 has them.
fn email(text: &str) -> bool {
    let text = text.trim();
    let address = match text.rsplit_once('<') {
        Some((_, inner)) => match inner.strip_suffix('>') {
            Some(inner) => inner,
            None => return false,
        },
        None => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii();
    let dotted = |text: &str| text.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    (quoted || dotted(local)) && (dotted(domain) || (domain.starts_with('[') && domain.ends_with(']')))
}

fn hostname(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches(&LETTER, c.encode_utf8(&mut [0; 4]));
    let all = |mut part: std::str::Chars<'_>| part.all(letter);
    if text.len() > 255 || text.split('.').any(|part| part.len() > 63) {
        return false;
    }
    match text.rsplit_once('.') {
        // One label: a hyphen may follow its first character and no other.
        None => {
            let mut rest = text.chars();
            rest.next().is_some_and(letter) && {
                let rest = rest.as_str();
                all(rest.strip_prefix('-').unwrap_or(rest).chars())
            }
        }
        Some((labels, last)) => {
            let alphabetic = |c: char| c.is_ascii_alphabetic() || (!c.is_ascii() && c.is_alphabetic());
            let inner = |part: &str| {
                part.starts_with(letter)
                    && part.ends_with(letter)
                    && part.chars().all(|c| c == '-' || letter(c))
            };
            (2..=63).contains(&last.chars().count())
                && last.chars().all(alphabetic)
                && labels.split('.').all(inner)
        }
    }
}

/// Numbers of IPv4 may begin with zeros.
fn sloppy_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let parts: Vec<u8> = text
        .split('.')
        .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten())
        .collect::<Option<_>>()?;
    let parts: [u8; 4] = parts.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(parts)))
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match sloppy_address(address) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

/// EUI-48, EUI-64 and IPoIB addresses.
fn mac(text: &str) -> bool {
    let of = |separator: char, width: usize, counts: [usize; 3]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len()) && parts.iter().all(|p| p.len() == width && hexadecimal(p))
    };
    of(':', 2, [6, 8, 20]) || of('-', 2, [6, 8, 20]) || of('.', 4, [3, 4, 10])
}

/// What Go's `url.ParseRequestURI` takes: an absolute URI or an absolute path.
fn request_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let (scheme, rest) = match text.split_once(':') {
        Some(("", _)) => return false,
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) =>
        {
            (scheme, rest)
        }
        _ => ("", text),
    };
    let rest = rest.split('?').next().unwrap_or_default();
    if !rest.starts_with('/') {
        return !scheme.is_empty();
    }
    let path = match rest.strip_prefix("//") {
        Some(rest) if !scheme.is_empty() || !rest.starts_with('/') => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit('@').next().unwrap_or_default();
            let plain =
                |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
            let port = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or("", |(_, port)| port);
            if !host.chars().all(plain) || !port.bytes().all(|b| b.is_ascii_digit()) {
                return false;
            }
            path
        }
        _ => rest,
    };
    let bytes = path.as_bytes();
    let escaped = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    (0..bytes.len()).all(|at| bytes[at] != b'%' || (escaped(at + 1) && escaped(at + 2)))
}

/// With or without hyphens. Versions 4 and 5 also have a variant.
fn uuid(text: &str, version: Option<u8>) -> bool {
    let bytes = text.as_bytes();
    let mut digits = Vec::with_capacity(32);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'-' if at > 0 && bytes[at - 1] != b'-' && matches!(digits.len(), 8 | 12 | 16 | 20) => {}
            b if b.is_ascii_hexdigit() => digits.push(b.to_ascii_lowercase()),
            _ => return false,
        }
    }
    digits.len() == 32
        && version.is_none_or(|v| digits[12] == v)
        && (!matches!(version, Some(b'4' | b'5')) || matches!(digits[16], b'8' | b'9' | b'a' | b'b'))
}

fn base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    !text.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - digits.len() <= 2
        && digits.bytes().all(plain)
}

fn without_separators(text: &str) -> Vec<u8> {
    text.chars()
        .filter(|c| !c.is_ascii_whitespace() && *c != '-')
        .map(|c| u8::try_from(c).unwrap_or(0))
        .collect()
}

fn isbn10(text: &str) -> bool {
    let digits = without_separators(text);
    if digits.len() != 10 || !digits[..9].iter().all(u8::is_ascii_digit) {
        return false;
    }
    let last = match digits[9] {
        b'X' => 10,
        b if b.is_ascii_digit() => u32::from(b - b'0'),
        _ => return false,
    };
    let sum: u32 = (1..).zip(&digits[..9]).map(|(n, b): (u32, &u8)| n * u32::from(b - b'0')).sum();
    (sum + 10 * last).is_multiple_of(11)
}

fn isbn13(text: &str) -> bool {
    let digits = without_separators(text);
    if digits.len() != 13 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let weighed = |(at, b): (usize, &u8)| u32::from(b - b'0') * if at.is_multiple_of(2) { 1 } else { 3 };
    digits.iter().enumerate().map(weighed).sum::<u32>().is_multiple_of(10)
}

fn credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if !matches(&CARD, &digits) {
        return false;
    }
    let doubled = |(at, b): (usize, u8)| {
        let n = u32::from(b - b'0') * if at.is_multiple_of(2) { 1 } else { 2 };
        if n > 9 { n - 9 } else { n }
    };
    digits.bytes().rev().enumerate().map(doubled).sum::<u32>().is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::holds;

    #[test]
    fn texts_of_formats() {
        for (format, good, bad) in [
            ("date-time", "2026-11-24T10:00:00.1Z", "2026-11-24T24:00:00Z"),
            ("duration", "1h2.5m", "1x"),
            ("duration", "3 Weeks", "weeks"),
            ("email", "A B <a.b@example.com>", "a..b@example.com"),
            ("hostname", "3com.example", "a.b-"),
            ("hostname", "a-b", "ab-c"),
            ("ipv4", "010.0.0.1", "1.2.3"),
            ("cidr", "::/0", "10.0.0.0/33"),
            ("mac", "0000.5e00.5301", "00:00:5e:00:53"),
            ("uri", "/a b", "a/b"),
            ("uri", "urn:a", "http://a b/"),
            ("uri", "http://x:80/%41", "http://x/%4"),
            ("uuid", "123e4567e89b12d3a456426614174000", "123e4567--e89b-12d3-a456-426614174000"),
            ("uuid3", "123e4567-e89b-32d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("byte", "aGk=", "aGk"),
            ("isbn10", "0-8044-2957-X", "0-8044-2957-0"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("k8s-long-name", "a.b", "a..b"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
        ] {
            assert!(holds(format, good), "{format} {good}");
            assert!(!holds(format, bad), "{format} {bad}");
        }
        assert!(holds("sonnet", "anything"));
    }
}
