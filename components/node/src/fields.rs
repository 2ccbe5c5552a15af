//! Values of a pod's own fields: `fieldRef` and `resourceFieldRef` of env variables and downward API files.

use crate::pod::resources::{limit_of, request_of};
use crate::quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

/// What a field may need beside the pod.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub node_name: String,
    pub host_ips: Vec<IpAddr>,
    pub pod_ips: Vec<IpAddr>,
    pub allocatable: BTreeMap<String, Quantity>,
}

pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    if let Some((base, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match base {
            "metadata.annotations" => meta.annotations.as_ref(),
            "metadata.labels" => meta.labels.as_ref(),
            _ => return Err(format!("invalid fieldPath {path:?}: unsupported subscript")),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.hostIPs" => join(&facts.host_ips),
        "status.podIP" => facts.pod_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => join(&facts.pod_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (i, (k, v)) in map.into_iter().flatten().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let _ = write!(out, "{k}={}", go_quote(v));
    }
    out
}

/// Go's `%q` of a string.
pub fn go_quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    r: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, String> {
    let container = match r.container_name.as_deref().filter(|n| !n.is_empty()) {
        None => own.ok_or_else(|| "container name is required".to_owned())?,
        Some(name) => pod
            .spec
            .iter()
            .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
            .find(|c| c.name == name)
            .ok_or_else(|| format!("container {name} not found"))?,
    };
    let (side, name) = r
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", r.resource))?;
    let set = container.resources.as_ref();
    let limit = || limit_of(set, name).or_else(|| facts.allocatable.get(name).cloned());
    let q = match side {
        "limits" => limit(),
        "requests" => request_of(set, name),
        _ => return Err(format!("unsupported container resource : {}", r.resource)),
    };
    let q = q.unwrap_or_else(|| Quantity("0".into()));
    Ok(quantity::divided(&q, r.divisor.as_ref(), name == "cpu").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    #[test]
    fn labels_are_quoted_lines() {
        let labels =
            BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x\"y\nz".to_owned())]);
        let pod =
            Pod { metadata: ObjectMeta { labels: Some(labels), ..Default::default() }, ..Default::default() };
        let facts = Facts::default();
        assert_eq!(field(&pod, "metadata.labels", &facts).expect("value"), "a=\"1\"\nb=\"x\\\"y\\nz\"");
        assert_eq!(field(&pod, "metadata.labels['a']", &facts).expect("value"), "1");
        assert_eq!(field(&pod, "metadata.labels['q']", &facts).expect("value"), "");
        assert!(field(&pod, "spec.color", &facts).is_err());
    }
}
