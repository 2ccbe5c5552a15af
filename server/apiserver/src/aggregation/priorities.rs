//! Where groups and versions stand in discovery. Source: upstream's `APIServicePriority` tables.

/// Group and version priority of what a definition serves.
pub const CUSTOM: (u32, u32) = (1000, 100);

const GROUPS: &[(&str, u32)] = &[
    ("", 18_000),
    // Never registered, always first among the named groups.
    ("apiregistration.k8s.io", 17_900),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("admissionregistration.k8s.io", 16_700),
    ("apiextensions.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("internal.apiserver.k8s.io", 16_000),
    ("storagemigration.k8s.io", 15_800),
];

const VERSIONS: &[(&str, &str, u32)] = &[
    ("", "v1", 1),
    ("autoscaling", "v2", 30),
    ("flowcontrol.apiserver.k8s.io", "v1", 21),
    ("resource.k8s.io", "v1", 20),
];

/// Group and version priority of a built-in group version, or of a custom one.
pub fn of(group: &str, version: &str) -> (u32, u32) {
    let Some((_, priority)) = GROUPS.iter().find(|(name, _)| *name == group) else { return CUSTOM };
    let known = VERSIONS.iter().find(|(g, v, _)| *g == group && *v == version).map(|(_, _, p)| *p);
    let by_stage = match rank(version).0 {
        0 => 15,
        1 => 9,
        _ => 1,
    };
    (*priority, known.unwrap_or(by_stage))
}

/// Whether the group is one of upstream's own.
pub fn is_builtin(group: &str) -> bool {
    GROUPS.iter().any(|(name, _)| *name == group)
}

/// Rank of a version in discovery: stable, then beta, then alpha, newer first; other names last.
pub fn rank(version: &str) -> (u8, std::cmp::Reverse<u32>, std::cmp::Reverse<u32>, String) {
    use std::cmp::Reverse;
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let major: u32 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        if tail.is_empty() {
            return Some((0, major, 0));
        }
        let (rank, number) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(n), _) => (1, n),
            (_, Some(n)) => (2, n),
            _ => return None,
        };
        Some((rank, major, number.parse().ok()?))
    };
    match parse() {
        Some((stage, major, minor)) => (stage, Reverse(major), Reverse(minor), String::new()),
        None => (3, Reverse(0), Reverse(0), version.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ranked() {
        let mut all = vec!["v1alpha1", "foo", "v1", "v2beta1", "v10", "v1beta2", "v2"];
        all.sort_by_key(|v| rank(v));
        assert_eq!(all, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }

    #[test]
    fn built_in_rows_stand_in_this_order() {
        let mut groups: Vec<&str> = crate::resources::all().iter().map(|r| r.group).collect();
        groups.dedup();
        let sorted = |mut all: Vec<&'static str>| {
            all.sort_by_key(|g| (std::cmp::Reverse(of(g, "v1").0), *g));
            all
        };
        assert_eq!(sorted(groups.clone()), groups);
    }

    #[test]
    fn groups_have_their_places() {
        assert_eq!(of("apps", "v1"), (17_800, 15));
        assert_eq!(of("autoscaling", "v2"), (17_500, 30));
        assert_eq!(of("example.com", "v1"), CUSTOM);
        assert!(of("storage.k8s.io", "v1beta1").1 < of("storage.k8s.io", "v1").1);
    }
}
