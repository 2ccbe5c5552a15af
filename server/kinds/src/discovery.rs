//! The group `discovery.k8s.io`.

use super::core::{endpoint_ip, is_own};
use super::kind::{Kind, Metadata};
use super::support::{
    IP_MESSAGE, at, has, immutable_text, items, items_mut, label, members, one_of, one_of_pointer,
    preset_pointer, text, texts,
};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::labels::validation::validate_labels;
use machinery::names;
use serde_json::Value;

pub(super) static KINDS: &[Kind] = &[Kind::namespaced("discovery.k8s.io", "EndpointSlice")
    .metadata(Metadata::Whole)
    .generation_by(&["endpoints", "ports", "addressType"])
    .exact()
    .default(default)
    .on_create(drop_old_topology)
    .on_update(|o, old, _| {
        if o.get("endpoints") != old.get("endpoints") {
            drop_old_topology(o);
        }
    })
    .warn(|o, old| {
        let named = text(o, "addressType") == "FQDN";
        (named && old.is_none())
            .then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned())
            .into_iter()
            .collect()
    })
    .validate(validate)
    .validate_update(|new, old, _, errors| {
        let kind = "addressType";
        immutable_text(text(new, kind), text(old, kind), &Path::new(kind), errors);
    })];

/// What endpoints knew of their place before `zone`; it stays until they change.
fn drop_old_topology(object: &mut Value) {
    for endpoint in items_mut(object, "endpoints") {
        endpoint.as_object_mut().and_then(|e| e.remove("deprecatedTopology"));
    }
}

fn default(object: &mut Value) {
    for port in items_mut(object, "ports") {
        if !has(port, "name") {
            port["name"] = "".into();
        }
        preset_pointer(port, "protocol", "TCP");
    }
}

const MAX_ADDRESSES: usize = 100;
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY: usize = 16;
const MAX_HINTS: usize = 8;

fn validate(object: &Value, errors: &mut FieldErrors) {
    let kind = text(object, "addressType");
    one_of(object, "addressType", &["FQDN", "IPv4", "IPv6"], &Path::root(), errors);
    ports(object, errors);
    let list = Path::new("endpoints");
    let endpoints = items(object, "endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(FieldError::too_many(&list, endpoints.len(), MAX_ENDPOINTS));
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        endpoint_of(endpoint, kind, is_own(object), &list.index(i), errors);
    }
}

fn endpoint_of(endpoint: &Value, kind: &str, own: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let addresses = path.child("addresses");
    let count = items(endpoint, "addresses").len();
    if count == 0 {
        errors.required(&addresses, "must contain at least 1 address");
    } else if count > MAX_ADDRESSES {
        errors.push(FieldError::too_many(&addresses, count, MAX_ADDRESSES));
    }
    for (i, address) in texts(endpoint, "addresses").enumerate() {
        let at_i = addresses.index(i);
        match kind {
            "IPv4" | "IPv6" => match address.parse::<std::net::IpAddr>() {
                Err(_) => errors.invalid(&at_i, address, IP_MESSAGE),
                Ok(parsed) => {
                    if parsed.is_ipv4() != (kind == "IPv4") {
                        errors.invalid(&addresses, address, format!("must be an {kind} address"));
                    }
                    if !own {
                        endpoint_ip(address, &at_i, errors);
                    }
                }
            },
            "FQDN" => full_name(address, &at_i, errors),
            _ => {}
        }
    }
    if has(endpoint, "nodeName") {
        let node = text(endpoint, "nodeName");
        errors.invalid_each(&path.child("nodeName"), node, names::dns1123_subdomain(node));
    }
    let topology = path.child("deprecatedTopology");
    let labels = members(endpoint, "deprecatedTopology").count();
    if labels > MAX_TOPOLOGY {
        errors.push(FieldError::too_many(&topology, labels, MAX_TOPOLOGY));
    }
    validate_labels(endpoint.get("deprecatedTopology"), &topology, errors);
    if has(endpoint, "hostname") {
        label(text(endpoint, "hostname"), &path.child("hostname"), errors);
    }
    for (name, check) in
        [("forZones", names::label_value as fn(&str) -> Vec<String>), ("forNodes", names::dns1123_subdomain)]
    {
        let hints = path.child("hints");
        let hints = hints.child(name);
        let list = items(at(endpoint, "hints"), name);
        if list.len() > MAX_HINTS {
            errors.push(FieldError::too_many(&hints, list.len(), MAX_HINTS));
            return;
        }
        let mut seen: Vec<&str> = Vec::new();
        for (i, hint) in list.iter().enumerate() {
            let path = hints.index(i);
            let (path, given) = (path.child("name"), text(hint, "name"));
            if seen.contains(&given) {
                errors.duplicate(&path, given);
            }
            seen.push(given);
            errors.invalid_each(&path, given, check(given));
        }
    }
}

/// A domain of two labels at least, with or without the root's dot.
fn full_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let bad = names::dns1123_subdomain(name);
    if !bad.is_empty() {
        errors.invalid(path, name, bad.join(","));
    } else if !name.contains('.') {
        errors.invalid(path, name, "should be a domain with at least two segments separated by dots");
    } else if let Some(part) = name.split('.').find(|l| !names::dns1123_label(l).is_empty()) {
        errors.invalid(path, part, names::dns1123_label(part).join(","));
    }
}

fn ports(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("ports");
    let list = items(object, "ports");
    if list.len() > MAX_PORTS {
        errors.push(FieldError::too_many(&path, list.len(), MAX_PORTS));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in list.iter().enumerate() {
        let at_i = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            label(name, &at_i.child("name"), errors);
        }
        if seen.contains(&name) {
            errors.duplicate(&at_i.child("name"), name);
        }
        seen.push(name);
        one_of_pointer(port, "protocol", &["SCTP", "TCP", "UDP"], &at_i, errors);
        if has(port, "appProtocol") {
            let protocol = text(port, "appProtocol");
            errors.invalid_each(&at_i.child("appProtocol"), protocol, names::qualified_name(protocol));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use serde_json::json;

    #[test]
    fn checks() {
        let row = find("discovery.k8s.io", "EndpointSlice").unwrap();
        let mut slice = json!({"metadata": {"name": "x", "namespace": "d"}, "addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}, {}], "ports": [{"port": 80}]});
        row.default(&mut slice);
        assert_eq!(slice["ports"][0], json!({"name": "", "port": 80, "protocol": "TCP"}));
        let got: Vec<_> = row.validate(&slice).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            [
                "endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
            ]
        );
    }
}
