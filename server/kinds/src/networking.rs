//! The group `networking.k8s.io`.

use super::kind::{Kind, Metadata};
use super::support::{
    at, cidr, has, immutable, int, is_cidr, is_ip, items, items_mut, one_of_if_set, port_number,
    port_or_name, preset, required, some_mut, text, texts, with_spec,
};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::{meta, names};
use serde_json::Value;

const GROUP: &str = "networking.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::namespaced(GROUP, "Ingress").metadata(Metadata::Both).status()
        .generation()
        .on_create(|o| o["status"] = serde_json::json!({"loadBalancer": {}}))
        .warn(|o, old| {
            let old_way = meta::annotation(o, "kubernetes.io/ingress.class").is_some();
            let warning = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
            (old_way && old.is_none()).then(|| warning.to_owned()).into_iter().collect()
        })
        .validate(validate_ingress),
    Kind::cluster(GROUP, "IngressClass").metadata(Metadata::Both).changes_first()
        .generation()
        .default(|o| {
            if let Some(spec) = some_mut(o, "spec")
                && let Some(parameters) = some_mut(spec, "parameters")
            {
                preset(parameters, "scope", "Cluster");
            }
        })
        .validate(validate_class)
        .validate_update(|new, old, _, errors| {
            let controller = |o: &Value| at(at(o, "spec"), "controller").clone();
            immutable(&controller(new), &controller(old), &Path::new("spec.controller"), errors);
        }),
    Kind::namespaced(GROUP, "NetworkPolicy").generation().default(policy_defaults).validate(validate_policy),
    Kind::cluster(GROUP, "IPAddress").named(ip_name).validate(validate_address).validate_update(
        |new, old, _, errors| {
            let parent = |o: &Value| at(at(o, "spec"), "parentRef").clone();
            immutable(&parent(new), &parent(old), &Path::new("spec.parentRef"), errors);
        },
    ),
    Kind::cluster(GROUP, "ServiceCIDR").status().validate(validate_ranges).validate_update(
        |new, old, subresource, errors| {
            if subresource.is_empty() {
                let ranges = |o: &Value| at(at(o, "spec"), "cidrs").clone();
                immutable(&ranges(new), &ranges(old), &Path::new("spec.cidrs"), errors);
            }
        },
    ),
];

const SPEC: Path<'static> = Path::new("spec");

fn backend(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (resource, service) = (has(value, "resource"), has(value, "service"));
    match (resource, service) {
        (true, true) => {
            errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (true, false) => {
            let reference = at(value, "resource");
            let path = path.child("resource");
            required(reference, "kind", &path, errors);
            required(reference, "name", &path, errors);
        }
        (false, true) => {
            let service = at(value, "service");
            let path = path.child("service");
            let name = text(service, "name");
            if name.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                errors.invalid_each(&path.child("name"), name, names::dns1035_label(name));
            }
            let port = at(service, "port");
            let path = path.child("port");
            let (number, name) = (int(port, "number").unwrap_or(0), text(port, "name"));
            if !name.is_empty() && number != 0 {
                errors.invalid(&path, "", "cannot set both port name & port number");
            } else if !name.is_empty() {
                errors.invalid_each(&path.child("name"), name, names::port_name(name));
            } else if number != 0 {
                port_number(number, &path.child("number"), errors);
            } else {
                errors.required(&path, "port name or number is required");
            }
        }
        (false, false) => errors.required(path, "resource or service backend is required"),
    }
}

fn validate_ingress(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    if has(spec, "defaultBackend") {
        backend(at(spec, "defaultBackend"), &SPEC.child("defaultBackend"), errors);
    }
    if items(spec, "rules").is_empty() && !has(spec, "defaultBackend") {
        errors.invalid(
            &SPEC,
            items(spec, "rules").to_vec(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    let rules = SPEC.child("rules");
    for (i, rule) in items(spec, "rules").iter().enumerate() {
        let at_i = rules.index(i);
        host(text(rule, "host"), &at_i.child("host"), errors);
        if has(rule, "http") {
            paths(at(rule, "http"), &at_i.child("http.paths"), errors);
        }
    }
    let tls = SPEC.child("tls");
    for (i, entry) in items(spec, "tls").iter().enumerate() {
        let hosts = tls.index(i);
        let hosts = hosts.child("hosts");
        for (n, name) in texts(entry, "hosts").enumerate() {
            let bad = if name.contains('*') {
                names::wildcard_dns1123_subdomain(name)
            } else {
                names::dns1123_subdomain(name)
            };
            errors.invalid_each(&hosts.index(n), name, bad);
        }
        let secret = text(entry, "secretName");
        if !secret.is_empty() {
            errors.invalid_each(&tls.index(i).child("secretName"), secret, names::dns1123_subdomain(secret));
        }
    }
    let class = text(spec, "ingressClassName");
    if has(spec, "ingressClassName") {
        errors.invalid_each(&SPEC.child("ingressClassName"), class, names::dns1123_subdomain(class));
        if meta::annotation(object, "kubernetes.io/ingress.class").is_some_and(|a| a != class) {
            let annotations = Path::new("metadata.annotations");
            errors.invalid(
                &annotations.child("kubernetes.io/ingress.class"),
                meta::annotation(object, "kubernetes.io/ingress.class").unwrap_or(""),
                "must match `ingressClassName` when both are specified",
            );
        }
    }
}

fn host(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        return;
    }
    if is_ip(name) {
        errors.invalid(path, name, "must be a DNS name, not an IP address");
    } else if name.contains('*') {
        errors.invalid_each(path, name, names::wildcard_dns1123_subdomain(name));
    } else {
        errors.invalid_each(path, name, names::dns1123_subdomain(name));
    }
}

const BAD_IN_PATH: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_AT_END: &[&str] = &["/..", "/."];

fn paths(http: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if items(http, "paths").is_empty() {
        errors.required(path, "");
    }
    for (i, entry) in items(http, "paths").iter().enumerate() {
        let at_i = path.index(i);
        let value = text(entry, "path");
        let at_path = at_i.child("path");
        match text(entry, "pathType") {
            "" => errors.required(&at_i.child("pathType"), "pathType must be specified"),
            "Exact" | "Prefix" => {
                if !value.starts_with('/') {
                    errors.invalid(&at_path, value, "must be an absolute path");
                }
                for bad in BAD_IN_PATH.iter().filter(|b| value.contains(**b)) {
                    errors.invalid(&at_path, value, format!("must not contain '{bad}'"));
                }
                for bad in BAD_AT_END.iter().filter(|b| value.ends_with(**b)) {
                    errors.invalid(&at_path, value, format!("cannot end with '{bad}'"));
                }
            }
            "ImplementationSpecific" => {
                if !value.is_empty() && !value.starts_with('/') {
                    errors.invalid(&at_path, value, "must be an absolute path");
                }
            }
            other => {
                errors.not_supported(
                    &at_i.child("pathType"),
                    other,
                    &["Exact", "ImplementationSpecific", "Prefix"],
                );
            }
        }
        backend(at(entry, "backend"), &at_i.child("backend"), errors);
    }
}

fn validate_class(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let controller = text(spec, "controller");
    let path = SPEC.child("controller");
    if controller.len() > 250 {
        errors.push(machinery::field::FieldError::too_long(&path, 250));
    }
    if controller.is_empty() {
        errors.required(&path, "");
    } else {
        match controller.split_once('/') {
            Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
                errors.invalid_each(&path, domain, names::dns1123_subdomain(domain));
            }
            _ => {
                errors.invalid(&path, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")")
            }
        }
    }
    let parameters = at(spec, "parameters");
    if parameters.is_null() {
        return;
    }
    let path = SPEC.child("parameters");
    required(parameters, "kind", &path, errors);
    required(parameters, "name", &path, errors);
    match text(parameters, "scope") {
        "" => errors.required(&path.child("scope"), ""),
        "Namespace" if text(parameters, "namespace").is_empty() => {
            errors.required(&path.child("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        "Cluster" if has(parameters, "namespace") => {
            errors.forbidden(&path.child("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        "Namespace" | "Cluster" => {}
        other => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

fn policy_defaults(object: &mut Value) {
    with_spec(object, |spec| {
        for direction in ["ingress", "egress"] {
            for rule in items_mut(spec, direction) {
                for port in items_mut(rule, "ports") {
                    preset(port, "protocol", "TCP");
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

fn validate_policy(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    validate_label_selector(spec.get("podSelector"), &SPEC.child("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = SPEC.child(direction);
        for (i, rule) in items(spec, direction).iter().enumerate() {
            let at_i = list.index(i);
            let ports = at_i.child("ports");
            for (n, port) in items(rule, "ports").iter().enumerate() {
                policy_port(port, &ports.index(n), errors);
            }
            let at_peers = at_i.child(peers);
            for (n, peer) in items(rule, peers).iter().enumerate() {
                policy_peer(peer, &at_peers.index(n), errors);
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
            errors.not_supported(&path.index(i), *kind, &["Egress", "Ingress"]);
        }
    }
}

fn policy_port(port: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    one_of_if_set(port, "protocol", &["SCTP", "TCP", "UDP"], path, errors);
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
    port_or_name(start, &path.child("port"), errors);
    if let Some(end) = int(port, "endPort") {
        match start.as_i64() {
            None => {
                errors.invalid(&path.child("endPort"), end, "may not be specified when `port` is non-numeric")
            }
            Some(from) => {
                if end < from {
                    errors.invalid(&path.child("endPort"), end, "must be greater than or equal to `port`");
                }
                port_number(end, &path.child("endPort"), errors);
            }
        }
    }
}

fn policy_peer(peer: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut count = 0;
    for name in ["podSelector", "namespaceSelector"] {
        if has(peer, name) {
            count += 1;
            validate_label_selector(peer.get(name), &path.child(name), errors);
        }
    }
    if has(peer, "ipBlock") {
        if count > 0 {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
        count += 1;
        ip_block(at(peer, "ipBlock"), &path.child("ipBlock"), errors);
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
    let except = path.child("except");
    for (i, inner) in texts(block, "except").enumerate() {
        cidr(inner, &except.index(i), errors);
        if is_cidr(range) && is_cidr(inner) && !within(inner, range) {
            errors.invalid(
                &except.index(i),
                inner,
                format!("must be a strict subset of `cidr`: {}", machinery::field::quote(range)),
            );
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

fn ip_name(name: &str, _prefix: bool) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(parsed) if parsed.to_string() == name => vec![],
        Ok(_) => vec!["must be a canonical format IP address".into()],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

fn validate_address(object: &Value, errors: &mut FieldErrors) {
    let parent = at(at(object, "spec"), "parentRef");
    let path = SPEC.child("parentRef");
    if parent.is_null() {
        errors.required(&path, "");
        return;
    }
    required(parent, "resource", &path, errors);
    required(parent, "name", &path, errors);
}

fn validate_ranges(object: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("cidrs");
    let ranges: Vec<&str> = texts(at(object, "spec"), "cidrs").collect();
    if ranges.is_empty() {
        errors.required(&path, "at least one CIDR required");
    }
    if ranges.len() > 2 {
        errors.invalid(&path, Value::from(ranges), "may only hold up to 2 values");
        return;
    }
    for (i, range) in ranges.iter().enumerate() {
        cidr(range, &path.index(i), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;
    use serde_json::json;

    fn errors(kind: &str, spec: Value) -> Vec<String> {
        let row = find(GROUP, kind).unwrap();
        let mut object = json!({"metadata": {"name": "x"}, "spec": spec});
        if row.namespaced {
            object["metadata"]["namespace"] = "d".into();
        }
        row.default(&mut object);
        row.validate(&object).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ingresses() {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        assert_eq!(errors("Ingress", json!({"defaultBackend": backend})), [""; 0]);
        assert_eq!(
            errors("Ingress", json!({})),
            ["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"]
        );
        let rule = |path: Value| json!({"rules": [{"host": "a.b", "http": {"paths": [path]}}]});
        assert_eq!(
            errors("Ingress", rule(json!({"path": "/", "backend": backend}))),
            ["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"]
        );
        assert_eq!(
            errors(
                "Ingress",
                rule(json!({"path": "x", "pathType": "Prefix", "backend": {"service": {"name": "s"}}}))
            ),
            [
                "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
                "spec.rules[0].http.paths[0].backend.service.port: Required value: port name or number is required",
            ]
        );
    }

    #[test]
    fn policies() {
        assert_eq!(errors("NetworkPolicy", json!({"podSelector": {}, "ingress": [{}]})), [""; 0]);
        assert_eq!(
            errors("NetworkPolicy", json!({"ingress": [{"from": [{}]}]})),
            ["spec.ingress[0].from[0]: Required value: must specify a peer"]
        );
        assert_eq!(
            errors(
                "NetworkPolicy",
                json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]})
            ),
            [
                "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`: \"10.0.0.0/8\""
            ]
        );
        assert_eq!(
            errors("NetworkPolicy", json!({"ingress": [{"ports": [{"port": 5, "endPort": 4}]}]})),
            ["spec.ingress[0].ports[0].endPort: Invalid value: 4: must be greater than or equal to `port`"]
        );
    }

    #[test]
    fn the_rest() {
        assert_eq!(
            errors("IngressClass", json!({"controller": "x"})),
            [
                "spec.controller: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")"
            ]
        );
        assert_eq!(
            errors("ServiceCIDR", json!({})),
            ["spec.cidrs: Required value: at least one CIDR required"]
        );
        assert!(
            errors("IPAddress", json!({"parentRef": {"resource": "services", "name": "a"}}))[0]
                .starts_with("metadata.name: Invalid value: \"x\": must be a valid IP address")
        );
    }
}
