//! Reads `roles.txt` into RBAC objects.

use serde_json::{Map, Value, json};

const TEXT: &str = include_str!("roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
const LABEL: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// The default RBAC objects, complete but for the rules of aggregated roles, which [`super::aggregate`] fills in.
#[derive(Default)]
pub struct Defaults {
    pub cluster_roles: Vec<Value>,
    pub cluster_role_bindings: Vec<Value>,
    pub roles: Vec<Value>,
    pub role_bindings: Vec<Value>,
}

impl Defaults {
    pub fn read() -> Self {
        let mut out = Self::default();
        let mut role: Option<Role> = None;
        for line in TEXT.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match (line.starts_with(' '), words.as_slice()) {
                (true, words) => role.iter_mut().for_each(|r| r.rule(words)),
                (false, ["bind", subjects @ ..]) => role.iter_mut().for_each(|r| r.bind(subjects)),
                (false, ["also", name, role, subjects @ ..]) => out.also(name, role, subjects),
                (false, ["controller", name]) => {
                    out.close(role.replace(Role::controller(name)));
                }
                (false, ["role", name, labels @ ..]) => {
                    out.close(role.replace(Role::new(name, labels)));
                }
                _ => {}
            }
        }
        out.close(role);
        out
    }

    fn also(&mut self, name: &str, role: &str, subjects: &[&str]) {
        let mut of = Role::new(name, &[]);
        of.bind(subjects);
        self.cluster_role_bindings.push(json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "ClusterRoleBinding",
            "metadata": of.metadata(&[]),
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
            "subjects": of.subjects,
        }));
    }

    fn close(&mut self, role: Option<Role>) {
        let Some(mut role) = role else { return };
        if role.name.starts_with("system:controller:") {
            role.allow_patch();
        }
        let kind = if role.namespace.is_empty() { "ClusterRole" } else { "Role" };
        if let Some(subjects) = &role.subjects {
            let mut metadata = role.metadata(&[]);
            // The one binding upstream names otherwise than its role.
            if role.name == "extension-apiserver-authentication-reader" {
                metadata["name"] = format!("system::{}", role.name).into();
            }
            let binding = json!({
                "apiVersion": format!("{GROUP}/v1"),
                "kind": format!("{kind}Binding"),
                "metadata": metadata,
                "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role.name},
                "subjects": subjects,
            });
            let to = if role.namespace.is_empty() {
                &mut self.cluster_role_bindings
            } else {
                &mut self.role_bindings
            };
            to.push(binding);
        }
        let mut object = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": kind,
            "metadata": role.metadata(&role.labels),
            "rules": role.rules,
        });
        if let Some(from) = &role.from {
            let key = format!("{LABEL}{from}");
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {key: "true"}}]});
        }
        let to = if role.namespace.is_empty() { &mut self.cluster_roles } else { &mut self.roles };
        to.push(object);
    }
}

struct Role {
    namespace: String,
    name: String,
    labels: Vec<String>,
    rules: Vec<Value>,
    from: Option<String>,
    /// `None`: not bound.
    subjects: Option<Vec<Value>>,
}

impl Role {
    fn new(name: &str, labels: &[&str]) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        Self {
            namespace: namespace.into(),
            name: name.into(),
            labels: labels.iter().map(|l| format!("{LABEL}{}", l.trim_start_matches('+'))).collect(),
            rules: Vec::new(),
            from: None,
            subjects: None,
        }
    }

    fn controller(name: &str) -> Self {
        let mut role = Self::new(&format!("system:controller:{name}"), &[]);
        role.bind(&[&format!("s:{name}")]);
        role
    }

    fn metadata(&self, labels: &[String]) -> Value {
        let mut all = Map::new();
        all.insert("kubernetes.io/bootstrapping".into(), "rbac-defaults".into());
        all.extend(labels.iter().map(|l| (l.clone(), Value::from("true"))));
        let mut metadata = json!({
            "name": self.name,
            "labels": all,
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        });
        if !self.namespace.is_empty() {
            metadata["namespace"] = self.namespace.clone().into();
        }
        metadata
    }

    /// Our controllers patch where upstream's send the whole object back; who may do one may do the other.
    fn allow_patch(&mut self) {
        for verbs in self.rules.iter_mut().filter_map(|rule| rule["verbs"].as_array_mut()) {
            if verbs.iter().any(|v| v == "update") && !verbs.iter().any(|v| v == "patch") {
                verbs.push("patch".into());
                verbs.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            }
        }
    }

    fn rule(&mut self, words: &[&str]) {
        let list = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
        let sorted = |mut list: Vec<String>| {
            list.sort();
            list.dedup();
            list
        };
        let groups = |text: &str| {
            sorted(list(text).into_iter().map(|g| if g == "core" { String::new() } else { g }).collect())
        };
        match words {
            ["from", label] => self.from = Some((*label).into()),
            ["events"] => self.rule(&["create,patch,update", "core,events.k8s.io", "events"]),
            [verbs, "@", urls] => {
                self.rules.push(json!({"verbs": expand(verbs), "nonResourceURLs": sorted(list(urls))}));
            }
            [verbs, of, resources] => self.rules.push(json!({
                "verbs": expand(verbs), "apiGroups": groups(of), "resources": sorted(list(resources)),
            })),
            [verbs, of, resources, names] => self.rules.push(json!({
                "verbs": expand(verbs), "apiGroups": groups(of), "resources": sorted(list(resources)),
                "resourceNames": sorted(list(names)),
            })),
            _ => {}
        }
    }

    fn bind(&mut self, subjects: &[&str]) {
        let list = self.subjects.get_or_insert_default();
        for subject in subjects {
            match subject.split_once(':') {
                Some(("g", name)) => list.push(json!({"apiGroup": GROUP, "kind": "Group", "name": name})),
                Some(("u", name)) => list.push(json!({"apiGroup": GROUP, "kind": "User", "name": name})),
                Some(("s", name)) => {
                    list.push(json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": name}));
                }
                _ => {}
            }
        }
    }
}

fn expand(verbs: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for verb in verbs.split(',') {
        match verb {
            "R" => out.extend(["get", "list", "watch"]),
            "W" => out.extend(["create", "delete", "deletecollection", "patch", "update"]),
            "RU" => out.extend(["get", "list", "patch", "update", "watch"]),
            verb => out.push(verb),
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::{items, text};

    #[test]
    fn every_line_of_the_table_is_understood() {
        for (number, line) in TEXT.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let words = line.split_whitespace().collect::<Vec<_>>();
            let good = match (line.starts_with("  "), words.as_slice()) {
                (true, ["events"] | ["from", _] | [_, "@", _] | [_, _, _] | [_, _, _, _]) => true,
                (false, ["controller", _] | ["role", _] | ["bind", _, ..] | ["also", _, _, _]) => true,
                (false, ["role", _, label]) => label.starts_with('+'),
                _ => false,
            };
            assert!(good, "line {}: {line}", number + 1);
        }
    }

    #[test]
    fn objects_are_as_upstream_has_them() {
        let defaults = Defaults::read();
        let find = |list: &[Value], name: &str| {
            list.iter()
                .find(|o| text(o, "/metadata/name") == name)
                .cloned()
                .unwrap_or_else(|| panic!("{name}"))
        };
        let admin = find(&defaults.cluster_roles, "cluster-admin");
        assert_eq!(admin["rules"][0], json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        assert_eq!(admin["rules"][1], json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        assert_eq!(admin["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
        let edit = find(&defaults.cluster_roles, "edit");
        assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
        let selector = &edit["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
        assert_eq!(selector["rbac.authorization.k8s.io/aggregate-to-edit"], "true");
        let job = find(&defaults.cluster_role_bindings, "system:controller:job-controller");
        assert_eq!(
            job["subjects"],
            json!([{"kind": "ServiceAccount", "namespace": "kube-system", "name": "job-controller"}])
        );
        let node = find(&defaults.cluster_role_bindings, "system:node");
        assert!(items(&node, "/subjects").is_empty());
        let events = find(&defaults.cluster_roles, "system:controller:job-controller")["rules"][4].clone();
        assert_eq!(events["apiGroups"], json!(["", "events.k8s.io"]));
        assert_eq!(
            find(&defaults.roles, "system:controller:token-cleaner")["metadata"]["namespace"],
            "kube-system"
        );
    }

    /// Upstream v1.36's names (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata`), and what is ours beside them.
    #[test]
    fn the_names_are_upstreams() {
        const CLUSTER: &str = "admin cluster-admin edit view system:aggregate-to-admin system:aggregate-to-edit \
            system:aggregate-to-view system:auth-delegator system:basic-user \
            system:certificates.k8s.io:certificatesigningrequests:nodeclient \
            system:certificates.k8s.io:certificatesigningrequests:selfnodeclient \
            system:certificates.k8s.io:kube-apiserver-client-approver \
            system:certificates.k8s.io:kube-apiserver-client-kubelet-approver \
            system:certificates.k8s.io:kubelet-serving-approver system:certificates.k8s.io:legacy-unknown-approver \
            system:discovery system:heapster system:kube-aggregator system:kube-controller-manager system:kube-dns \
            system:kube-scheduler system:kubelet-api-admin system:monitoring system:node system:node-bootstrapper \
            system:node-problem-detector system:node-proxier system:persistent-volume-provisioner \
            system:public-info-viewer system:service-account-issuer-discovery system:volume-scheduler";
        const CONTROLLERS: &str = "attachdetach-controller certificate-controller clusterrole-aggregation-controller \
            cronjob-controller daemon-set-controller deployment-controller device-taint-eviction-controller \
            disruption-controller endpoint-controller endpointslice-controller endpointslicemirroring-controller \
            ephemeral-volume-controller expand-controller generic-garbage-collector horizontal-pod-autoscaler \
            job-controller legacy-service-account-token-cleaner namespace-controller node-controller \
            persistent-volume-binder pod-garbage-collector pv-protection-controller pvc-protection-controller \
            replicaset-controller replication-controller resource-claim-controller resourcequota-controller \
            root-ca-cert-publisher route-controller selinux-warning-controller service-account-controller \
            service-cidrs-controller service-controller statefulset-controller ttl-after-finished-controller \
            ttl-controller validatingadmissionpolicy-status-controller volumeattributesclass-protection-controller";
        const OURS: [&str; 2] = ["ironclad:node-network", "system:coredns"];
        let names = |list: &[Value]| {
            let mut names: Vec<String> = list.iter().map(|o| text(o, "/metadata/name").to_owned()).collect();
            names.sort();
            names
        };
        let mut wanted: Vec<String> = CLUSTER.split_whitespace().chain(OURS).map(str::to_owned).collect();
        wanted.extend(CONTROLLERS.split_whitespace().map(|n| format!("system:controller:{n}")));
        wanted.sort();
        let defaults = Defaults::read();
        assert_eq!(names(&defaults.cluster_roles), wanted);
        assert_eq!(wanted.len(), 31 + 38 + 2);
        // Every controller's role is bound, and of the others these.
        let bound: Vec<String> = names(&defaults.cluster_role_bindings)
            .into_iter()
            .filter(|n| !n.starts_with("system:controller:"))
            .collect();
        assert_eq!(
            bound,
            [
                "cluster-admin",
                "ironclad:node-network",
                "kubeadm:kubelet-bootstrap",
                "kubeadm:node-autoapprove-bootstrap",
                "kubeadm:node-autoapprove-certificate-rotation",
                "system:basic-user",
                "system:coredns",
                "system:discovery",
                "system:kube-controller-manager",
                "system:kube-dns",
                "system:kube-scheduler",
                "system:monitoring",
                "system:node",
                "system:node-proxier",
                "system:public-info-viewer",
                "system:service-account-issuer-discovery",
                "system:volume-scheduler",
            ]
        );
        assert_eq!(defaults.cluster_role_bindings.len(), bound.len() + 38);
        assert_eq!(
            names(&defaults.roles),
            [
                "extension-apiserver-authentication-reader",
                "system::leader-locking-kube-controller-manager",
                "system::leader-locking-kube-scheduler",
                "system:controller:bootstrap-signer",
                "system:controller:bootstrap-signer",
                "system:controller:cloud-provider",
                "system:controller:token-cleaner",
                "system:coredns",
            ]
        );
        // Upstream's bindings bear their role's name, but for one.
        let mut roles = names(&defaults.roles);
        roles[0] = "system::extension-apiserver-authentication-reader".into();
        assert_eq!(names(&defaults.role_bindings), roles);
    }
}
