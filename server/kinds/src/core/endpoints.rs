//! Endpoints, the older form of endpoint slices.

use super::addresses::not_special;
use crate::kind::{Kind, Metadata};
use crate::support::{at, has, int, ip, is_ip, items, items_mut, label, one_of, port_number, preset, text};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use serde_json::Value;

pub(super) const KIND: Kind =
    Kind::namespaced("", "Endpoints").metadata(Metadata::Both).default(default).validate(validate);

fn default(object: &mut Value) {
    for subset in items_mut(object, "subsets") {
        for port in items_mut(subset, "ports") {
            preset(port, "protocol", "TCP");
        }
    }
}

/// The API server's own endpoints: on a machine without any network it can only name loopback.
pub(crate) fn is_own(object: &Value) -> bool {
    machinery::meta::name(object) == "kubernetes" && machinery::meta::namespace(object) == "default"
}

/// An address that traffic can be sent to.
pub(crate) fn endpoint_ip(address: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if is_ip(address) {
        not_special(address, path, errors);
    } else {
        errors.invalid(path, address, "must be a valid IP address");
    }
}

fn validate(object: &Value, errors: &mut FieldErrors) {
    let subsets = Path::new("subsets");
    let own = is_own(object);
    for (i, subset) in items(object, "subsets").iter().enumerate() {
        let at_i = subsets.index(i);
        if items(subset, "addresses").is_empty() && items(subset, "notReadyAddresses").is_empty() {
            errors.required(&at_i, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            let addresses = at_i.child(list);
            for (n, address) in items(subset, list).iter().enumerate() {
                let path = addresses.index(n);
                ip(text(address, "ip"), &path.child("ip"), errors);
                if !text(address, "hostname").is_empty() {
                    label(text(address, "hostname"), &path.child("hostname"), errors);
                }
                if has(address, "nodeName") {
                    let node = text(address, "nodeName");
                    errors.invalid_each(&path.child("nodeName"), node, names::dns1123_subdomain(node));
                }
                if !own {
                    endpoint_ip(text(address, "ip"), &path.child("ip"), errors);
                }
            }
        }
        let ports = at_i.child("ports");
        let many = items(subset, "ports").len() > 1;
        for (n, port) in items(subset, "ports").iter().enumerate() {
            let path = ports.index(n);
            match text(port, "name") {
                "" if many => errors.required(&path.child("name"), ""),
                "" => {}
                name => label(name, &path.child("name"), errors),
            }
            port_number(int(port, "port").unwrap_or(0), &path.child("port"), errors);
            one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &path, errors);
            if has(port, "appProtocol") {
                let name = at(port, "appProtocol").as_str().unwrap_or("");
                errors.invalid_each(&path.child("appProtocol"), name, names::qualified_name(name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;
    use serde_json::json;

    static ENDPOINTS: Kind = KIND;

    #[test]
    fn checks() {
        let object = json!({"metadata": {"name": "e", "namespace": "a"}, "subsets": [{"addresses": [{"ip": "127.0.0.1"}]}, {"ports": [{"port": 1, "protocol": "TCP"}]}]});
        let got: Vec<_> = (&ENDPOINTS).validate(&object).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            got,
            [
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
            ]
        );
    }
}
