//! Default objects other than RBAC, as tables.

use super::Published;
use serde_json::{Value, json};

pub(super) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub(super) fn priority_classes() -> Vec<Value> {
    [
        (
            "system-node-critical",
            2_000_001_000,
            "For pods a node cannot work without; they are never moved away.",
        ),
        ("system-cluster-critical", 2_000_000_000, "For pods the cluster needs, wherever they run."),
    ]
    .map(|(name, value, description)| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        })
    })
    .to_vec()
}

const FLOW_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

fn flow_metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}})
}

pub(super) fn priority_levels() -> Vec<Value> {
    let limited = |name: &str, shares: u32, lendable: u32, queues: Option<(u32, u32)>| {
        let response = match queues {
            Some((queues, hand)) => {
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}})
            }
            None => json!({"type": "Reject"}),
        };
        json!({
            "apiVersion": FLOW_VERSION,
            "kind": "PriorityLevelConfiguration",
            "metadata": flow_metadata(name),
            "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}},
        })
    };
    vec![
        json!({
            "apiVersion": FLOW_VERSION,
            "kind": "PriorityLevelConfiguration",
            "metadata": flow_metadata("exempt"),
            "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}},
        }),
        limited("catch-all", 5, 0, None),
        limited("system", 30, 33, Some((64, 6))),
        limited("node-high", 40, 25, Some((64, 6))),
        limited("leader-election", 10, 0, Some((16, 4))),
        limited("workload-high", 40, 50, Some((128, 6))),
        limited("workload-low", 100, 90, Some((128, 6))),
        limited("global-default", 20, 50, Some((128, 6))),
    ]
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

fn resources(verbs: &[&str], of: &str, resources: &[&str], namespaces: &[&str], cluster: bool) -> Value {
    let mut rule =
        json!({"verbs": verbs, "apiGroups": [of], "resources": resources, "namespaces": namespaces});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// Resource and URL rules.
type Scope = (Vec<Value>, Vec<Value>);

fn everything() -> Scope {
    (
        vec![resources(&["*"], "*", &["*"], &["*"], true)],
        vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
    )
}

pub(super) fn flow_schemas() -> Vec<Value> {
    const WRITE: [&str; 3] = ["get", "create", "update"];
    let everyone = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let managers = || vec![user("system:kube-controller-manager"), user("system:kube-scheduler")];
    let leases = |namespaces: &[&str]| -> Scope {
        (vec![resources(&WRITE, "coordination.k8s.io", &["leases"], namespaces, false)], vec![])
    };
    let probes = vec![json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]})];
    let heartbeats = vec![
        resources(&["*"], "", &["nodes", "nodes/status"], &["*"], true),
        resources(&["*"], "coordination.k8s.io", &["leases"], &["*"], false),
    ];
    let endpoints = vec![
        resources(&WRITE, "", &["endpoints"], &["*"], false),
        resources(&WRITE, "discovery.k8s.io", &["endpointslices"], &["*"], false),
    ];
    let endpoint_subjects = vec![
        user("system:kube-controller-manager"),
        account("endpoint-controller"),
        account("endpointslicemirroring-controller"),
    ];
    let mut leaders = managers();
    leaders.push(account("*"));
    let schema = |name: &str, level: &str, precedence: u32, by: &str, subjects: Vec<Value>, scope: Scope| {
        let mut rule = json!({"subjects": subjects});
        for (key, list) in [("resourceRules", scope.0), ("nonResourceRules", scope.1)] {
            if !list.is_empty() {
                rule[key] = list.into();
            }
        }
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": level},
            "matchingPrecedence": precedence,
            "rules": [rule],
        });
        if !by.is_empty() {
            spec["distinguisherMethod"] = json!({"type": by});
        }
        json!({"apiVersion": FLOW_VERSION, "kind": "FlowSchema", "metadata": flow_metadata(name), "spec": spec})
    };
    let one = |subject: Value| vec![subject];
    vec![
        schema("exempt", "exempt", 1, "", one(group("system:masters")), everything()),
        schema("probes", "exempt", 2, "", everyone(), (vec![], probes)),
        schema("system-leader-election", "leader-election", 100, "ByUser", leaders, leases(&["kube-system"])),
        schema("endpoint-controller", "workload-high", 150, "ByUser", endpoint_subjects, (endpoints, vec![])),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            one(account("*")),
            leases(&["*"]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            one(group("system:nodes")),
            (heartbeats, vec![]),
        ),
        schema("system-nodes", "system", 500, "ByUser", one(group("system:nodes")), everything()),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            one(user("system:kube-controller-manager")),
            everything(),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            one(user("system:kube-scheduler")),
            everything(),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            one(account("*")),
            everything(),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            one(group("system:serviceaccounts")),
            everything(),
        ),
        schema("global-default", "global-default", 9900, "ByUser", everyone(), everything()),
        schema("catch-all", "catch-all", 10000, "ByUser", everyone(), everything()),
    ]
}

/// What extension API servers read to trust this server and its clients.
pub(super) fn extension_authentication(published: &Published) -> Value {
    let list = |names: &[String]| json!(names).to_string();
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "extension-apiserver-authentication"},
        "data": {
            "client-ca-file": published.client_ca,
            "requestheader-allowed-names": list(&published.front_proxy.allowed),
            "requestheader-client-ca-file": published.front_proxy_ca,
            "requestheader-extra-headers-prefix": list(&published.front_proxy.extra_prefix),
            "requestheader-group-headers": list(&published.front_proxy.group),
            "requestheader-uid-headers": list(&published.front_proxy.uid),
            "requestheader-username-headers": list(&published.front_proxy.user),
        },
    })
}
