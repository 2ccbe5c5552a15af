//! The Node authorizer: a kubelet sees what the pods on its node refer to, and nothing else.
//!
//! A graph from referred objects to nodes follows the cache by [`Feeds`], brought up to date when a kubelet asks;
//! so a kubelet that has just been told of a pod may read the pod's secrets at once.

use super::rules::Rule;
use super::{Attributes, Authorizer, Decision};
use crate::authentication::{UserInfo, node_name};
use crate::reader::{Change, Feeds, Reader, items, parse, text};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const RESOURCES: [(&str, &str); 4] = [
    ("", "pods"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "volumeattachments"),
    ("resource.k8s.io", "resourceslices"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ServiceAccount,
    ResourceClaim,
    Attachment,
    Slice,
    Pod,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Object(Kind, Box<str>, Box<str>);

impl Object {
    fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self(kind, namespace.into(), name.into())
    }
}

/// What refers to what. Pods, attachments and slices lead to one node; volumes lead from what they use to their claim.
#[derive(Default)]
struct Graph {
    /// Sources (pods, attachments): their node and what they refer to.
    sources: HashMap<Object, (Box<str>, Vec<Object>)>,
    /// Volumes: their claim, and the secrets they name.
    volumes: HashMap<Box<str>, (Object, Vec<Object>)>,
    /// How many sources on a node refer to an object.
    reach: HashMap<Object, HashMap<Box<str>, u32>>,
    /// The claims through whose volumes an object is reached.
    through: HashMap<Object, HashSet<Object>>,
}

impl Graph {
    fn apply(&mut self, place: usize, change: Change) {
        let kind = [Kind::Pod, Kind::Volume, Kind::Attachment, Kind::Slice][place];
        match change {
            Change::Snapshot(all) => {
                if kind == Kind::Volume {
                    self.volumes.clear();
                    self.through.clear();
                } else {
                    let old: Vec<Object> = self.sources.keys().filter(|o| o.0 == kind).cloned().collect();
                    old.iter().for_each(|o| self.remove_source(o));
                }
                all.into_iter().for_each(|entry| self.apply(place, Change::Put(entry)));
            }
            Change::Put(entry) => {
                let object = parse(&entry);
                match kind {
                    Kind::Volume => self.put_volume(&entry.name, &object),
                    Kind::Pod => {
                        let key = Object::new(Kind::Pod, &entry.namespace, &entry.name);
                        let refers = pod_references(&entry.namespace, &object);
                        self.put_source(key, text(&object, "/spec/nodeName"), refers);
                    }
                    Kind::Slice => {
                        let key = Object::new(Kind::Slice, "", &entry.name);
                        self.put_source(key, text(&object, "/spec/nodeName"), Vec::new());
                    }
                    _ => {
                        let key = Object::new(Kind::Attachment, "", &entry.name);
                        let volume = text(&object, "/spec/source/persistentVolumeName");
                        let refers = vec![Object::new(Kind::Volume, "", volume)];
                        self.put_source(key, text(&object, "/spec/nodeName"), refers);
                    }
                }
            }
            Change::Delete { namespace, name } => match kind {
                Kind::Volume => self.remove_volume(&name),
                kind => self.remove_source(&Object::new(kind, &namespace, &name)),
            },
        }
    }

    fn put_source(&mut self, key: Object, node: &str, mut refers: Vec<Object>) {
        refers.push(key.clone());
        refers.sort_by(|a, b| (a.0 as u8, &a.1, &a.2).cmp(&(b.0 as u8, &b.1, &b.2)));
        refers.dedup();
        if self.sources.get(&key).is_some_and(|(n, r)| **n == *node && *r == refers) {
            return;
        }
        self.remove_source(&key);
        if node.is_empty() {
            return;
        }
        for object in &refers {
            *self.reach.entry(object.clone()).or_default().entry(node.into()).or_default() += 1;
        }
        self.sources.insert(key, (node.into(), refers));
    }

    fn remove_source(&mut self, key: &Object) {
        let Some((node, refers)) = self.sources.remove(key) else { return };
        for object in refers {
            if let Some(nodes) = self.reach.get_mut(&object) {
                if let Some(count) = nodes.get_mut(&node) {
                    *count -= 1;
                    if *count == 0 {
                        nodes.remove(&node);
                    }
                }
                if nodes.is_empty() {
                    self.reach.remove(&object);
                }
            }
        }
    }

    fn put_volume(&mut self, name: &str, object: &Value) {
        self.remove_volume(name);
        let (namespace, claim) =
            (text(object, "/spec/claimRef/namespace"), text(object, "/spec/claimRef/name"));
        if claim.is_empty() {
            return;
        }
        let claim = Object::new(Kind::Claim, namespace, claim);
        let mut reached = vec![Object::new(Kind::Volume, "", name)];
        secret_references(&object["spec"], namespace, &mut reached);
        for object in &reached {
            self.through.entry(object.clone()).or_default().insert(claim.clone());
        }
        self.volumes.insert(name.into(), (claim, reached));
    }

    fn remove_volume(&mut self, name: &str) {
        let Some((claim, reached)) = self.volumes.remove(name) else { return };
        for object in reached {
            if let Some(claims) = self.through.get_mut(&object) {
                claims.remove(&claim);
                if claims.is_empty() {
                    self.through.remove(&object);
                }
            }
        }
    }

    fn reaches(&self, node: &str, object: &Object) -> bool {
        let direct = |o: &Object| self.reach.get(o).is_some_and(|nodes| nodes.contains_key(node));
        direct(object) || self.through.get(object).is_some_and(|claims| claims.iter().any(direct))
    }
}

/// Secrets named anywhere in a volume (`secretRef`, `nodeStageSecretRef`, ...), with their own or the given namespace.
fn secret_references(value: &Value, namespace: &str, out: &mut Vec<Object>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let name = text(member, "/name");
                if key.to_ascii_lowercase().ends_with("secretref") && !name.is_empty() {
                    let own = text(member, "/namespace");
                    out.push(Object::new(Kind::Secret, if own.is_empty() { namespace } else { own }, name));
                } else if key == "secretName" && member.is_string() {
                    let own = text(value, "/secretNamespace");
                    let scope = if own.is_empty() { namespace } else { own };
                    out.push(Object::new(Kind::Secret, scope, member.as_str().unwrap_or("")));
                } else {
                    secret_references(member, namespace, out);
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|v| secret_references(v, namespace, out)),
        _ => {}
    }
}

fn pod_references(namespace: &str, pod: &Value) -> Vec<Object> {
    // Mirror pods come from a file on the node; a node could name any secret in one.
    if !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        return Vec::new();
    }
    let mut out = Vec::new();
    let add = |out: &mut Vec<Object>, kind, name: &str| {
        if !name.is_empty() {
            out.push(Object::new(kind, namespace, name));
        }
    };
    add(&mut out, Kind::ServiceAccount, text(pod, "/spec/serviceAccountName"));
    for secret in items(pod, "/spec/imagePullSecrets") {
        add(&mut out, Kind::Secret, text(secret, "/name"));
    }
    for list in ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"] {
        for container in items(pod, list) {
            for from in items(container, "/envFrom") {
                add(&mut out, Kind::Secret, text(from, "/secretRef/name"));
                add(&mut out, Kind::ConfigMap, text(from, "/configMapRef/name"));
            }
            for env in items(container, "/env") {
                add(&mut out, Kind::Secret, text(env, "/valueFrom/secretKeyRef/name"));
                add(&mut out, Kind::ConfigMap, text(env, "/valueFrom/configMapKeyRef/name"));
            }
        }
    }
    for volume in items(pod, "/spec/volumes") {
        add(&mut out, Kind::ConfigMap, text(volume, "/configMap/name"));
        add(&mut out, Kind::Claim, text(volume, "/persistentVolumeClaim/claimName"));
        if volume["ephemeral"].is_object() {
            let claim = format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name"));
            add(&mut out, Kind::Claim, &claim);
        }
        for source in items(volume, "/projected/sources") {
            add(&mut out, Kind::Secret, text(source, "/secret/name"));
            add(&mut out, Kind::ConfigMap, text(source, "/configMap/name"));
        }
        secret_references(volume, namespace, &mut out);
    }
    for claim in items(pod, "/spec/resourceClaims") {
        add(&mut out, Kind::ResourceClaim, text(claim, "/resourceClaimName"));
    }
    for claim in items(pod, "/status/resourceClaimStatuses") {
        add(&mut out, Kind::ResourceClaim, text(claim, "/resourceClaimName"));
    }
    out
}

pub struct NodeAuthorizer {
    state: Mutex<(Feeds, Graph)>,
    /// What every kubelet may do.
    rules: Vec<Rule>,
}

impl NodeAuthorizer {
    /// `rules` are those of the role `system:node`.
    pub fn new(reader: Arc<dyn Reader>, rules: Vec<Rule>) -> Self {
        Self { state: Mutex::new((Feeds::new(reader, &RESOURCES), Graph::default())), rules }
    }

    fn reaches(&self, node: &str, object: &Object) -> bool {
        let mut state = self.state.lock();
        let (feeds, graph) = &mut *state;
        feeds.drain(|place, change| graph.apply(place, change));
        graph.reaches(node, object)
    }

    fn related(&self, node: &str, a: &Attributes, kind: Kind) -> Decision {
        let namespace = if matches!(kind, Kind::Volume | Kind::Attachment | Kind::Slice) {
            ""
        } else {
            a.namespace.as_str()
        };
        if self.reaches(node, &Object::new(kind, namespace, &a.name)) {
            return allow();
        }
        refuse(format!("no relationship found between node '{node}' and this object"))
    }

    /// Objects a kubelet gets one by one.
    fn get(&self, node: &str, a: &Attributes, kind: Kind) -> Decision {
        if a.verb != "get" || a.name.is_empty() {
            return refuse("can only get individual resources of this type");
        }
        if !a.subresource.is_empty() {
            return refuse("cannot get subresource");
        }
        self.related(node, a, kind)
    }

    /// Namespaced objects a kubelet reads and watches one by one.
    fn read(&self, node: &str, a: &Attributes, kind: Kind) -> Decision {
        if !matches!(a.verb.as_str(), "get" | "list" | "watch") {
            return refuse("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        if a.name.is_empty() {
            return refuse("can only get individual resources of this type");
        }
        self.related(node, a, kind)
    }

    fn status(&self, node: &str, a: &Attributes, kind: Kind) -> Decision {
        if !matches!(a.verb.as_str(), "get" | "update" | "patch") || a.name.is_empty() {
            return refuse("can only get/update/patch this type");
        }
        if a.subresource != "status" {
            return refuse("can only update status subresource");
        }
        self.related(node, a, kind)
    }

    fn token(&self, node: &str, a: &Attributes) -> Decision {
        if a.verb == "get" && a.subresource.is_empty() {
            return self.get(node, a, Kind::ServiceAccount);
        }
        if a.verb != "create" || a.name.is_empty() {
            return refuse("can only create tokens for individual service accounts");
        }
        if a.subresource != "token" {
            return refuse("can only create token subresource of serviceaccount");
        }
        self.related(node, a, Kind::ServiceAccount)
    }

    fn pod(&self, node: &str, a: &Attributes) -> Decision {
        match a.verb.as_str() {
            "get" if a.subresource.is_empty() => self.get(node, a, Kind::Pod),
            "list" | "watch" => {
                let pinned =
                    a.field_selector.as_deref().and_then(|s| selected(s, "spec.nodeName")) == Some(node);
                // A kubelet that watches one of its pods by name needs no selector.
                if pinned || (!a.name.is_empty() && self.related(node, a, Kind::Pod).is_allowed()) {
                    allow()
                } else {
                    refuse(format!("can only list/watch pods with spec.nodeName={node} field selector"))
                }
            }
            // NodeRestriction confines writes to pods of the node.
            _ => self.by_rules(a),
        }
    }

    fn node(&self, node: &str, a: &Attributes) -> Decision {
        match a.verb.as_str() {
            "create" if a.name.is_empty() || a.name == node => self.by_rules(a),
            "update" | "patch" if a.name != node => {
                refuse(format!("node '{node}' cannot {} '{}', only its own Node object", a.verb, a.name))
            }
            // As upstream with selectors on: a node reads itself alone.
            "get" | "list" | "watch" => {
                let pinned =
                    a.field_selector.as_deref().and_then(|s| selected(s, "metadata.name")) == Some(node);
                if a.name == node || pinned {
                    self.by_rules(a)
                } else if a.name.is_empty() {
                    refuse(format!("node '{node}' cannot read all nodes, only its own Node object"))
                } else {
                    refuse(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
                }
            }
            _ => self.by_rules(a),
        }
    }

    fn lease(&self, node: &str, a: &Attributes) -> Decision {
        if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
            return refuse("can only get, create, update, patch, or delete a node lease");
        }
        if a.namespace != "kube-node-lease" {
            return refuse("can only access leases in the \"kube-node-lease\" system namespace");
        }
        if a.verb != "create" && a.name != node {
            return refuse("can only access node lease with the same name as the requesting node");
        }
        allow()
    }

    fn csi_node(&self, node: &str, a: &Attributes) -> Decision {
        if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
            return refuse("can only get, create, update, patch, or delete a CSINode");
        }
        if !a.subresource.is_empty() {
            return refuse("cannot authorize CSINode subresources");
        }
        if a.verb != "create" && a.name != node {
            return refuse("can only access CSINode with the same name as the requesting node");
        }
        allow()
    }

    fn resource_slice(&self, node: &str, a: &Attributes) -> Decision {
        if !a.subresource.is_empty() {
            return refuse("cannot authorize ResourceSlice subresources");
        }
        match a.verb.as_str() {
            "create" => allow(),
            "get" | "update" | "patch" | "delete" if !a.name.is_empty() => self.related(node, a, Kind::Slice),
            "list" | "watch" | "deletecollection" => {
                if a.field_selector.as_deref().and_then(|s| selected(s, "spec.nodeName")) == Some(node) {
                    allow()
                } else {
                    refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
                }
            }
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, \
                         patch, delete, deletecollection",
            ),
        }
    }

    fn by_rules(&self, a: &Attributes) -> Decision {
        if self.rules.iter().any(|rule| rule.allows(a)) { allow() } else { Decision::silent() }
    }

    fn decide(&self, a: &Attributes) -> Decision {
        let Some(node) = node_name(&a.user) else { return Decision::silent() };
        if a.resource_request {
            match (a.api_group.as_str(), a.resource.as_str()) {
                ("", "secrets") => return self.read(node, a, Kind::Secret),
                ("", "configmaps") => return self.read(node, a, Kind::ConfigMap),
                ("", "persistentvolumeclaims") if a.subresource == "status" => {
                    return self.status(node, a, Kind::Claim);
                }
                ("", "persistentvolumeclaims") => return self.get(node, a, Kind::Claim),
                ("", "persistentvolumes") => return self.get(node, a, Kind::Volume),
                ("storage.k8s.io", "volumeattachments") => return self.get(node, a, Kind::Attachment),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, a, Kind::ResourceClaim),
                ("resource.k8s.io", "resourceslices") => return self.resource_slice(node, a),
                ("", "serviceaccounts") => return self.token(node, a),
                ("coordination.k8s.io", "leases") => return self.lease(node, a),
                ("storage.k8s.io", "csinodes") => return self.csi_node(node, a),
                ("", "pods") => return self.pod(node, a),
                ("", "nodes") => return self.node(node, a),
                _ => {}
            }
        }
        self.by_rules(a)
    }
}

fn allow() -> Decision {
    Decision::Allow { reason: String::new() }
}

fn refuse(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion { reason: reason.into() }
}

/// The value a field selector pins `field` to.
fn selected<'a>(selector: &'a str, field: &str) -> Option<&'a str> {
    selector.split(',').find_map(|term| {
        let (key, value) = term.split_once('=')?;
        (key == field).then(|| value.strip_prefix('=').unwrap_or(value))
    })
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        self.decide(attributes)
    }

    /// What a kubelet may do depends on its pods and cannot be told as rules.
    async fn rules_for(&self, user: &UserInfo, _namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), node_name(user).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authentication::NODES_GROUP;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    fn world() -> (Arc<FakeCluster>, NodeAuthorizer) {
        let cluster = FakeCluster::new();
        let rules = vec![Rule::read(
            &json!({"verbs": ["create", "get"], "apiGroups": [""], "resources": ["nodes", "pods"]}),
        )];
        (cluster.clone(), NodeAuthorizer::new(cluster, rules))
    }

    fn pod(node: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {
            "nodeName": node, "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}],
                            "envFrom": [{"configMapRef": {"name": "from"}}]}],
            "volumes": [{"name": "s", "secret": {"secretName": "vol"}},
                        {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                        {"name": "j", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}]}})
    }

    fn ask(node: &str, verb: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            user: UserInfo::new(format!("system:node:{node}"), &[NODES_GROUP]),
            verb: verb.into(),
            resource: resource.into(),
            subresource: sub.into(),
            namespace: namespace.into(),
            name: name.into(),
            resource_request: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn a_node_sees_what_its_pods_refer_to_and_only_while_they_do() {
        let (cluster, authorizer) = world();
        let seen = |node: &str, resource: &str, name: &str| {
            authorizer.decide(&ask(node, "get", resource, "a", name)).is_allowed()
        };
        let reasons = authorizer.decide(&ask("n1", "get", "secrets", "a", "vol"));
        assert_eq!(reasons, refuse("no relationship found between node 'n1' and this object"));
        cluster.put("", "pods", pod("n1"));
        for (resource, name) in [
            ("secrets", "vol"),
            ("secrets", "env"),
            ("secrets", "pull"),
            ("configmaps", "from"),
            ("configmaps", "kube-root-ca.crt"),
            ("persistentvolumeclaims", "claim"),
            ("pods", "p"),
        ] {
            assert!(seen("n1", resource, name), "{resource} {name}");
            assert!(!seen("n2", resource, name), "{resource} {name}");
            assert!(!seen("n1", resource, "other"), "{resource}");
        }
        assert!(!authorizer.decide(&ask("n1", "get", "secrets", "b", "vol")).is_allowed());
        assert!(!authorizer.decide(&ask("n1", "list", "secrets", "a", "")).is_allowed());
        assert!(!authorizer.decide(&ask("n1", "update", "secrets", "a", "vol")).is_allowed());
        assert!(authorizer.decide(&ask("n1", "create", "serviceaccounts/token", "a", "sa")).is_allowed());
        assert!(!authorizer.decide(&ask("n2", "create", "serviceaccounts/token", "a", "sa")).is_allowed());
        cluster.remove("", "pods", "a", "p");
        assert!(!seen("n1", "secrets", "vol"));
    }

    #[test]
    fn volumes_are_reached_through_their_claims() {
        let (cluster, authorizer) = world();
        cluster.put("", "pods", pod("n1"));
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "a", "name": "claim"},
            "csi": {"nodeStageSecretRef": {"namespace": "csi", "name": "stage"}}}});
        let pv = ask("n1", "get", "persistentvolumes", "", "pv");
        assert!(!authorizer.decide(&pv).is_allowed());
        cluster.put("", "persistentvolumes", volume);
        assert!(authorizer.decide(&pv).is_allowed());
        assert!(authorizer.decide(&ask("n1", "get", "secrets", "csi", "stage")).is_allowed());
        assert!(!authorizer.decide(&ask("n2", "get", "secrets", "csi", "stage")).is_allowed());
        cluster.remove("", "persistentvolumes", "", "pv");
        assert!(!authorizer.decide(&pv).is_allowed());
    }

    #[test]
    fn mirror_pods_open_nothing() {
        let (cluster, authorizer) = world();
        let mut mirror = pod("n1");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        cluster.put("", "pods", mirror);
        assert!(!authorizer.decide(&ask("n1", "get", "secrets", "a", "vol")).is_allowed());
        assert!(authorizer.decide(&ask("n1", "get", "pods", "a", "p")).is_allowed());
    }

    #[test]
    fn nodes_leases_and_pods_are_the_nodes_own() {
        let (_, authorizer) = world();
        let can = |a: &Attributes| authorizer.decide(a).is_allowed();
        assert!(can(&ask("n1", "get", "nodes", "", "n1")));
        assert!(!can(&ask("n1", "get", "nodes", "", "n2")));
        assert!(!can(&ask("n1", "list", "nodes", "", "")));
        assert!(can(&ask("n1", "create", "nodes", "", "")));
        let mut pods = ask("n1", "watch", "pods", "", "");
        assert!(!can(&pods));
        pods.field_selector = Some("status.phase!=Failed,spec.nodeName=n1".into());
        assert!(can(&pods));
        pods.field_selector = Some("spec.nodeName=n2".into());
        assert!(!can(&pods));
        let lease = |verb: &str, namespace: &str, name: &str| Attributes {
            api_group: "coordination.k8s.io".into(),
            ..ask("n1", verb, "leases", namespace, name)
        };
        assert!(can(&lease("update", "kube-node-lease", "n1")));
        assert!(can(&lease("create", "kube-node-lease", "")));
        assert!(!can(&lease("update", "kube-node-lease", "n2")));
        assert!(!can(&lease("update", "kube-system", "n1")));
        // Not a node at all.
        let mut stranger = ask("n1", "get", "nodes", "", "n1");
        stranger.user.groups.clear();
        assert_eq!(authorizer.decide(&stranger), Decision::silent());
    }
}
