//! The addresses of Services, and which addresses traffic can be sent to at all.

use crate::support::{at, ip, is_ip, items, one_of_pointer, text, texts};
use machinery::field::{FieldErrors, Path};
use serde_json::Value;
use std::net::IpAddr;

const SPEC: Path<'static> = Path::new("spec");

/// Cluster addresses, their families and the policy of these, as they must be before anything is allocated.
pub(crate) fn cluster(spec: &Value, errors: &mut FieldErrors) {
    if text(spec, "type") == "ExternalName" {
        return;
    }
    let cluster = SPEC.child("clusterIPs");
    let given: Vec<&str> = texts(spec, "clusterIPs").collect();
    let all = || Value::from(given.clone());
    match (text(spec, "clusterIP"), given.first()) {
        ("", Some(_)) => errors.invalid(&cluster, all(), "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => errors.required(&cluster, ""),
        (single, Some(first)) if single != *first => {
            errors.invalid(&cluster, all(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families = SPEC.child("ipFamilies");
    let named: Vec<&str> = texts(spec, "ipFamilies").collect();
    for (i, family) in named.iter().enumerate() {
        if !["IPv4", "IPv6"].contains(family) {
            errors.not_supported(&families.index(i), *family, &["IPv4", "IPv6"]);
        }
        if named[..i].contains(family) {
            errors.duplicate(&families.index(i), *family);
        }
    }
    one_of_pointer(
        spec,
        "ipFamilyPolicy",
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        &SPEC,
        errors,
    );
    let mut bad = false;
    for (i, address) in given.iter().enumerate() {
        if i == 0 && *address == "None" {
            if given.len() > 1 {
                bad = true;
                errors.invalid(&cluster, all(), "'None' must be the first and only value");
            }
        } else if !is_ip(address) {
            bad = true;
            ip(address, &cluster.index(i), errors);
        }
    }
    if given.len() > 2 {
        errors.invalid(&cluster, all(), "may only hold up to 2 values");
    }
    if bad || given.first() == Some(&"None") {
        return;
    }
    let six = |address: &str| address.contains(':');
    if given.len() > 1 && given.iter().all(|a| six(a) == six(given[0])) {
        errors.invalid(&cluster, all(), "may specify no more than one IP for each IP family");
    }
    for (i, (address, family)) in given.iter().zip(&named).enumerate() {
        if ["IPv4", "IPv6"].contains(family) && six(address) != (*family == "IPv6") {
            let message = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(&cluster.index(i), *address, message);
        }
    }
}

pub(super) fn all(spec: &Value, errors: &mut FieldErrors) {
    cluster(spec, errors);
    let external = SPEC.child("externalIPs");
    for (i, address) in texts(spec, "externalIPs").enumerate() {
        // One that is no address is told as that alone.
        ip(address, &external.index(i), errors);
        not_special(address, &external.index(i), errors);
    }
}

/// Addresses that can only mean this very machine or link.
pub(crate) fn not_special(address: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Ok(parsed) = address.parse::<IpAddr>() else { return };
    if parsed.is_unspecified() {
        errors.invalid(path, address, format!("may not be unspecified ({address})"));
    }
    if parsed.is_loopback() {
        errors.invalid(path, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link, multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] == 0xff02),
    };
    if link {
        errors.invalid(path, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast {
        errors.invalid(
            path,
            address,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

/// The first address stays; a second may come, and go when one family is asked for.
pub(super) fn kept(spec: &Value, before: &Value, errors: &mut FieldErrors) {
    let headless = |s: &Value| text(s, "clusterIP") == "None";
    let single = text(spec, "ipFamilyPolicy") == "SingleStack";
    for (name, checked, unset, released) in [
        (
            "clusterIPs",
            !(headless(spec) && headless(before)),
            "primary clusterIP can not be unset",
            "must be set to 'SingleStack' when releasing the secondary clusterIP",
        ),
        (
            "ipFamilies",
            !headless(spec) && !headless(before),
            "primary ipFamily can not be unset",
            "must be set to 'SingleStack' when releasing the secondary ipFamily",
        ),
    ] {
        let path = SPEC.child(name);
        let (now, then) = (items(spec, name), items(before, name));
        let shown = || Value::from(now.to_vec());
        if !checked {
            continue;
        }
        for (i, _) in now.iter().zip(then).enumerate().filter(|(_, (a, b))| a != b) {
            if now.len() == then.len() || i == 0 {
                errors.invalid(&path.index(i), shown(), "may not change once set");
            }
        }
        if then.len() > now.len() {
            if now.is_empty() {
                errors.invalid(&path.index(0), at(spec, name).clone(), unset);
            }
            if now.len() == 1 && !single {
                let policy = at(spec, "ipFamilyPolicy").clone();
                errors.invalid(&SPEC.child("ipFamilyPolicy"), policy, released);
            }
        }
    }
}
