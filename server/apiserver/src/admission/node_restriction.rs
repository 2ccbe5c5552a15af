//! NodeRestriction: a kubelet writes only what is its own.

use super::support::{containers, is_mirror, map, secret_names};
use super::{Denied, Operation, Plugin, Request};
use crate::authentication::{NODES_GROUP, node_name};
use crate::authorization::{Attributes, Authorizer};
use crate::reader::{Reader, items, parse, strings, text};
use async_trait::async_trait;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

const LEASES: &str = "kube-node-lease";

pub(super) struct NodeRestriction {
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
}

fn refuse<T>(message: String) -> Result<T, Denied> {
    Err(Denied::forbidden(message))
}

/// Labels of the kubernetes.io domains a kubelet may set on its own node.
const KUBELET_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

fn in_domain(namespace: &str, domain: &str) -> bool {
    namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn forbidden_label(key: &str) -> bool {
    let namespace = key.split_once('/').map_or("", |(n, _)| n);
    if in_domain(namespace, "node-restriction.kubernetes.io") {
        return true;
    }
    let kubernetes = in_domain(namespace, "kubernetes.io") || in_domain(namespace, "k8s.io");
    let kubelets =
        in_domain(namespace, "kubelet.kubernetes.io") || in_domain(namespace, "node.kubernetes.io");
    kubernetes && !kubelets && !KUBELET_LABELS.contains(&key)
}

fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"]["labels"].as_object()
}

/// Keys whose value differs between two label sets.
fn changed_labels<'a>(old: &'a Value, new: &'a Value) -> BTreeSet<&'a str> {
    let (a, b) = (labels(old), labels(new));
    let keys = a.into_iter().chain(b).flat_map(|m| m.keys().map(String::as_str));
    keys.filter(|k| a.and_then(|m| m.get(*k)) != b.and_then(|m| m.get(*k))).collect()
}

fn joined(keys: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    keys.into_iter().map(|k| k.as_ref().to_owned()).collect::<Vec<_>>().join(", ")
}

impl NodeRestriction {
    pub fn new(reader: Arc<dyn Reader>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { reader, authorizer }
    }

    fn pod(&self, r: &Request<'_>, node: &str, pod: Option<&Value>) -> Result<(), Denied> {
        let own = |pod: &Value| text(pod, "/spec/nodeName") == node;
        match (r.operation, r.subresource) {
            (Operation::Create, "") => match pod {
                Some(pod) => self.mirror_pod(node, pod),
                None => Ok(()),
            },
            (Operation::Delete, "") => {
                let fetched = || self.reader.get("", "pods", r.namespace, r.name).map(|e| parse(&e));
                match r.old.cloned().or_else(fetched) {
                    Some(pod) if !own(&pod) => {
                        refuse(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
                    }
                    _ => Ok(()),
                }
            }
            (operation, "") => refuse(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                operation.word()
            )),
            (Operation::Update, "status") => {
                let Some((old, new)) = r.old.zip(pod) else { return Ok(()) };
                if !own(old) {
                    return refuse(format!(
                        "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                    ));
                }
                if !changed_labels(old, new).is_empty() {
                    return refuse(format!("node {node:?} cannot update labels through pod status"));
                }
                Ok(())
            }
            (Operation::Create, "eviction") => {
                let name = pod.map(|e| text(e, "/metadata/name")).filter(|n| !n.is_empty()).unwrap_or(r.name);
                match self.reader.get("", "pods", r.namespace, name) {
                    Some(entry) if !own(&parse(&entry)) => {
                        refuse(format!("node {node} can only evict pods with spec.nodeName set to itself"))
                    }
                    _ => Ok(()),
                }
            }
            (_, sub) => refuse(format!(
                "unexpected pod subresource {sub:?}, only 'status' and 'eviction' are allowed"
            )),
        }
    }

    fn mirror_pod(&self, node: &str, pod: &Value) -> Result<(), Denied> {
        const MIRROR: &str = super::support::MIRROR_ANNOTATION;
        if !is_mirror(pod) {
            return refuse(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if text(pod, "/spec/nodeName") != node {
            return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        match items(pod, "/metadata/ownerReferences") {
            [] => {
                return refuse(format!(
                    "node {node:?} can only create pods with an owner reference set to itself"
                ));
            }
            [owner] => {
                let itself = (text(owner, "/apiVersion"), text(owner, "/kind"), text(owner, "/name"))
                    == ("v1", "Node", node)
                    && owner["controller"] == true
                    && owner["blockOwnerDeletion"] != true;
                let uid = self.reader.get("", "nodes", "", node).map(|n| n.uid().to_owned());
                if !itself || uid.is_none_or(|uid| uid != text(owner, "/uid")) {
                    return refuse(format!(
                        "node {node:?} can only create pods with an owner reference set to itself"
                    ));
                }
            }
            _ => {
                return refuse(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                ));
            }
        }
        let cannot = |what: &str| refuse(format!("node {node:?} can not create pods that reference {what}"));
        if !text(pod, "/spec/serviceAccountName").is_empty() {
            return cannot("a service account");
        }
        if !secret_names(&pod["spec"]).is_empty() {
            return cannot("secrets");
        }
        let volumes = items(pod, "/spec/volumes");
        let config = volumes.iter().any(|v| {
            v["configMap"].is_object()
                || items(v, "/projected/sources").iter().any(|s| s["configMap"].is_object())
        });
        let environment = containers(&pod["spec"]).any(|(_, _, c)| {
            items(c, "/env").iter().any(|e| e["valueFrom"]["configMapKeyRef"].is_object())
                || items(c, "/envFrom").iter().any(|e| e["configMapRef"].is_object())
        });
        if config || environment {
            return cannot("configmaps");
        }
        if volumes.iter().any(|v| v["persistentVolumeClaim"].is_object()) {
            return cannot("persistentvolumeclaims");
        }
        if !items(pod, "/spec/resourceClaims").is_empty() {
            return cannot("resourceclaims");
        }
        Ok(())
    }

    fn node(&self, r: &Request<'_>, node: &str, object: Option<&Value>) -> Result<(), Denied> {
        let named = object.map(|o| text(o, "/metadata/name")).filter(|n| !n.is_empty()).unwrap_or(r.name);
        if named != node {
            return refuse(format!("node {node:?} is not allowed to modify node {named:?}"));
        }
        let Some(object) = object else { return Ok(()) };
        if r.operation == Operation::Create {
            let forbidden: BTreeSet<&String> =
                labels(object).into_iter().flatten().map(|(k, _)| k).filter(|k| forbidden_label(k)).collect();
            if !forbidden.is_empty() {
                return refuse(format!(
                    "node {node:?} is not allowed to set the following labels: {}",
                    joined(forbidden)
                ));
            }
        }
        let Some(old) = r.old.filter(|_| r.operation == Operation::Update) else { return Ok(()) };
        let list = |o: &Value, at: &str| items(o, at).to_vec();
        // A kubelet may taint itself when it registers, not take taints away that others set.
        if list(old, "/spec/taints") != list(object, "/spec/taints") {
            return refuse(format!("node {node:?} is not allowed to modify taints"));
        }
        let forbidden: Vec<&str> =
            changed_labels(old, object).into_iter().filter(|k| forbidden_label(k)).collect();
        if !forbidden.is_empty() {
            return refuse(format!("is not allowed to modify labels: {}", joined(forbidden)));
        }
        if list(old, "/metadata/ownerReferences") != list(object, "/metadata/ownerReferences") {
            return refuse(format!("node {node:?} cannot modify ownerReferences"));
        }
        Ok(())
    }

    fn claim_status(&self, r: &Request<'_>, node: &str, object: Option<&Value>) -> Result<(), Denied> {
        if r.operation != Operation::Update || r.subresource != "status" {
            return refuse(format!("unexpected operation {:?}", r.operation.word()));
        }
        let Some((old, new)) = r.old.zip(object) else { return Ok(()) };
        let rest = |object: &Value| {
            let mut object = object.clone();
            map(&mut object).remove("status");
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("managedFields");
                metadata.remove("resourceVersion");
            }
            object
        };
        if rest(old) != rest(new) {
            return refuse(format!(
                "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
            ));
        }
        Ok(())
    }

    async fn token(&self, r: &Request<'_>, node: &str, object: Option<&Value>) -> Result<(), Denied> {
        let Some(request) = object.filter(|_| r.operation == Operation::Create && r.subresource == "token")
        else {
            return Ok(());
        };
        let reference = &request["spec"]["boundObjectRef"];
        if (text(reference, "/apiVersion"), text(reference, "/kind")) != ("v1", "Pod")
            || text(reference, "/name").is_empty()
        {
            return refuse("node requested token not bound to a pod".into());
        }
        let uid = text(reference, "/uid");
        if uid.is_empty() {
            return refuse("node requested token with a pod binding without a uid".into());
        }
        let name = text(reference, "/name");
        let entry =
            self.reader.get("", "pods", r.namespace, name).ok_or_else(|| Denied::not_found("pods", name))?;
        let pod = parse(&entry);
        if entry.uid() != uid {
            return refuse(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            ));
        }
        if text(&pod, "/spec/nodeName") != node {
            return refuse("node requested token bound to a pod scheduled on a different node".into());
        }
        for audience in strings(request, "/spec/audiences") {
            if !self.pod_uses_audience(&pod, &audience) && !self.may_request_audience(r, &audience).await {
                return refuse(format!("audience {audience:?} not found in pod spec volume"));
            }
        }
        Ok(())
    }

    /// In a projected volume of the pod, or asked for by a CSI driver it uses.
    fn pod_uses_audience(&self, pod: &Value, audience: &str) -> bool {
        if audience.is_empty() {
            return true;
        }
        let driver_asks = |driver: &str| {
            let entry = self.reader.get("storage.k8s.io", "csidrivers", "", driver);
            entry.is_some_and(|e| {
                items(&parse(&e), "/spec/tokenRequests").iter().any(|t| text(t, "/audience") == audience)
            })
        };
        items(pod, "/spec/volumes").iter().any(|volume| {
            let projected = items(volume, "/projected/sources")
                .iter()
                .any(|s| text(s, "/serviceAccountToken/audience") == audience);
            let mut driver = text(volume, "/csi/driver").to_owned();
            let claim = text(volume, "/persistentVolumeClaim/claimName");
            if !claim.is_empty()
                && let Some(claim) =
                    self.reader.get("", "persistentvolumeclaims", text(pod, "/metadata/namespace"), claim)
                && let Some(volume) =
                    self.reader.get("", "persistentvolumes", "", text(&parse(&claim), "/spec/volumeName"))
            {
                driver = text(&parse(&volume), "/spec/csi/driver").to_owned();
            }
            projected || (!driver.is_empty() && driver_asks(&driver))
        })
    }

    async fn may_request_audience(&self, r: &Request<'_>, audience: &str) -> bool {
        let question = Attributes {
            user: r.user.clone(),
            verb: "request-serviceaccounts-token-audience".into(),
            namespace: r.namespace.into(),
            resource: audience.into(),
            name: r.name.into(),
            resource_request: true,
            ..Attributes::default()
        };
        self.authorizer.authorize(&question).await.is_allowed()
    }

    fn named_like_itself(
        &self,
        r: &Request<'_>,
        node: &str,
        object: Option<&Value>,
        what: &str,
    ) -> Result<(), Denied> {
        let name = object.map(|o| text(o, "/metadata/name")).filter(|n| !n.is_empty()).unwrap_or(r.name);
        if name == node {
            return Ok(());
        }
        refuse(format!("can only access {what} with the same name as the requesting node"))
    }
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.user.in_group(NODES_GROUP) && r.operation != Operation::Connect
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let Some(node) = node_name(r.user) else {
            return refuse(format!("could not determine node from user {:?}", r.user.name));
        };
        match (r.group, r.resource) {
            ("", "pods") => self.pod(r, node, object),
            ("", "nodes") => self.node(r, node, object),
            ("", "persistentvolumeclaims") => self.claim_status(r, node, object),
            ("", "serviceaccounts") => self.token(r, node, object).await,
            ("coordination.k8s.io", "leases") => {
                if r.namespace != LEASES {
                    return refuse(format!("can only access leases in the {LEASES:?} system namespace"));
                }
                self.named_like_itself(r, node, object, "node lease")
            }
            ("storage.k8s.io", "csinodes") => self.named_like_itself(r, node, object, "CSINode"),
            ("resource.k8s.io", "resourceslices") => {
                let of = object.or(r.old);
                if of.is_some_and(|o| text(o, "/spec/nodeName") != node) {
                    let verb = if r.operation == Operation::Create { "create" } else { "delete" };
                    return refuse(format!(
                        "can only {verb} ResourceSlice with the same NodeName as the requesting node"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;
    use crate::authentication::UserInfo;
    use crate::authorization::Union;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    fn world() -> (Arc<FakeCluster>, NodeRestriction) {
        let cluster = FakeCluster::new();
        cluster.put("", "nodes", json!({"metadata": {"name": "n1", "uid": "u1"}}));
        let authorizer: Arc<dyn Authorizer> = Arc::new(Union(vec![]));
        (cluster.clone(), NodeRestriction::new(cluster, authorizer))
    }

    fn kubelet() -> UserInfo {
        UserInfo::new("system:node:n1", &[NODES_GROUP])
    }

    fn pod(node: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": "p", "uid": "pod-1"}, "spec": {"nodeName": node}})
    }

    #[tokio::test]
    async fn a_node_writes_only_its_own_node() {
        let (_, plugin) = world();
        let node = |name: &str, label: &str| json!({"metadata": {"name": name, "labels": {label: "x"}}});
        let create = Ask::create("", "nodes").by(kubelet());
        create.run(&plugin, node("n1", "kubernetes.io/hostname")).await.unwrap();
        create.run(&plugin, node("n1", "example.com/x")).await.unwrap();
        create.run(&plugin, node("n1", "sub.node.kubernetes.io/x")).await.unwrap();
        let error = create.run(&plugin, node("n2", "example.com/x")).await.unwrap_err();
        assert_eq!(error.message, "node \"n1\" is not allowed to modify node \"n2\"");
        for label in
            ["node-restriction.kubernetes.io/a", "x.node-restriction.kubernetes.io/a", "kubernetes.io/role"]
        {
            let error = create.run(&plugin, node("n1", label)).await.unwrap_err();
            assert_eq!(
                error.message,
                format!("node \"n1\" is not allowed to set the following labels: {label}")
            );
        }
        let old = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "a"}]}});
        let update = Ask::update("", "nodes", old).by(kubelet());
        let error = update.run(&plugin, json!({"metadata": {"name": "n1"}})).await.unwrap_err();
        assert_eq!(error.message, "node \"n1\" is not allowed to modify taints");
        // Others are not concerned.
        Ask::create("", "nodes").run(&plugin, node("n2", "kubernetes.io/role")).await.unwrap();
    }

    #[tokio::test]
    async fn pods_of_other_nodes_are_out_of_reach() {
        let (cluster, plugin) = world();
        for (node, ok) in [("n1", true), ("n2", false)] {
            cluster.put("", "pods", pod(node));
            let status = Ask::update("", "pods", pod(node)).sub("status").by(kubelet());
            assert_eq!(status.run(&plugin, pod(node)).await.is_ok(), ok);
            let delete = Ask::delete("", "pods", pod(node)).by(kubelet());
            assert_eq!(delete.run(&plugin, Value::Null).await.is_ok(), ok);
            let evict = Ask::create("", "pods").sub("eviction").by(kubelet());
            assert_eq!(
                evict.run(&plugin, json!({"metadata": {"namespace": "a", "name": "p"}})).await.is_ok(),
                ok
            );
        }
        let mut labelled = pod("n1");
        labelled["metadata"]["labels"] = json!({"a": "b"});
        let status = Ask::update("", "pods", pod("n1")).sub("status").by(kubelet());
        assert!(status.run(&plugin, labelled).await.unwrap_err().message.contains("cannot update labels"));
    }

    #[tokio::test]
    async fn a_node_creates_mirror_pods_only() {
        let (_, plugin) = world();
        let create = Ask::create("", "pods").by(kubelet());
        let error = create.run(&plugin, pod("n1")).await.unwrap_err();
        assert!(error.message.contains("can only create mirror pods"));
        let mut mirror = pod("n1");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        mirror["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]);
        create.run(&plugin, mirror.clone()).await.unwrap();
        let mut with = mirror.clone();
        with["spec"]["volumes"] = json!([{"name": "c", "configMap": {"name": "x"}}]);
        assert!(create.run(&plugin, with).await.unwrap_err().message.ends_with("reference configmaps"));
        mirror["metadata"]["ownerReferences"][0]["uid"] = json!("other");
        assert!(create.run(&plugin, mirror).await.is_err());
    }

    #[tokio::test]
    async fn tokens_only_for_pods_that_run_here_and_use_the_audience() {
        let (cluster, plugin) = world();
        let mut p = pod("n1");
        p["spec"]["volumes"] = json!([{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]);
        cluster.put("", "pods", p);
        let ask = |spec: Value| {
            let ask = Ask::create("", "serviceaccounts").sub("token").by(kubelet());
            let plugin = &plugin;
            async move { ask.run(plugin, json!({"metadata": {"namespace": "a"}, "spec": spec})).await }
        };
        let bound = |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
        ask(json!({"boundObjectRef": bound("pod-1")})).await.unwrap();
        ask(json!({"boundObjectRef": bound("pod-1"), "audiences": ["vault"]})).await.unwrap();
        let error = ask(json!({"boundObjectRef": bound("pod-1"), "audiences": ["x"]})).await.unwrap_err();
        assert_eq!(error.message, "audience \"x\" not found in pod spec volume");
        assert!(ask(json!({"boundObjectRef": bound("old")})).await.is_err());
        assert!(ask(json!({"boundObjectRef": bound("")})).await.is_err());
        assert_eq!(ask(json!({})).await.unwrap_err().message, "node requested token not bound to a pod");
        cluster.put("", "pods", pod("n2"));
        let error = ask(json!({"boundObjectRef": bound("pod-1")})).await.unwrap_err();
        assert_eq!(error.message, "node requested token bound to a pod scheduled on a different node");
    }
}
