//! The status of a claim: what it was given, who may use it, and what drivers say of it.

use super::claims::{MOST, Requests, configuration};
use super::common::{each, opaque, set, too_many, uid};
use super::taints::{binding, device_id};
use crate::core::node_selector;
use crate::support::{at, conditions, has, immutable, items, text};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::meta;
use serde_json::{Value, json};
use std::net::IpAddr;

const MOST_CONSUMERS: usize = 256;
const MOST_CONDITIONS: usize = 8;
const LARGEST_DATA: usize = 10 * 1024;
const MOST_ADDRESSES: usize = 16;

/// A device, or a share of one, as it was allocated: driver, pool, device, share.
type Share<'o> = (&'o str, &'o str, &'o str, Option<&'o str>);

fn share(of: &Value) -> Share<'_> {
    let share = of.get("shareID").and_then(Value::as_str);
    (text(of, "driver"), text(of, "pool"), text(of, "device"), share)
}

/// As messages show it.
fn shown(of: &Value) -> Value {
    let (driver, pool, device, share) = share(of);
    json!({"Driver": driver, "Pool": pool, "Device": device, "ShareID": share.unwrap_or_default()})
}

fn results(object: &Value) -> &[Value] {
    items(at(at(at(object, "status"), "allocation"), "devices"), "results")
}

/// What drivers say of devices that the claim no longer has goes with them.
pub(super) fn drop_deallocated(object: &mut Value, old: &Value) {
    let kept: Vec<_> = results(object).iter().map(share).collect();
    let gone: Vec<_> = results(old).iter().map(share).filter(|s| !kept.contains(s)).collect();
    let left: Vec<Value> = items(at(object, "status"), "devices")
        .iter()
        .filter(|d| !gone.contains(&share(d)))
        .cloned()
        .collect();
    let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else { return };
    if left.is_empty() {
        status.remove("devices");
    } else {
        status.insert("devices".into(), left.into());
    }
}

pub(super) fn status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let (status, before) = (at(new, "status"), at(old, "status"));
    let at_reserved = path.child("reservedFor");
    let consumers = items(status, "reservedFor");
    let id = |c: &Value| text(c, "uid").to_owned();
    set(consumers, MOST_CONSUMERS, &at_reserved, errors, consumer, id);
    let allocated: Vec<_> = results(new).iter().map(share).collect();
    let devices = items(status, "devices");
    let at_devices = path.child("devices");
    set(
        devices,
        usize::MAX,
        &at_devices,
        errors,
        |d, path, errors| device(d, &allocated, path, errors),
        shown,
    );
    let allocation = at(status, "allocation");
    if !consumers.is_empty() {
        if allocation.is_null() {
            let message = "may not be specified when `allocated` is not set";
            errors.forbidden(&at_reserved, message);
        } else if meta::deletion_timestamp(new).is_some()
            && consumers.iter().any(|c| !items(before, "reservedFor").contains(c))
        {
            let message =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.forbidden(&at_reserved, message);
        }
    }
    let path = path.child("allocation");
    if has(before, "allocation") && !allocation.is_null() {
        immutable(allocation, at(before, "allocation"), &path, errors);
    } else if !allocation.is_null() {
        result(allocation, &Requests::of(at(new, "spec")), &path, errors);
    }
}

fn consumer(consumer: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["resource", "name", "uid"] {
        crate::support::required(consumer, member, path, errors);
    }
}

fn result(allocation: &Value, names: &Requests<'_>, path: &Path<'_>, errors: &mut FieldErrors) {
    let (devices, at_devices) = (at(allocation, "devices"), path.child("devices"));
    each(items(devices, "results"), MOST, &at_devices.child("results"), errors, |r, path, errors| {
        names.check(text(r, "request"), &path.child("request"), errors);
        device_id(r, path, errors);
        binding(r, path, errors);
        if has(r, "shareID") {
            uid(text(r, "shareID"), &path.child("shareID"), errors);
        }
    });
    // Of the class and of the claim.
    each(items(devices, "config"), 2 * MOST, &at_devices.child("config"), errors, |c, path, errors| {
        let at_source = path.child("source");
        match text(c, "source") {
            "" => errors.required(&at_source, ""),
            "FromClaim" | "FromClass" => {}
            other => errors.not_supported(&at_source, other, &["FromClaim", "FromClass"]),
        }
        names.list(c, path, errors);
        configuration(c, false, path, errors);
    });
    if has(allocation, "nodeSelector") {
        node_selector(at(allocation, "nodeSelector"), &path.child("nodeSelector"), errors);
    }
}

/// What a driver says of an allocated device.
fn device(device: &Value, allocated: &[Share<'_>], path: &Path<'_>, errors: &mut FieldErrors) {
    device_id(device, path, errors);
    if has(device, "shareID") {
        uid(text(device, "shareID"), &path.child("shareID"), errors);
    }
    if !allocated.contains(&share(device)) {
        errors.invalid(path, shown(device), "must be an allocated device in the claim");
    }
    let count = items(device, "conditions").len();
    too_many(count, MOST_CONDITIONS, &path.child("conditions"), errors);
    conditions(device, path, errors);
    if has(device, "data") {
        opaque(at(device, "data"), Some(LARGEST_DATA), &path.child("data"), errors);
    }
    network(at(device, "networkData"), &path.child("networkData"), errors);
}

fn network(data: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (member, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(data, member).len() > most {
            errors.push(FieldError::too_long(&path.child(member), most));
        }
    }
    let check = |a: &str, path: &Path<'_>, errors: &mut FieldErrors| interface_address(a, path, errors);
    super::common::name_set(items(data, "ips"), MOST_ADDRESSES, &path.child("ips"), errors, check);
}

/// An address with the length of its network's prefix, in canonical form.
fn interface_address(value: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    match canonical(value) {
        None => {
            let message = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            errors.invalid(path, value, message);
        }
        Some(canonical) if canonical != value => {
            let message = format!("must be in canonical form ({})", machinery::field::quote(&canonical));
            errors.invalid(path, value, message);
        }
        Some(_) => {}
    }
}

fn canonical(value: &str) -> Option<String> {
    let (address, length) = value.split_once('/')?;
    let length: u32 = (!length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()))
        .then(|| length.parse().ok())
        .flatten()?;
    // Go reads numbers with leading zeros as decimal here.
    let plain: Vec<&str> = address.split('.').map(|p| p.trim_start_matches('0')).collect();
    let plain: Vec<&str> = plain.into_iter().map(|p| if p.is_empty() { "0" } else { p }).collect();
    let address =
        if address.contains(':') { address.parse().ok()? } else { plain.join(".").parse::<IpAddr>().ok()? };
    match address {
        IpAddr::V4(_) if length > 32 => None,
        IpAddr::V6(_) if length > 128 => None,
        IpAddr::V6(v6) => Some(match v6.to_ipv4_mapped() {
            Some(v4) => format!("{v4}/{}", if length > 32 { length.saturating_sub(96) } else { length }),
            None => format!("{v6}/{length}"),
        }),
        IpAddr::V4(v4) => Some(format!("{v4}/{length}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (given, read) in [
            ("10.9.8.7/24", Some("10.9.8.7/24")),
            ("010.9.8.7/24", Some("10.9.8.7/24")),
            ("2001:DB8::1/64", Some("2001:db8::1/64")),
            ("::ffff:1.2.3.4/120", Some("1.2.3.4/24")),
            ("10.9.8.7", None),
            ("10.9.8.7/33", None),
            ("10..8.7/+3", None),
        ] {
            assert_eq!(canonical(given).as_deref(), read, "{given}");
        }
    }

    #[test]
    fn what_is_deallocated_has_no_status() {
        let of = |device: &str| json!({"driver": "d", "pool": "p", "device": device});
        let old =
            json!({"status": {"allocation": {"devices": {"results": [of("a")]}}, "devices": [of("a")]}});
        let mut new = json!({"status": {"devices": [of("a")]}});
        drop_deallocated(&mut new, &old);
        assert_eq!(new, json!({"status": {}}));
        let mut same = old.clone();
        drop_deallocated(&mut same, &old);
        assert_eq!(same, old);
    }
}
