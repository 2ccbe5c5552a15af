//! DefaultIngressClass: ingresses that name no class get the default one.

use super::support::{annotation, default_class};
use super::{Denied, Operation, Plugin, Request};
use crate::reader::Reader;
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "networking.k8s.io";

pub(super) struct DefaultIngressClass {
    reader: Arc<dyn Reader>,
}

impl DefaultIngressClass {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.is(GROUP, "ingresses", &[Operation::Create])
    }

    async fn mutate(&self, _: &Request<'_>, ingress: &mut Value) -> Result<(), Denied> {
        if !ingress["spec"]["ingressClassName"].is_null()
            || annotation(ingress, "kubernetes.io/ingress.class").is_some()
        {
            return Ok(());
        }
        const MARK: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
        if let Some((name, _)) = default_class(&*self.reader, GROUP, "ingressclasses", &MARK) {
            ingress["spec"]["ingressClassName"] = name.into();
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
    async fn the_default_is_filled_in() {
        let cluster = FakeCluster::new();
        let plugin = DefaultIngressClass::new(cluster.clone());
        let ask = Ask::create(GROUP, "ingresses");
        let mark = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
        cluster.put(GROUP, "ingressclasses", json!({"metadata": {"name": "nginx", "annotations": mark}}));
        let filled = ask.run(&plugin, json!({"metadata": {}, "spec": {}})).await.unwrap();
        assert_eq!(filled["spec"]["ingressClassName"], "nginx");
        let legacy = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}}, "spec": {}});
        assert_eq!(ask.run(&plugin, legacy.clone()).await.unwrap(), legacy);
    }
}
