//! Cluster addresses as objects, and the ranges they are taken from.

use super::SPEC;
use crate::support::{at, cidr, is_cidr, items, path_segment, text, texts};
use machinery::field::FieldErrors;
use machinery::names;
use serde_json::Value;

pub(super) fn name(name: &str, _prefix: bool) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(parsed) if parsed.to_string() == name => vec![],
        Ok(_) => vec!["must be a canonical format IP address".into()],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

pub(super) fn validate(object: &Value, errors: &mut FieldErrors) {
    let parent = at(at(object, "spec"), "parentRef");
    let path = SPEC.child("parentRef");
    if parent.is_null() {
        errors.required(&path, "");
        return;
    }
    let group = text(parent, "group");
    if !group.is_empty() {
        errors.invalid_each(&path.child("group"), group, names::dns1123_subdomain(group));
    }
    path_segment(parent, "resource", &path, errors);
    path_segment(parent, "name", &path, errors);
    if !text(parent, "namespace").is_empty() {
        path_segment(parent, "namespace", &path, errors);
    }
}

pub(super) fn ranges(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("cidrs");
    let ranges: Vec<&str> = texts(spec, "cidrs").collect();
    if ranges.is_empty() {
        errors.required(&path, "at least one CIDR required");
    }
    if ranges.len() > 2 {
        errors.invalid(&path, serde_json::json!({"CIDRs": ranges}), "may only hold up to 2 values");
        return;
    }
    for (i, range) in ranges.iter().enumerate() {
        cidr(range, &path.index(i), errors);
    }
    if let [a, b] = ranges[..]
        && is_cidr(a)
        && is_cidr(b)
        && a.contains(':') == b.contains(':')
    {
        let message =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, Value::from(ranges), message);
    }
}

/// Of its ranges, a second may be added; nothing else changes.
pub(super) fn ranges_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("cidrs");
    let (now, before) = (items(new, "cidrs"), items(old, "cidrs"));
    let grows = before.len() == 1 && now.len() == 2;
    if now.len() != before.len() && !grows {
        errors.invalid(&path, at(new, "cidrs").clone(), "field is immutable");
        return;
    }
    for (i, (now, _)) in now.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b) {
        errors.invalid(&path.index(i), now.clone(), "field is immutable");
    }
    if grows {
        ranges(new, errors);
    }
}
