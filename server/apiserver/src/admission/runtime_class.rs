//! RuntimeClass: a pod takes its class's overhead and placement.

use super::support::{list, map};
use super::{Denied, Operation, Plugin, Request};
use crate::reader::{Reader, items, parse, text};
use async_trait::async_trait;
use machinery::quantity::Quantity;
use serde_json::Value;
use std::sync::Arc;

pub(super) struct RuntimeClass {
    reader: Arc<dyn Reader>,
}

impl RuntimeClass {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn class(&self, pod: &Value) -> Result<Option<Value>, Denied> {
        let name = text(pod, "/spec/runtimeClassName");
        if name.is_empty() {
            return Ok(None);
        }
        match self.reader.get("node.k8s.io", "runtimeclasses", "", name) {
            Some(entry) => Ok(Some(parse(&entry))),
            None => Err(Denied::forbidden(format!("pod rejected: RuntimeClass {name:?} not found"))),
        }
    }
}

/// Equal as quantities, whatever their spelling.
fn same_overhead(a: &Value, b: &Value) -> bool {
    let read = |v: &Value| -> Vec<(String, Option<Quantity>)> {
        let parse = |q: &Value| q.as_str().and_then(|q| Quantity::parse(q).ok());
        v.as_object().into_iter().flatten().map(|(k, q)| (k.clone(), parse(q))).collect()
    };
    let (mut a, mut b) = (read(a), read(b));
    a.sort_by(|x, y| x.0.cmp(&y.0));
    b.sort_by(|x, y| x.0.cmp(&y.0));
    a == b
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.is("", "pods", &[Operation::Create])
    }

    async fn mutate(&self, _: &Request<'_>, pod: &mut Value) -> Result<(), Denied> {
        let Some(class) = self.class(pod)? else { return Ok(()) };
        let overhead = &class["overhead"]["podFixed"];
        if overhead.as_object().is_some_and(|o| !o.is_empty()) {
            let given = pod["spec"]["overhead"].as_object().is_some_and(|o| !o.is_empty());
            if given && !same_overhead(&pod["spec"]["overhead"], overhead) {
                return Err(Denied::forbidden(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                ));
            }
            pod["spec"]["overhead"] = overhead.clone();
        }
        for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
            let selector = map(&mut pod["spec"]["nodeSelector"]);
            match selector.get(key) {
                Some(own) if own != value => {
                    let (value, own) = (value.as_str().unwrap_or(""), own.as_str().unwrap_or(""));
                    return Err(Denied::forbidden(format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                         pod.spec.nodeSelector[{key}] = {own}"
                    )));
                }
                _ => drop(selector.insert(key.clone(), value.clone())),
            }
        }
        for toleration in items(&class, "/scheduling/tolerations") {
            let own = list(&mut pod["spec"], "tolerations");
            if !own.contains(toleration) {
                own.push(toleration.clone());
            }
        }
        Ok(())
    }

    async fn validate(&self, _: &Request<'_>, pod: Option<&Value>) -> Result<(), Denied> {
        let Some(pod) = pod else { return Ok(()) };
        let given = pod["spec"]["overhead"].as_object().is_some_and(|o| !o.is_empty());
        let class = self.class(pod)?;
        let defined =
            class.is_some_and(|c| c["overhead"]["podFixed"].as_object().is_some_and(|o| !o.is_empty()));
        if given && !defined {
            return Err(Denied::forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    #[tokio::test]
    async fn overhead_and_placement_come_from_the_class() {
        let cluster = FakeCluster::new();
        let plugin = RuntimeClass::new(cluster.clone());
        cluster.put(
            "node.k8s.io",
            "runtimeclasses",
            json!({"metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "1"}},
                   "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]}}),
        );
        let admit = |spec: Value| {
            let plugin = &plugin;
            async move { Ask::create("", "pods").run(plugin, json!({"metadata": {}, "spec": spec})).await }
        };
        let pod = admit(json!({"runtimeClassName": "vm"})).await.unwrap();
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "1"}));
        assert_eq!(pod["spec"]["nodeSelector"], json!({"vm": "yes"}));
        assert_eq!(pod["spec"]["tolerations"], json!([{"key": "vm"}]));
        admit(json!({"runtimeClassName": "vm", "overhead": {"cpu": "1000m"}})).await.unwrap();
        for bad in [
            json!({"runtimeClassName": "none"}),
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "2"}}),
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            json!({"overhead": {"cpu": "1"}}),
        ] {
            assert!(admit(bad.clone()).await.is_err(), "{bad}");
        }
    }
}
