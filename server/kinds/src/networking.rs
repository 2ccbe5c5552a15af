//! The group `networking.k8s.io`.

use super::kind::{Check, Kind, Metadata};
use super::support::{
    at, cidr, has, immutable_text, int, ip, is_cidr, is_ip, items, items_mut, label, one_of_pointer,
    path_segment, port_number, port_or_name, preset_pointer, same, some_mut, text, texts, with_spec,
};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_label_selector;
use machinery::{meta, names};
use serde_json::Value;

const GROUP: &str = "networking.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::namespaced(GROUP, "Ingress")
        .status()
        .generation()
        .on_create(|o| o["status"] = serde_json::json!({"loadBalancer": {}}))
        .warn(|o, old| {
            let old_way = meta::annotation(o, CLASS_ANNOTATION).is_some() && !has(at(o, "spec"), "ingressClassName");
            let warning = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
            (old_way && old.is_none()).then(|| warning.to_owned()).into_iter().collect()
        })
        .validate(|o, errors| {
            validate_ingress(o, errors);
            let class = at(o, "spec").get("ingressClassName").and_then(Value::as_str);
            if let (Some(old), Some(class)) = (meta::annotation(o, CLASS_ANNOTATION), class)
                && old != class
            {
                let message = "must match `ingressClassName` when both are specified";
                errors.invalid(&Path::new("annotations").child(CLASS_ANNOTATION), old, message);
            }
        })
        .checks(&[Check::MetaChange, Check::Meta, Check::Change])
        .validate_update(|new, _, subresource, errors| match subresource {
            "" => validate_ingress(new, errors),
            _ => load_balancer(at(new, "status"), errors),
        }),
    Kind::cluster(GROUP, "IngressClass")
        .metadata(Metadata::Both)
        .changes_first()
        .generation()
        .default(|o| {
            if let Some(spec) = some_mut(o, "spec")
                && let Some(parameters) = some_mut(spec, "parameters")
            {
                preset_pointer(parameters, "scope", "Cluster");
            }
        })
        .validate(validate_class)
        .validate_update(|new, old, _, errors| {
            let controller = |o| text(at(o, "spec"), "controller");
            immutable_text(controller(new), controller(old), &Path::new("spec.controller"), errors);
        }),
    Kind::namespaced(GROUP, "NetworkPolicy").generation().exact().default(policy_defaults).validate(validate_policy),
    Kind::cluster(GROUP, "IPAddress")
        .named(ip_name)
        .checks(&[Check::Meta, Check::Whole, Check::MetaChange, Check::Change])
        .validate(validate_address)
        .validate_update(|new, old, _, errors| {
            let parent = |o| at(at(o, "spec"), "parentRef");
            if !same(Some(parent(new)), Some(parent(old))) {
                let p = parent(new);
                let shown = if p.is_null() {
                    Value::Null
                } else {
                    serde_json::json!({"Group": text(p, "group"), "Resource": text(p, "resource"),
                        "Namespace": text(p, "namespace"), "Name": text(p, "name")})
                };
                errors.invalid(&Path::new("spec.parentRef"), shown, "field is immutable");
            }
        }),
    Kind::cluster(GROUP, "ServiceCIDR")
        .status()
        .validate(|o, errors| validate_ranges(at(o, "spec"), errors))
        .checks(&[Check::MetaChange, Check::Change])
        .validate_update(|new, old, subresource, errors| {
            if subresource.is_empty() {
                ranges_update(at(new, "spec"), at(old, "spec"), errors);
            }
        }),
];

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The addresses of an ingress.
fn load_balancer(status: &Value, errors: &mut FieldErrors) {
    let list = Path::new("status.loadBalancer.ingress");
    for (i, ingress) in items(at(status, "loadBalancer"), "ingress").iter().enumerate() {
        let path = list.index(i);
        if !text(ingress, "ip").is_empty() {
            ip(text(ingress, "ip"), &path.child("ip"), errors);
        }
        let host = text(ingress, "hostname");
        if !host.is_empty() {
            errors.invalid_each(&path.child("hostname"), host, names::dns1123_subdomain(host));
            if is_ip(host) {
                errors.invalid(&path.child("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// A reference to an object of the same namespace or of none.
fn typed_reference(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if has(reference, "apiGroup") {
        let group = text(reference, "apiGroup");
        errors.invalid_each(&path.child("apiGroup"), group, names::dns1123_subdomain(group));
    }
    path_segment(reference, "kind", path, errors);
    path_segment(reference, "name", path, errors);
}

const SPEC: Path<'static> = Path::new("spec");

fn backend(value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (resource, service) = (has(value, "resource"), has(value, "service"));
    match (resource, service) {
        (true, true) => {
            errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (true, false) => {
            let reference = at(value, "resource");
            typed_reference(reference, &path.child("resource"), errors);
        }
        (false, true) => {
            let service = at(value, "service");
            let whole = path;
            let path = path.child("service");
            let name = text(service, "name");
            if name.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                errors.invalid_each(&path.child("name"), name, names::dns1123_label(name));
            }
            let port = at(service, "port");
            let path = path.child("port");
            let (number, name) = (int(port, "number").unwrap_or(0), text(port, "name"));
            if !name.is_empty() && number != 0 {
                errors.invalid(whole, "", "cannot set both port name & port number");
            } else if !name.is_empty() {
                errors.invalid_each(&path.child("name"), name, names::port_name(name));
            } else if number != 0 {
                port_number(number, &path.child("number"), errors);
            } else {
                errors.required(whole, "port name or number is required");
            }
        }
        (false, false) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

fn validate_ingress(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    if items(spec, "rules").is_empty() && !has(spec, "defaultBackend") {
        errors.invalid(
            &SPEC,
            items(spec, "rules").to_vec(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if has(spec, "defaultBackend") {
        backend(at(spec, "defaultBackend"), &SPEC.child("defaultBackend"), errors);
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
        if !has(entry, "pathType") {
            errors.required(&at_i.child("pathType"), "pathType must be specified");
            continue;
        }
        match text(entry, "pathType") {
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
    typed_reference(parameters, &path, errors);
    let at_namespace = path.child("namespace");
    if !has(parameters, "scope") {
        errors.required(&path.child("scope"), "");
        return;
    }
    match (text(parameters, "scope"), parameters.get("namespace").and_then(Value::as_str)) {
        ("Namespace", None) => {
            errors.required(&at_namespace, "`parameters.scope` is set to 'Namespace'");
        }
        ("Namespace", Some(name)) => label(name, &at_namespace, errors),
        ("Cluster", Some(_)) => errors.forbidden(&at_namespace, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        (other, _) => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

fn policy_defaults(object: &mut Value) {
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
            errors.not_supported(&path.index(i), *kind, &["Ingress", "Egress"]);
        }
    }
}

fn policy_port(port: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
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

fn policy_peer(peer: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
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

fn validate_ranges(spec: &Value, errors: &mut FieldErrors) {
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
fn ranges_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
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
        validate_ranges(new, errors);
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
                "spec.rules[0].http.paths[0].backend: Required value: port name or number is required",
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
                "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"
            ]
        );
        assert_eq!(
            errors("NetworkPolicy", json!({"ingress": [{"ports": [{"port": 5, "endPort": 4}]}]})),
            ["spec.ingress[0].ports[0].endPort: Invalid value: 5: must be greater than or equal to `port`"]
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
