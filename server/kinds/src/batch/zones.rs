//! The names of the IANA time zone database (release 2025 and its links), which a schedule may name.

/// `AREA: NAME ...`, an area a line; the first has none.
const NAMES: &str = include_str!("zones.txt");

/// Whether there is a zone of that name.
pub(super) fn is_known(zone: &str) -> bool {
    let (area, name) = zone.rsplit_once('/').unwrap_or(("", zone));
    NAMES
        .lines()
        .filter_map(|line| line.split_once(": "))
        .any(|(a, names)| a == area && names.split(' ').any(|n| n == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for known in
            ["UTC", "Etc/UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "EST5EDT", "Etc/GMT+5"]
        {
            assert!(is_known(known), "{known}");
        }
        for unknown in ["", "other", "Europe", "Europe/", "europe/berlin", "a.b/c", "Berlin"] {
            assert!(!is_known(unknown), "{unknown}");
        }
    }
}
