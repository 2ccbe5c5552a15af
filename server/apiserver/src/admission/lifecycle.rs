//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is going away.

use super::support::await_object;
use super::{Denied, Operation, Plugin, Request};
use crate::reader::Reader;
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// How long a namespace that was just created may take to reach the cache.
const PATIENCE: Duration = Duration::from_millis(50);

pub(super) struct NamespaceLifecycle {
    reader: Arc<dyn Reader>,
}

impl NamespaceLifecycle {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        if r.group.is_empty() && r.resource == "namespaces" {
            return r.operation == Operation::Delete && r.subresource.is_empty();
        }
        !r.namespace.is_empty()
            && matches!(r.operation, Operation::Create | Operation::Update)
            && !(r.group == "authorization.k8s.io" && r.resource == "localsubjectaccessreviews")
    }

    async fn mutate(&self, r: &Request<'_>, _: &mut Value) -> Result<(), Denied> {
        self.check(r).await
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        // What `mutate` has checked need not be checked again; deletes only come here.
        if object.is_none() { self.check(r).await } else { Ok(()) }
    }
}

impl NamespaceLifecycle {
    async fn check(&self, r: &Request<'_>) -> Result<(), Denied> {
        if r.operation == Operation::Delete {
            if IMMORTAL.contains(&r.name) {
                return Err(Denied::forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        let namespace = await_object(&*self.reader, "", "namespaces", "", r.namespace, PATIENCE)
            .await
            .ok_or_else(|| Denied::not_found("namespaces", r.namespace))?;
        if r.operation == Operation::Create && namespace.metadata().deletion_timestamp.is_some() {
            return Err(Denied::forbidden(format!(
                "unable to create new content in namespace {} because it is being terminated",
                r.namespace
            ))
            .because(
                "NamespaceTerminating",
                format!("namespace {} is being terminated", r.namespace),
                "metadata.namespace",
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
    async fn namespaces_must_exist_and_live() {
        let cluster = FakeCluster::new();
        let plugin = NamespaceLifecycle::new(cluster.clone());
        let pod = json!({"metadata": {"namespace": "a", "name": "p"}});
        let create = Ask::create("", "pods");
        let missing = create.run(&plugin, pod.clone()).await.unwrap_err();
        assert_eq!((missing.code, missing.message.as_str()), (404, "namespaces \"a\" not found"));
        cluster.put("", "namespaces", json!({"metadata": {"name": "a"}}));
        create.run(&plugin, pod.clone()).await.unwrap();
        let dying = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        cluster.put("", "namespaces", dying);
        let refused = create.run(&plugin, pod.clone()).await.unwrap_err();
        assert_eq!(
            refused.message,
            "unable to create new content in namespace a because it is being terminated"
        );
        assert_eq!(refused.cause.unwrap().reason, "NamespaceTerminating");
        Ask::update("", "pods", pod.clone()).run(&plugin, pod.clone()).await.unwrap();
        Ask::delete("", "pods", pod.clone()).run(&plugin, pod).await.unwrap();
    }

    #[tokio::test]
    async fn some_namespaces_stay() {
        let plugin = NamespaceLifecycle::new(FakeCluster::new());
        for (name, stays) in
            [("default", true), ("kube-system", true), ("kube-node-lease", false), ("x", false)]
        {
            let namespace = json!({"metadata": {"name": name}});
            let answer = Ask::delete("", "namespaces", namespace.clone()).run(&plugin, namespace).await;
            assert_eq!(answer.is_err(), stays, "{name}");
        }
    }
}
