//! The group `discovery.k8s.io`.

use super::core::{endpoint_ip, is_own};
use super::kind::{Kind, Metadata};
use super::support::{
    at, has, immutable, int, items, items_mut, label, one_of, port_number, preset, text, texts,
};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use serde_json::Value;

pub(super) static KINDS: &[Kind] = &[Kind::namespaced("discovery.k8s.io", "EndpointSlice")
    .metadata(Metadata::Whole)
    .generation_by(&["endpoints", "ports", "addressType"])
    .default(default)
    .on_create(drop_old_topology)
    .warn(|o, old| {
        let named = text(o, "addressType") == "FQDN";
        (named && old.is_none())
            .then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned())
            .into_iter()
            .collect()
    })
    .validate(validate)
    .validate_update(|new, old, _, errors| {
        immutable(at(new, "addressType"), at(old, "addressType"), &Path::new("addressType"), errors);
    })];

/// What endpoints knew of their place before `zone`; only objects that have it keep it.
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
        preset(port, "protocol", "TCP");
    }
}

const MAX_ADDRESSES: usize = 100;
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;

fn validate(object: &Value, errors: &mut FieldErrors) {
    let kind = text(object, "addressType");
    if kind.is_empty() {
        errors.required(&Path::new("addressType"), "");
    } else if !["FQDN", "IPv4", "IPv6"].contains(&kind) {
        errors.not_supported(&Path::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
    }
    let list = Path::new("endpoints");
    let endpoints = items(object, "endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(machinery::field::FieldError::too_many(&list, endpoints.len(), MAX_ENDPOINTS));
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        endpoint_of(endpoint, kind, is_own(object), &list.index(i), errors);
    }
    ports(object, errors);
}

fn endpoint_of(endpoint: &Value, kind: &str, own: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let addresses = path.child("addresses");
    let count = items(endpoint, "addresses").len();
    if count == 0 {
        errors.required(&addresses, "must contain at least 1 address");
    } else if count > MAX_ADDRESSES {
        errors.push(machinery::field::FieldError::too_many(&addresses, count, MAX_ADDRESSES));
    }
    for (i, address) in texts(endpoint, "addresses").enumerate() {
        let at_i = addresses.index(i);
        match kind {
            "IPv4" | "IPv6" => {
                if own {
                    super::support::ip(address, &at_i, errors);
                } else {
                    endpoint_ip(address, &at_i, errors);
                }
                if let Ok(parsed) = address.parse::<std::net::IpAddr>()
                    && parsed.is_ipv4() != (kind == "IPv4")
                {
                    errors.invalid(&at_i, address, format!("must be an {kind} address"));
                }
            }
            "FQDN" => {
                let name = address.strip_suffix('.').unwrap_or(address);
                errors.invalid_each(&at_i, name, names::dns1123_subdomain(name));
                if !name.contains('.') {
                    errors.invalid(
                        &at_i,
                        name,
                        "should be a domain with at least two segments separated by dots",
                    );
                }
            }
            _ => {}
        }
    }
    if !text(endpoint, "hostname").is_empty() {
        label(text(endpoint, "hostname"), &path.child("hostname"), errors);
    }
    if has(endpoint, "nodeName") {
        let node = text(endpoint, "nodeName");
        errors.invalid_each(&path.child("nodeName"), node, names::dns1123_subdomain(node));
    }
    let zones = path.child("hints.forZones");
    for (i, zone) in items(at(endpoint, "hints"), "forZones").iter().enumerate() {
        let name = text(zone, "name");
        errors.invalid_each(&zones.index(i).child("name"), name, names::label_value(name));
    }
}

fn ports(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("ports");
    let list = items(object, "ports");
    if list.len() > MAX_PORTS {
        errors.push(machinery::field::FieldError::too_many(&path, list.len(), MAX_PORTS));
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
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at_i, errors);
        if let Some(number) = int(port, "port") {
            port_number(number, &at_i.child("port"), errors);
        }
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
                "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be an IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
            ]
        );
    }
}
