//! TaintNodesByCondition: a node takes pods only once it has said it is ready.

use super::support::list;
use super::{Denied, Operation, Plugin, Request};
use crate::reader::text;
use async_trait::async_trait;
use serde_json::{Value, json};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.is("", "nodes", &[Operation::Create])
    }

    async fn mutate(&self, _: &Request<'_>, node: &mut Value) -> Result<(), Denied> {
        let taints = list(&mut node["spec"], "taints");
        if !taints.iter().any(|t| text(t, "/key") == NOT_READY && text(t, "/effect") == "NoSchedule") {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;

    #[tokio::test]
    async fn new_nodes_are_tainted_once() {
        let ask = Ask::create("", "nodes");
        let node = ask.run(&TaintNodesByCondition, json!({"metadata": {"name": "n"}})).await.unwrap();
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
        assert_eq!(ask.run(&TaintNodesByCondition, node.clone()).await.unwrap(), node);
        let update = Ask::update("", "nodes", node)
            .run(&TaintNodesByCondition, json!({"metadata": {}}))
            .await
            .unwrap();
        assert!(update["spec"].is_null());
    }
}
