//! Network policies: whom pods talk to.

use super::SPEC;
use crate::support::{
    at, cidr, has, int, is_cidr, items, items_mut, one_of_pointer, port_number, port_or_name, preset_pointer,
    text, texts, with_spec,
};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use serde_json::Value;

pub(super) fn defaults(object: &mut Value) {
    with_spec(object, |spec| {
        for direction in ["ingress", "egress"] {
            for rule in items_mut(spec, direction) {
                for port in items_mut(rule, "ports") {
                    preset_pointer(port, "protocol", "TCP");
                }
            }
        }
        if items(spec, "policyTypes").is_empty() {
            let types: &[&str] =
                if items(spec, "egress").is_empty() { &["Ingress"] } else { &["Ingress", "Egress"] };
            spec["policyTypes"] = types.to_vec().into();
        }
    });
}

pub(super) fn validate(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    validate_label_selector(spec.get("podSelector"), &SPEC.child("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = SPEC.child(direction);
        for (i, rule) in items(spec, direction).iter().enumerate() {
            let at_i = list.index(i);
            let ports = at_i.child("ports");
            for (n, port) in items(rule, "ports").iter().enumerate() {
                self::port(port, &ports.index(n), errors);
            }
            let at_peers = at_i.child(peers);
            for (n, peer) in items(rule, peers).iter().enumerate() {
                self::peer(peer, &at_peers.index(n), errors);
            }
        }
    }
    let types: Vec<&str> = texts(spec, "policyTypes").collect();
    let path = SPEC.child("policyTypes");
    if types.len() > 2 {
        errors.invalid(&path, Value::from(types), "may not specify more than two policyTypes");
        return;
    }
    for (i, kind) in types.iter().enumerate() {
        if !["Egress", "Ingress"].contains(kind) {
            errors.not_supported(&path.index(i), *kind, &["Ingress", "Egress"]);
        }
    }
}

fn port(port: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    one_of_pointer(port, "protocol", &["TCP", "UDP", "SCTP"], path, errors);
    if !has(port, "port") {
        if has(port, "endPort") {
            errors.invalid(
                &path.child("endPort"),
                at(port, "endPort").clone(),
                "may not be specified when `port` is not specified",
            );
        }
        return;
    }
    let start = at(port, "port");
    let at_end = path.child("endPort");
    if let Some(end) = int(port, "endPort") {
        match start.as_i64() {
            None => errors.invalid(&at_end, end, "may not be specified when `port` is non-numeric"),
            Some(from) => {
                port_or_name(start, &path.child("port"), errors);
                if end < from {
                    errors.invalid(&at_end, from, "must be greater than or equal to `port`");
                }
                port_number(end, &at_end, errors);
                return;
            }
        }
    }
    port_or_name(start, &path.child("port"), errors);
}

fn peer(peer: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut count = 0;
    for name in ["podSelector", "namespaceSelector"] {
        if has(peer, name) {
            count += 1;
            validate_label_selector(peer.get(name), &path.child(name), errors);
        }
    }
    if has(peer, "ipBlock") {
        count += 1;
        ip_block(at(peer, "ipBlock"), &path.child("ipBlock"), errors);
        if count > 1 {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
    }
    if count == 0 {
        errors.required(path, "must specify a peer");
    }
}

fn ip_block(block: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let range = text(block, "cidr");
    if range.is_empty() {
        errors.required(&path.child("cidr"), "");
        return;
    }
    cidr(range, &path.child("cidr"), errors);
    if !is_cidr(range) {
        return;
    }
    let except = path.child("except");
    for (i, inner) in texts(block, "except").enumerate() {
        cidr(inner, &except.index(i), errors);
        if is_cidr(inner) && !within(inner, range) {
            errors.invalid(&except.index(i), inner, "must be a strict subset of `cidr`");
        }
    }
}

/// Whether one range lies inside another and is smaller.
fn within(inner: &str, outer: &str) -> bool {
    let parse = |s: &str| {
        let (address, length) = s.split_once('/')?;
        let bits = match address.parse::<std::net::IpAddr>().ok()? {
            std::net::IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, false),
            std::net::IpAddr::V6(v6) => (v6.to_bits(), true),
        };
        Some((bits, length.parse::<u32>().ok()?))
    };
    match (parse(inner), parse(outer)) {
        (Some(((a, six), long)), Some(((b, other_six), short))) => {
            let mask = if short == 0 { 0 } else { u128::MAX << (128 - short) };
            six == other_six && long > short && (a & mask) == (b & mask)
        }
        _ => false,
    }
}
