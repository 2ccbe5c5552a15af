//! The group `networking.k8s.io`.

mod addresses;
mod policy;

use super::kind::{Check, Kind, Metadata};
use super::support::{
    at, has, immutable_text, int, ip, is_ip, items, label, path_segment, port_number, preset_pointer, same,
    some_mut, text, texts,
};
use machinery::field::{FieldErrors, Path};
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
    Kind::namespaced(GROUP, "NetworkPolicy").generation().exact().default(policy::defaults).validate(policy::validate),
    Kind::cluster(GROUP, "IPAddress")
        .named(addresses::name)
        .checks(&[Check::Meta, Check::Whole, Check::MetaChange, Check::Change])
        .validate(addresses::validate)
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
        .validate(|o, errors| addresses::ranges(at(o, "spec"), errors))
        .checks(&[Check::MetaChange, Check::Change])
        .validate_update(|new, old, subresource, errors| {
            if subresource.is_empty() {
                addresses::ranges_update(at(new, "spec"), at(old, "spec"), errors);
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
            at(spec, "rules").clone(),
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
            ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
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
