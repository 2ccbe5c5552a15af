//! Whether an extension can be reached, as the `Available` condition says it. Source: kube-aggregator's
//! availability controllers.

use super::backend::{self, Service};
use crate::registry::meta;
use serde_json::{Value, json};

/// The condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    fn no(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    /// Of group versions this server answers for itself.
    pub fn local() -> Self {
        Self { status: "True", reason: "Local", message: "Local APIServices are always available".to_owned() }
    }

    pub fn passed() -> Self {
        Self { status: "True", reason: "Passed", message: "all checks passed".to_owned() }
    }

    pub fn failed(why: String) -> Self {
        Self::no("FailedDiscoveryCheck", why)
    }

    /// The object's status with this verdict in it; `None` if it says so already.
    pub fn apply(&self, object: &Value) -> Option<Value> {
        let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let at = conditions.iter().position(|c| c["type"] == "Available");
        let old = at.map(|at| conditions[at].clone());
        if let Some(old) = &old
            && old["status"] == self.status
            && old["reason"] == self.reason
            && old["message"] == self.message.as_str()
        {
            return None;
        }
        // The time is that of the last change of status, not of reason.
        let since = match &old {
            Some(old) if old["status"] == self.status => old["lastTransitionTime"].clone(),
            _ => meta::now().into(),
        };
        let condition = json!({
            "type": "Available", "status": self.status, "reason": self.reason, "message": self.message,
            "lastTransitionTime": since,
        });
        match at {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
        let mut new = object.clone();
        new["status"] = json!({"conditions": conditions});
        Some(new)
    }
}

pub fn is_available(object: &Value) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Available" && c["status"] == "True")
}

/// What the Service and its endpoints alone say; `None` where only asking the server tells.
pub fn reachable(at: &Service, service: Option<&Value>, slices: &[Value]) -> Option<Verdict> {
    let named = format!("service/{} in {:?}", at.name, at.namespace);
    let Some(service) = service else {
        return Some(Verdict::no("ServiceNotFound", format!("{named} is not present")));
    };
    if !matches!(service["spec"]["type"].as_str(), None | Some("ClusterIP")) {
        return None;
    }
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let Some(port) = ports.find(|p| p["port"].as_u64() == Some(at.port.into())) else {
        return Some(Verdict::no(
            "ServicePortError",
            format!("{named} is not listening on port {}", at.port),
        ));
    };
    let name = port["name"].as_str().unwrap_or_default();
    if slices.is_empty() {
        return Some(Verdict::no("EndpointsNotFound", format!("cannot find endpointslices for {named}")));
    }
    if backend::ready(slices, name).is_empty() {
        let message = format!("endpointslices for {named} have no addresses with port name {name:?}");
        return Some(Verdict::no("MissingEndpoints", message));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_told_what_they_lack() {
        let at = Service { namespace: "ns".into(), name: "api".into(), port: 443 };
        let said = |service: Option<&Value>, slices: &[Value]| {
            reachable(&at, service, slices).map(|v| format!("{}: {}", v.reason, v.message))
        };
        assert_eq!(said(None, &[]).unwrap(), "ServiceNotFound: service/api in \"ns\" is not present");
        let service = json!({"spec": {"ports": [{"port": 443}]}});
        assert_eq!(
            said(Some(&json!({"spec": {"ports": [{"port": 80}]}})), &[]).unwrap(),
            "ServicePortError: service/api in \"ns\" is not listening on port 443"
        );
        assert_eq!(
            said(Some(&service), &[]).unwrap(),
            "EndpointsNotFound: cannot find endpointslices for service/api in \"ns\""
        );
        let slice = json!({"ports": [{"name": "", "port": 1}], "endpoints": []});
        assert_eq!(
            said(Some(&service), &[slice]).unwrap(),
            "MissingEndpoints: endpointslices for service/api in \"ns\" have no addresses with port name \"\""
        );
        let slice = json!({"ports": [{"port": 1}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
        assert_eq!(said(Some(&service), &[slice]), None);
        assert_eq!(said(Some(&json!({"spec": {"type": "ExternalName"}})), &[]), None);
    }

    #[test]
    fn a_verdict_is_written_once() {
        let object = json!({"metadata": {"name": "v1.a"}});
        let no = Verdict::failed("x".into());
        let one = no.apply(&object).unwrap();
        assert!(no.apply(&one).is_none() && !is_available(&one));
        let two = Verdict::passed().apply(&one).unwrap();
        assert!(is_available(&two));
        assert_eq!(two["status"]["conditions"].as_array().map(Vec::len), Some(1));
    }
}
