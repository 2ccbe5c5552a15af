//! Semantic versions 2.0.

use std::cmp::Ordering;
use std::fmt;

#[derive(Clone, Debug)]
pub struct Version {
    pub major: u64,
    pub minor: u64,
    pub patch: u64,
    pre: Vec<String>,
    build: String,
}

/// `v1.2` as `1.2.0`: the prefix goes, missing parts are zero, leading zeros go.
pub fn normalize(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(end);
    let mut parts: Vec<String> = core
        .split('.')
        .map(|p| {
            let bare = p.trim_start_matches('0');
            if bare.is_empty() && !p.is_empty() { "0".to_owned() } else { bare.to_owned() }
        })
        .collect();
    if parts.len() < 3 && rest.is_empty() {
        parts.resize(3, "0".into());
    }
    format!("{}{rest}", parts.join("."))
}

pub fn parse(text: &str) -> Result<Version, String> {
    if text.is_empty() {
        return Err("Version string empty".into());
    }
    let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
    let parts: Vec<&str> = core.splitn(3, '.').collect();
    let [major, minor, patch] = parts[..] else { return Err("No Major.Minor.Patch elements found".into()) };
    let number = |name: &str, part: &str| -> Result<u64, String> {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("Invalid character(s) found in {name} number {part:?}"));
        }
        if part.len() > 1 && part.starts_with('0') {
            return Err(format!(
                "{}{} number must not contain leading zeroes {part:?}",
                name[..1].to_uppercase(),
                &name[1..]
            ));
        }
        part.parse().map_err(|_| format!("{name} number {part:?} is out of range"))
    };
    let ok = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let mut identifiers = Vec::new();
    for part in pre.into_iter().flat_map(|p| p.split('.')) {
        if !ok(part) {
            return Err(format!("Invalid character(s) found in prerelease {part:?}"));
        }
        if part.len() > 1 && part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {part:?}"));
        }
        identifiers.push(part.to_owned());
    }
    if let Some(bad) = build.into_iter().flat_map(|b| b.split('.')).find(|p| !ok(p)) {
        return Err(format!("Invalid character(s) found in build meta data {bad:?}"));
    }
    Ok(Version {
        major: number("major", major)?,
        minor: number("minor", minor)?,
        patch: number("patch", patch)?,
        pre: identifiers,
        build: build.unwrap_or_default().to_owned(),
    })
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let core = (self.major, self.minor, self.patch).cmp(&(other.major, other.minor, other.patch));
        core.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                for (a, b) in self.pre.iter().zip(&other.pre) {
                    let order = match (a.parse::<u64>(), b.parse::<u64>()) {
                        (Ok(a), Ok(b)) => a.cmp(&b),
                        (Ok(_), Err(_)) => Ordering::Less,
                        (Err(_), Ok(_)) => Ordering::Greater,
                        (Err(_), Err(_)) => a.cmp(b),
                    };
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                self.pre.len().cmp(&other.pre.len())
            }
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build)?;
        }
        Ok(())
    }
}
