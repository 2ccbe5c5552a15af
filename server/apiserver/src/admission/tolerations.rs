//! DefaultTolerationSeconds: pods outlive a node's short absence.

use super::support::list;
use super::{Denied, Operation, Plugin, Request};
use crate::reader::text;
use async_trait::async_trait;
use serde_json::{Value, json};

const SECONDS: i64 = 300;

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.is("", "pods", &[Operation::Create, Operation::Update])
    }

    async fn mutate(&self, _: &Request<'_>, pod: &mut Value) -> Result<(), Denied> {
        if !pod["spec"].is_object() {
            return Ok(());
        }
        let tolerations = list(&mut pod["spec"], "tolerations");
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let tolerated = tolerations.iter().any(|t| {
                matches!(text(t, "/key"), k if k == key || k.is_empty())
                    && matches!(text(t, "/effect"), "NoExecute" | "")
            });
            if !tolerated {
                tolerations.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;

    async fn admit(tolerations: Value) -> usize {
        let pod = json!({"metadata": {}, "spec": {"tolerations": tolerations}});
        let pod = Ask::create("", "pods").run(&DefaultTolerationSeconds, pod).await.unwrap();
        pod["spec"]["tolerations"].as_array().unwrap().len()
    }

    #[tokio::test]
    async fn only_what_is_missing_is_added() {
        assert_eq!(admit(Value::Null).await, 2);
        assert_eq!(admit(json!([{"operator": "Exists"}])).await, 1);
        assert_eq!(admit(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}])).await, 2);
        assert_eq!(admit(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])).await, 3);
    }
}
