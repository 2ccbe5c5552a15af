//! A container's environment.

use crate::expand::expand;
use crate::fields::{self, Facts};
use crate::objects::Objects;
use crate::volumes::payload::config_map_data;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Service variables first, then `envFrom`, then `env`, each seeing what came before it. Errors are the messages of
/// `CreateContainerConfigError`.
pub async fn build(
    objects: &Objects,
    pod: &Pod,
    container: &Container,
    services: &[Arc<Service>],
    facts: &Facts,
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let service_env = service_variables(services, namespace, links);
    let mut known: HashMap<String, String> = HashMap::new();
    let mut out: Vec<(String, String)> = Vec::new();
    let mut from: BTreeMap<String, String> = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &source.config_map_ref {
            match objects.config_maps.track(namespace, &r.name).get().await? {
                Some(c) => from.extend(
                    config_map_data(&c)
                        .into_iter()
                        .filter_map(|(k, v)| Some((format!("{prefix}{k}"), String::from_utf8(v).ok()?))),
                ),
                None if r.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", r.name)),
            }
        }
        if let Some(r) = &source.secret_ref {
            match objects.secrets.track(namespace, &r.name).get().await? {
                Some(s) => {
                    let data = s.data.clone().unwrap_or_default();
                    from.extend(data.into_iter().filter_map(|(k, ByteString(v))| {
                        Some((format!("{prefix}{k}"), String::from_utf8(v).ok()?))
                    }));
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", r.name)),
            }
        }
    }
    for (k, v) in from {
        if k.is_empty() || k.contains('=') {
            continue;
        }
        known.insert(k.clone(), v.clone());
        out.push((k, v));
    }
    for var in container.env.iter().flatten() {
        let value = if let Some(text) = var.value.as_ref().filter(|v| !v.is_empty()) {
            Some(expand(text, |n| known.get(n).or_else(|| service_env.get(n)).map(String::as_str)))
        } else if let Some(source) = &var.value_from {
            if let Some(f) = &source.field_ref {
                Some(fields::field(pod, &f.field_path, facts)?)
            } else if let Some(r) = &source.resource_field_ref {
                Some(fields::resource(pod, Some(container), r, facts)?)
            } else if let Some(r) = &source.config_map_key_ref {
                let optional = r.optional == Some(true);
                match objects.config_maps.track(namespace, &r.name).get().await? {
                    None if optional => None,
                    None => return Err(format!("configmap {:?} not found", r.name)),
                    Some(c) => match c.data.as_ref().and_then(|d| d.get(&r.key)) {
                        Some(v) => Some(v.clone()),
                        None if optional => None,
                        None => {
                            return Err(format!(
                                "couldn't find key {} in ConfigMap {namespace}/{}",
                                r.key, r.name
                            ));
                        }
                    },
                }
            } else if let Some(r) = &source.secret_key_ref {
                let optional = r.optional == Some(true);
                match objects.secrets.track(namespace, &r.name).get().await? {
                    None if optional => None,
                    None => return Err(format!("secret {:?} not found", r.name)),
                    Some(s) => match s.data.as_ref().and_then(|d| d.get(&r.key)) {
                        Some(ByteString(v)) => Some(String::from_utf8_lossy(v).into_owned()),
                        None if optional => None,
                        None => {
                            return Err(format!(
                                "couldn't find key {} in Secret {namespace}/{}",
                                r.key, r.name
                            ));
                        }
                    },
                }
            } else {
                return Err(format!("environment variable {:?} has no source this node knows", var.name));
            }
        } else {
            Some(String::new())
        };
        let Some(value) = value else { continue };
        known.insert(var.name.clone(), value.clone());
        match out.iter_mut().find(|(k, _)| *k == var.name) {
            Some(slot) => slot.1 = value,
            None => out.push((var.name.clone(), value)),
        }
    }
    for (k, v) in service_env {
        if !known.contains_key(&k) {
            out.push((k, v));
        }
    }
    Ok(out)
}

/// Docker-link and `_SERVICE_` variables of the namespace's services; those of `default/kubernetes` in any case.
fn service_variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for s in services {
        let meta = &s.metadata;
        let (Some(name), Some(ns)) = (meta.name.as_deref(), meta.namespace.as_deref()) else { continue };
        let ip = s.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        if ns == namespace && links {
            chosen.insert(name, s);
        } else if ns == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert(s);
        }
    }
    let mut out = BTreeMap::new();
    for (name, s) in chosen {
        let Some(spec) = &s.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let p = name.to_uppercase().replace('-', "_");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        out.insert(format!("{p}_SERVICE_HOST"), ip.to_owned());
        out.insert(format!("{p}_SERVICE_PORT"), first.port.to_string());
        for port in ports {
            if let Some(n) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let n = n.to_uppercase().replace('-', "_");
                out.insert(format!("{p}_SERVICE_PORT_{n}"), port.port.to_string());
            }
        }
        for (i, port) in ports.iter().enumerate() {
            let proto = port.protocol.as_deref().unwrap_or("TCP");
            let lower = proto.to_lowercase();
            let url = format!("{lower}://{host}:{}", port.port);
            if i == 0 {
                out.insert(format!("{p}_PORT"), url.clone());
            }
            let key = format!("{p}_PORT_{}_{}", port.port, proto.to_uppercase());
            out.insert(key.clone(), url);
            out.insert(format!("{key}_PROTO"), lower);
            out.insert(format!("{key}_PORT"), port.port.to_string());
            out.insert(format!("{key}_ADDR"), ip.to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn service(ns: &str, name: &str, ip: &str, port: i32) -> Arc<Service> {
        Arc::new(Service {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(ns.into()),
                ..Default::default()
            },
            spec: Some(ServiceSpec {
                cluster_ip: Some(ip.into()),
                ports: Some(vec![ServicePort { port, name: Some("http".into()), ..Default::default() }]),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn service_links() {
        let all = [
            service("default", "kubernetes", "10.0.0.1", 443),
            service("a", "my-svc", "10.0.0.2", 80),
            service("a", "headless", "None", 80),
            service("b", "other", "10.0.0.3", 80),
        ];
        let env = service_variables(&all, "a", true);
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert_eq!(env["MY_SVC_SERVICE_PORT_HTTP"], "80");
        assert_eq!(env["MY_SVC_PORT_80_TCP"], "tcp://10.0.0.2:80");
        assert!(!env.keys().any(|k| k.starts_with("HEADLESS") || k.starts_with("OTHER")));
        let env = service_variables(&all, "a", false);
        assert!(env.contains_key("KUBERNETES_SERVICE_PORT") && !env.contains_key("MY_SVC_SERVICE_HOST"));
    }
}
