//! Services. Cluster addresses and node ports are allocated elsewhere; here is what the object says of them.

use super::addresses;
use crate::kind::{Kind, carry};
use crate::support::{
    at, cidr, has, int, ip, items, items_mut, label, one_of, one_of_pointer, port_number, port_or_name,
    preset, preset_pointer, same, some_mut, text, texts, with_spec,
};
use machinery::field::{FieldErrors, Path};
use machinery::labels::validation::validate_labels;
use machinery::names;
use serde_json::{Value, json};

pub(super) const KIND: Kind = Kind::namespaced("", "Service")
    .changes_first()
    .named(names::name_is_label)
    .status()
    .default(default)
    .on_create(|o| o["status"] = json!({"loadBalancer": {}}))
    .on_update(update)
    .validate(validate)
    .validate_update(validate_update)
    .select(select)
    .warn(|o, _| warnings(at(o, "spec")));

fn warnings(spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let text_is = |name: &str, wanted: &str| text(spec, name) == wanted;
    let kind = text(spec, "type");
    if text_is("clusterIP", "None") && kind == "ClusterIP" {
        for (name, shown) in [("loadBalancerIP", "loadBalancerIP"), ("externalIPs", "externalIPs")] {
            if !text(spec, name).is_empty() || !items(spec, name).is_empty() {
                out.push(format!("spec.{shown} is ignored for headless services"));
            }
        }
        if !text_is("sessionAffinity", "None") {
            out.push("spec.SessionAffinity is ignored for headless services".into());
        }
    }
    let external = !items(spec, "externalIPs").is_empty();
    if external {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    if kind == "ExternalName" && external {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if kind != "ExternalName" && !text(spec, "externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if text_is("trafficDistribution", "PreferClose") {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
    out
}

const AFFINITY_SECONDS: i64 = 86400;

fn default(object: &mut Value) {
    with_spec(object, |spec| {
        preset(spec, "sessionAffinity", "None");
        match text(spec, "sessionAffinity") {
            "None" => drop(spec.as_object_mut().and_then(|s| s.remove("sessionAffinityConfig"))),
            "ClientIP" => {
                let timeout = at(at(at(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds");
                if timeout.is_null() {
                    spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
                }
            }
            _ => {}
        }
        preset(spec, "type", "ClusterIP");
        for port in items_mut(spec, "ports") {
            preset(port, "protocol", "TCP");
            let unset = match at(port, "targetPort") {
                Value::Null => true,
                Value::String(s) => s.is_empty(),
                other => other.as_i64() == Some(0),
            };
            if unset {
                port["targetPort"] = at(port, "port").clone();
            }
        }
        let kind = text(spec, "type").to_string();
        let outside = kind == "ClusterIP" && !items(spec, "externalIPs").is_empty();
        if outside || matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            preset(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind != "ExternalName" {
            preset_pointer(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            preset(spec, "allocateLoadBalancerNodePorts", true);
        }
    });
    if let Some(status) = some_mut(object, "status")
        && let Some(balancer) = some_mut(status, "loadBalancer")
    {
        for ingress in items_mut(balancer, "ingress").filter(|i| !text(i, "ip").is_empty()) {
            preset_pointer(ingress, "ipMode", "VIP");
        }
    }
}

fn needs_cluster_ip(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName"
}

fn needs_node_ports(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn needs_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn needs_traffic_policy(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
        || (text(spec, "type") == "ClusterIP" && !items(spec, "externalIPs").is_empty())
}

fn update(object: &mut Value, old: &Value, subresource: &str) {
    if !subresource.is_empty() {
        return;
    }
    let before = at(old, "spec").clone();
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
    keep_allocated(spec, &before);
    drop_dependent(spec, &before);
}

/// What was allocated stays where the new object says nothing.
fn keep_allocated(spec: &mut Value, before: &Value) {
    if needs_cluster_ip(before) && needs_cluster_ip(spec) {
        if text(spec, "clusterIP").is_empty() && !text(before, "clusterIP").is_empty() {
            carry(spec, before, "clusterIP");
        }
        if text(spec, "clusterIP") == text(before, "clusterIP") {
            for member in ["clusterIPs", "ipFamilies"] {
                if items(spec, member).is_empty() {
                    carry(spec, before, member);
                }
            }
            if !has(spec, "ipFamilyPolicy") {
                carry(spec, before, "ipFamilyPolicy");
            }
        }
    }
    if needs_node_ports(before) && needs_node_ports(spec) {
        let port = |p: &Value| int(p, "nodePort").unwrap_or(0);
        let theirs: Vec<i64> = items(before, "ports").iter().map(port).collect();
        let mut used: Vec<i64> =
            items(spec, "ports").iter().map(port).filter(|p| theirs.contains(p)).collect();
        for now in items_mut(spec, "ports").filter(|p| port(p) == 0) {
            let like = items(before, "ports").iter().find(|b| text(b, "name") == text(now, "name"));
            if let Some(number) = like.map(port).filter(|n| *n != 0 && !used.contains(n)) {
                now["nodePort"] = number.into();
                used.push(number);
            }
        }
    }
    if needs_health_port(before)
        && needs_health_port(spec)
        && int(spec, "healthCheckNodePort").unwrap_or(0) == 0
    {
        carry(spec, before, "healthCheckNodePort");
    }
}

/// What belonged to the old type goes with it, where the client merely left it standing.
fn drop_dependent(spec: &mut Value, before: &Value) {
    let drop_same = |spec: &mut Value, members: &[&str]| {
        for member in members {
            if same(spec.get(member), before.get(member))
                && let Some(map) = spec.as_object_mut()
            {
                map.remove(*member);
            }
        }
    };
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) {
        drop_same(spec, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if needs_node_ports(before) && !needs_node_ports(spec) {
        let port = |p: &Value| int(p, "nodePort").unwrap_or(0);
        let ports = |s: &Value| items(s, "ports").iter().map(port).collect::<Vec<_>>();
        if ports(spec) == ports(before) {
            for p in items_mut(spec, "ports") {
                p.as_object_mut().and_then(|p| p.remove("nodePort"));
            }
        }
    }
    if needs_health_port(before) && !needs_health_port(spec) {
        drop_same(spec, &["healthCheckNodePort"]);
    }
    if text(before, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        drop_same(spec, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if needs_traffic_policy(before) && !needs_traffic_policy(spec) {
        drop_same(spec, &["externalTrafficPolicy"]);
    }
}

const SPEC: Path<'static> = Path::new("spec");

fn validate(object: &Value, errors: &mut FieldErrors) {
    let spec = at(object, "spec");
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    let ports = SPEC.child("ports");
    if items(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required(&ports, "");
    }
    by_type(spec, kind, headless, errors);
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in items(spec, "ports").iter().enumerate() {
        one_port(port, items(spec, "ports").len() > 1, &mut seen, &ports.index(i), errors);
    }
    validate_labels(spec.get("selector"), &SPEC.child("selector"), errors);
    affinity(spec, errors);
    addresses::all(spec, errors);
    one_of(spec, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &SPEC, errors);
    let mut node_ports: Vec<(&str, i64)> = Vec::new();
    let mut plain: Vec<(&str, i64)> = Vec::new();
    for (i, port) in items(spec, "ports").iter().enumerate() {
        let at_i = ports.index(i);
        let protocol = text(port, "protocol");
        let number = int(port, "nodePort").unwrap_or(0);
        if number != 0 {
            if kind == "ClusterIP" {
                errors.forbidden(&at_i.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            if node_ports.contains(&(protocol, number)) {
                errors.duplicate(&at_i.child("nodePort"), number);
            }
            node_ports.push((protocol, number));
        }
        let key = (protocol, int(port, "port").unwrap_or(0));
        if plain.contains(&key) {
            errors.duplicate(
                &at_i,
                json!({"Name": "", "Protocol": key.0, "AppProtocol": null, "Port": key.1, "TargetPort": 0, "NodePort": 0}),
            );
        }
        plain.push(key);
    }
    balancer_fields(spec, kind, errors);
    traffic(spec, errors);
}

fn by_type(spec: &Value, kind: &str, headless: bool, errors: &mut FieldErrors) {
    let first = SPEC.child("clusterIPs");
    match kind {
        "LoadBalancer" if headless => {
            errors.invalid(&first.index(0), "None", "may not be set to 'None' for LoadBalancer services");
        }
        "NodePort" if headless => {
            errors.invalid(&first.index(0), "None", "may not be set to 'None' for NodePort services");
        }
        "ExternalName" => {
            if !items(spec, "clusterIPs").is_empty() || !text(spec, "clusterIP").is_empty() {
                errors.forbidden(&first, "may not be set for ExternalName services");
            }
            for member in ["ipFamilies", "ipFamilyPolicy"] {
                if !same(spec.get(member), None) {
                    errors.forbidden(&SPEC.child(member), "may not be set for ExternalName services");
                }
            }
            let name = text(spec, "externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.required(&SPEC.child("externalName"), "");
            } else {
                errors.invalid_each(&SPEC.child("externalName"), name, names::dns1123_subdomain(name));
            }
        }
        _ => {}
    }
}

fn one_port<'v>(
    port: &'v Value,
    needs_name: bool,
    seen: &mut Vec<&'v str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let name = text(port, "name");
    if name.is_empty() {
        if needs_name {
            errors.required(&path.child("name"), "");
        }
    } else {
        label(name, &path.child("name"), errors);
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
    }
    port_number(int(port, "port").unwrap_or(0), &path.child("port"), errors);
    one_of(port, "protocol", &["SCTP", "TCP", "UDP"], path, errors);
    port_or_name(at(port, "targetPort"), &path.child("targetPort"), errors);
    let protocol = text(port, "appProtocol");
    if has(port, "appProtocol") {
        errors.invalid_each(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
    }
}

fn affinity(spec: &Value, errors: &mut FieldErrors) {
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], &SPEC, errors);
    let path = SPEC.child("sessionAffinityConfig");
    let config = at(spec, "sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "ClientIP" => match int(at(config, "clientIP"), "timeoutSeconds") {
            None => errors.required(&path, "when session affinity type is ClientIP"),
            Some(n) if n <= 0 || n > AFFINITY_SECONDS => errors.invalid(
                &path.child("clientIP.timeoutSeconds"),
                n,
                format!("must be greater than 0 and less than {AFFINITY_SECONDS}"),
            ),
            Some(_) => {}
        },
        "None" if has(spec, "sessionAffinityConfig") => {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn balancer_fields(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let ranges = SPEC.child("LoadBalancerSourceRanges");
    if !items(spec, "loadBalancerSourceRanges").is_empty() {
        if kind != "LoadBalancer" {
            errors.forbidden(&ranges, ONLY);
        }
        for (i, range) in texts(spec, "loadBalancerSourceRanges").enumerate() {
            cidr(range.trim(), &ranges.index(i), errors);
        }
    }
    let allocate = "allocateLoadBalancerNodePorts";
    if has(spec, allocate) && kind != "LoadBalancer" {
        errors.forbidden(&SPEC.child(allocate), ONLY);
    }
    if kind == "LoadBalancer" && !has(spec, "allocateLoadBalancerNodePorts") {
        errors.required(&Path::new(allocate), "");
    }
    balancer_class(spec, errors);
}

fn traffic(spec: &Value, errors: &mut FieldErrors) {
    let policy = text(spec, "externalTrafficPolicy");
    if needs_traffic_policy(spec) {
        one_of(spec, "externalTrafficPolicy", &["Cluster", "Local"], &SPEC, errors);
    } else if !policy.is_empty() {
        errors.invalid(
            &SPEC.child("externalTrafficPolicy"),
            policy,
            "may only be set for externally-accessible services",
        );
    }
    let health = int(spec, "healthCheckNodePort").unwrap_or(0);
    let at_health = SPEC.child("healthCheckNodePort");
    match (needs_health_port(spec), health) {
        (true, 0) => errors.required(&at_health, ""),
        (true, port) => port_number(port, &at_health, errors),
        (false, 0) => {}
        (false, port) => errors.invalid(
            &at_health,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
    }
    if !has(spec, "internalTrafficPolicy") && (needs_node_ports(spec) || text(spec, "type") == "ClusterIP") {
        errors.required(&SPEC.child("internalTrafficPolicy"), "");
    }
    one_of_pointer(spec, "internalTrafficPolicy", &["Cluster", "Local"], &SPEC, errors);
    one_of_pointer(
        spec,
        "trafficDistribution",
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
        &SPEC,
        errors,
    );
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if subresource == "status" {
        let path = Path::new("status.loadBalancer.ingress");
        let ingress = |o: &Value| at(at(at(o, "status"), "loadBalancer"), "ingress").clone();
        let (now, then) = (ingress(new), ingress(old));
        if text(at(new, "spec"), "type") != "LoadBalancer"
            && now != then
            && now.as_array().is_some_and(|a| !a.is_empty())
        {
            errors.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
            return;
        }
        for (i, ingress) in items(at(at(new, "status"), "loadBalancer"), "ingress").iter().enumerate() {
            let at_i = path.index(i);
            let address = text(ingress, "ip");
            if !address.is_empty() {
                ip(address, &at_i.child("ip"), errors);
            }
            match (ingress.get("ipMode").and_then(Value::as_str), address.is_empty()) {
                (None, false) => errors.required(&at_i.child("ipMode"), "must be specified when `ip` is set"),
                (Some(_), true) => {
                    errors.forbidden(&at_i.child("ipMode"), "may not be specified when `ip` is not set");
                }
                _ => one_of_pointer(ingress, "ipMode", &["Proxy", "VIP"], &at_i, errors),
            }
            let host = text(ingress, "hostname");
            if !host.is_empty() {
                errors.invalid_each(&at_i.child("hostname"), host, names::dns1123_subdomain(host));
                if crate::support::is_ip(host) {
                    errors.invalid(&at_i.child("hostname"), host, "must be a DNS name, not an IP address");
                }
            }
        }
        return;
    }
    let (spec, before) = (at(new, "spec"), at(old, "spec"));
    if needs_cluster_ip(spec) && needs_cluster_ip(before) {
        addresses::kept(spec, before, errors);
    }
    if text(spec, "type") == "LoadBalancer" && text(before, "type") == "LoadBalancer" {
        let class = at(spec, "loadBalancerClass");
        if class != at(before, "loadBalancerClass") {
            errors.invalid(&SPEC.child("loadBalancerClass"), class.clone(), "may not change once set");
        }
    }
    balancer_class(spec, errors);
    if needs_health_port(before)
        && needs_health_port(spec)
        && int(spec, "healthCheckNodePort") != int(before, "healthCheckNodePort")
    {
        errors.forbidden(&SPEC.child("healthCheckNodePort"), "field is immutable");
    }
}

fn balancer_class(spec: &Value, errors: &mut FieldErrors) {
    let (path, class) = (SPEC.child("loadBalancerClass"), text(spec, "loadBalancerClass"));
    if !has(spec, "loadBalancerClass") {
        return;
    }
    if text(spec, "type") == "LoadBalancer" {
        errors.invalid_each(&path, class, names::qualified_name(class));
    } else {
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
}

fn select(object: &Value) -> Vec<(&'static str, String)> {
    let spec = at(object, "spec");
    vec![("spec.clusterIP", text(spec, "clusterIP").into()), ("spec.type", text(spec, "type").into())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;

    static SERVICE: Kind = KIND;

    fn service(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "s", "namespace": "default"}, "spec": spec});
        // As the allocator links them.
        if !text(&object["spec"], "clusterIP").is_empty() {
            object["spec"]["clusterIPs"] = json!([object["spec"]["clusterIP"]]);
        }
        (&SERVICE).default(&mut object);
        (&SERVICE).prepare_for_create(&mut object);
        object
    }

    fn errors(spec: Value) -> Vec<String> {
        (&SERVICE).validate(&service(spec)).0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults() {
        assert_eq!(
            service(json!({"ports": [{"port": 80}], "type": "NodePort", "sessionAffinity": "ClientIP"}))["spec"],
            json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "NodePort", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"})
        );
    }

    #[test]
    fn classic_mistakes() {
        for (spec, want) in [
            (json!({}), "spec.ports: Required value"),
            (
                json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}),
                "spec.ports[0].name: Required value",
            ),
            (
                json!({"ports": [{"port": 0, "targetPort": 1}]}),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30000}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (
                json!({"ports": [{"port": 80}], "type": "x"}),
                "spec.type: Unsupported value: \"x\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (
                json!({"ports": [{"port": 80}], "clusterIP": "None", "type": "NodePort"}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ),
        ] {
            assert_eq!(errors(spec.clone()), [want], "{spec}");
        }
    }

    #[test]
    fn allocations_survive_updates() {
        let mut old = service(json!({"ports": [{"port": 80}], "type": "NodePort"}));
        old["spec"]["clusterIP"] = "10.0.0.1".into();
        old["spec"]["clusterIPs"] = json!(["10.0.0.1"]);
        old["spec"]["ports"][0]["nodePort"] = 30001.into();
        let mut new = service(json!({"ports": [{"port": 81}], "type": "NodePort"}));
        (&SERVICE).prepare_for_update(&mut new, &old, "");
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.1"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        let mut moved = new.clone();
        moved["spec"]["clusterIP"] = "10.0.0.2".into();
        moved["spec"]["clusterIPs"] = json!(["10.0.0.2"]);
        let errors = (&SERVICE).validate_update(&moved, &old, "");
        assert_eq!(
            errors.0[0].to_string(),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"
        );
        let mut plain = new.clone();
        plain["spec"]["type"] = "ClusterIP".into();
        (&SERVICE).prepare_for_update(&mut plain, &new, "");
        assert!(
            plain["spec"]["ports"][0].get("nodePort").is_none()
                && plain["spec"].get("externalTrafficPolicy").is_none()
        );
    }
}
