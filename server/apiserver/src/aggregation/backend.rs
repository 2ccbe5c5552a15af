//! A Service as an address to connect to.
//!
//! Ready endpoints come first, so that a control plane without a proxy of its own reaches extension servers and
//! webhooks; the cluster address stands in where there are none. Messages are upstream's `ResolveEndpoint`'s.

use crate::cache::{Cache, Entry, Filter, GroupResource};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;

/// A reference to a Service and one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Service {
    /// The name a server behind the Service must have in its certificate.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }

    /// The Service and its endpoint slices as they are now.
    pub fn read(&self, cache: &Cache) -> (Option<Value>, Vec<Value>) {
        let services = cache.resource(&GroupResource::new("", "services"));
        let service = services.get(&self.namespace, &self.name).and_then(|e| e.object().ok());
        let slices = cache.resource(&GroupResource::new("discovery.k8s.io", "endpointslices")).snapshot();
        let slices = slices.page(Some(&self.namespace), None).filter(|e| owns(e, &self.name));
        (service, slices.filter_map(|e| e.object().ok()).collect())
    }

    /// What [`Self::read`] depends on: filters for Services and for slices.
    pub fn filters(&self) -> (Filter, Filter) {
        let service = Filter {
            namespace: Some(self.namespace.as_str().into()),
            name: Some(self.name.as_str().into()),
            ..Filter::default()
        };
        let name = self.name.clone();
        let slices = Filter {
            namespace: Some(self.namespace.as_str().into()),
            interest: Some(Arc::new(move |entry: &Entry| owns(entry, &name))),
            ..Filter::default()
        };
        (service, slices)
    }

    /// Everything that answers for the Service. `own` is where this server listens.
    pub fn resolve(&self, cache: &Cache, own: Option<SocketAddr>) -> Result<Vec<Address>, String> {
        if (self.namespace.as_str(), self.name.as_str(), self.port) == ("default", "kubernetes", 443)
            && let Some(own) = own
        {
            return Ok(vec![Address { host: own.ip().to_string(), port: own.port() }]);
        }
        let (service, slices) = self.read(cache);
        let service = service.ok_or_else(|| format!("service {:?} not found", self.name))?;
        self.addresses(&service, &slices)
    }

    /// The pure half of [`Self::resolve`].
    pub fn addresses(&self, service: &Value, slices: &[Value]) -> Result<Vec<Address>, String> {
        let spec = &service["spec"];
        if spec["type"] == "ExternalName" {
            let host = spec["externalName"].as_str().unwrap_or_default().to_owned();
            return Ok(vec![Address { host, port: self.port }]);
        }
        let mut ports = spec["ports"].as_array().into_iter().flatten();
        let port = ports
            .find(|p| p["port"].as_u64() == Some(self.port.into()))
            .ok_or_else(|| format!("no service port {} found for service {:?}", self.port, self.name))?;
        let port_name = port["name"].as_str().unwrap_or_default();
        let ready = ready(slices, port_name);
        if !ready.is_empty() {
            return Ok(ready);
        }
        match spec["clusterIP"].as_str().unwrap_or_default() {
            "" | "None" => Err(format!("no endpoints available for service {:?}", self.name)),
            address => Ok(vec![Address { host: address.to_owned(), port: self.port }]),
        }
    }
}

fn owns(slice: &Entry, service: &str) -> bool {
    slice.labels().get(SERVICE_NAME).is_some_and(|name| name == service)
}

/// Addresses of the endpoints that are ready, under a port of that name.
pub(super) fn ready(slices: &[Value], port_name: &str) -> Vec<Address> {
    let mut found = Vec::new();
    for slice in slices {
        let number = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|p| p["port"].as_u64())
            .and_then(|p| u16::try_from(p).ok());
        let Some(port) = number else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == Value::Bool(false) {
                continue;
            }
            let addresses = endpoint["addresses"].as_array().into_iter().flatten();
            found.extend(
                addresses.filter_map(Value::as_str).map(|host| Address { host: host.to_owned(), port }),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_endpoints_come_before_the_cluster_address() {
        let at = Service { namespace: "a".into(), name: "s".into(), port: 443 };
        let service = json!({"spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 443, "name": "https"}]}});
        let slice = json!({"ports": [{"name": "https", "port": 8443}], "endpoints": [
            {"addresses": ["10.1.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.1.0.2"]}]});
        assert_eq!(at.addresses(&service, &[slice]).unwrap()[0].to_string(), "10.1.0.2:8443");
        assert_eq!(at.addresses(&service, &[]).unwrap()[0].to_string(), "10.0.0.9:443");
        let other = Service { port: 80, ..at.clone() };
        assert_eq!(other.addresses(&service, &[]).unwrap_err(), "no service port 80 found for service \"s\"");
        let external = json!({"spec": {"type": "ExternalName", "externalName": "x.example"}});
        assert_eq!(at.addresses(&external, &[]).unwrap()[0].to_string(), "x.example:443");
    }
}
