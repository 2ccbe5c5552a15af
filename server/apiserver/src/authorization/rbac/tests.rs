//! What this module promises, case by case.

use super::*;
use crate::reader::fake::FakeCluster;
use proptest::prelude::*;
use serde_json::json;

fn put(cluster: &FakeCluster, resource: &str, namespace: &str, name: &str, mut object: Value) {
    object["metadata"] = json!({"name": name});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    cluster.put(GROUP, resource, object);
}

fn rule(verbs: &[&str], resources: &[&str]) -> Value {
    json!({"rules": [{"verbs": verbs, "apiGroups": [""], "resources": resources}]})
}

fn binding(kind: &str, role: &str, subjects: Value) -> Value {
    json!({"roleRef": {"kind": kind, "name": role}, "subjects": subjects})
}

fn ask(user: &UserInfo, verb: &str, resource: &str, namespace: &str) -> Attributes {
    Attributes {
        user: user.clone(),
        verb: verb.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        resource_request: true,
        ..Attributes::default()
    }
}

#[test]
fn bindings_work_at_once_and_stop_at_once() {
    let cluster = FakeCluster::new();
    let rbac = Rbac::new(cluster.clone());
    let jane = UserInfo::new("jane", &["dev"]);
    let list = ask(&jane, "list", "pods", "default");
    assert_eq!(rbac.decide(&list), Decision::silent());
    put(
        &cluster,
        "rolebindings",
        "default",
        "b",
        binding("Role", "reader", json!([{"kind": "Group", "name": "dev"}])),
    );
    let reason = "RBAC: role.rbac.authorization.k8s.io \"reader\" not found".to_owned();
    assert_eq!(rbac.decide(&list), Decision::NoOpinion { reason });
    put(&cluster, "roles", "default", "reader", rule(&["list"], &["pods"]));
    let reason = "RBAC: allowed by RoleBinding \"b/default\" of Role \"reader\" to Group \"dev\"".to_owned();
    assert_eq!(rbac.decide(&list), Decision::Allow { reason });
    assert!(!rbac.decide(&ask(&jane, "list", "pods", "other")).is_allowed());
    assert!(!rbac.decide(&ask(&jane, "list", "pods", "")).is_allowed());
    assert!(!rbac.decide(&ask(&UserInfo::new("joe", &[]), "list", "pods", "default")).is_allowed());
    // The role changes under the binding, then the binding loses its subject.
    put(&cluster, "roles", "default", "reader", rule(&["get"], &["pods"]));
    assert!(!rbac.decide(&list).is_allowed());
    assert!(rbac.decide(&ask(&jane, "get", "pods", "default")).is_allowed());
    put(
        &cluster,
        "rolebindings",
        "default",
        "b",
        binding("Role", "reader", json!([{"kind": "User", "name": "joe"}])),
    );
    assert!(!rbac.decide(&ask(&jane, "get", "pods", "default")).is_allowed());
    assert!(rbac.decide(&ask(&UserInfo::new("joe", &[]), "get", "pods", "default")).is_allowed());
    cluster.remove(GROUP, "rolebindings", "default", "b");
    assert!(!rbac.decide(&ask(&UserInfo::new("joe", &[]), "get", "pods", "default")).is_allowed());
}

#[test]
fn service_accounts_are_subjects_of_their_own_kind() {
    let cluster = FakeCluster::new();
    let rbac = Rbac::new(cluster.clone());
    put(&cluster, "clusterroles", "", "r", rule(&["get"], &["pods"]));
    let subject = json!([{"kind": "ServiceAccount", "namespace": "a", "name": "sa"}]);
    put(&cluster, "clusterrolebindings", "", "b", binding("ClusterRole", "r", subject));
    let account = UserInfo::service_account("a", "sa", "");
    let reason = "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"r\" to ServiceAccount \"sa/a\""
        .to_owned();
    assert_eq!(rbac.decide(&ask(&account, "get", "pods", "x")), Decision::Allow { reason });
    assert!(!rbac.decide(&ask(&UserInfo::service_account("b", "sa", ""), "get", "pods", "x")).is_allowed());
    assert!(!rbac.decide(&ask(&UserInfo::new("sa", &[]), "get", "pods", "x")).is_allowed());
}

#[test]
fn rules_for_reviews() {
    let cluster = FakeCluster::new();
    let rbac = Rbac::new(cluster.clone());
    put(&cluster, "clusterroles", "", "r", rule(&["get"], &["pods"]));
    put(
        &cluster,
        "clusterrolebindings",
        "",
        "b",
        binding("ClusterRole", "r", json!([{"kind": "User", "name": "j"}])),
    );
    let (rules, missing) = rbac.rules(&UserInfo::new("j", &[]), "x");
    assert_eq!(rules.len(), 1);
    assert!(missing.is_empty());
    assert_eq!(rules[0].to_json(), json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
}

/// What upstream does, done naively on the objects themselves.
fn naive(cluster: &FakeCluster, a: &Attributes) -> bool {
    let allowed_by = |binding: &Value, home: &str| {
        let subject = items(binding, "/subjects").iter().any(|s| {
            let name = text(s, "/name");
            match text(s, "/kind") {
                "User" => name == a.user.name,
                "Group" => a.user.groups.iter().any(|g| g == name),
                _ => {
                    let own = text(s, "/namespace");
                    let namespace = if own.is_empty() { home } else { own };
                    format!("system:serviceaccount:{namespace}:{name}") == a.user.name
                }
            }
        });
        let (resource, of) = match text(binding, "/roleRef/kind") {
            "ClusterRole" => ("clusterroles", ""),
            _ => ("roles", home),
        };
        let role = cluster.get(GROUP, resource, of, text(binding, "/roleRef/name"));
        subject && role.is_some_and(|r| items(&parse(&r), "/rules").iter().any(|r| Rule::read(r).allows(a)))
    };
    let all = |resource: &str, namespace: Option<&str>| cluster.list(GROUP, resource, namespace);
    all("clusterrolebindings", None).iter().any(|b| allowed_by(&parse(b), ""))
        || (!a.namespace.is_empty()
            && all("rolebindings", Some(&a.namespace)).iter().any(|b| allowed_by(&parse(b), &a.namespace)))
}

/// One step of a random life of the cluster.
#[derive(Clone, Debug)]
enum Step {
    Role(usize, usize, &'static str),
    ClusterRole(usize, &'static str),
    Bind(usize, usize, bool, usize, usize),
    ClusterBind(usize, usize, usize),
    Remove(&'static str, usize, usize),
}

const NAMESPACES: [&str; 2] = ["a", "b"];
const NAMES: [&str; 3] = ["x", "y", "z"];
const SUBJECTS: usize = 5;

fn subject(n: usize) -> Value {
    match n {
        0 => json!({"kind": "User", "name": "jane"}),
        1 => json!({"kind": "User", "name": "joe"}),
        2 => json!({"kind": "Group", "name": "dev"}),
        3 => json!({"kind": "ServiceAccount", "namespace": "a", "name": "sa"}),
        _ => json!({"kind": "ServiceAccount", "name": "sa"}),
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let verb = proptest::sample::select(vec!["get", "list", "*"]);
    let resource =
        proptest::sample::select(vec!["clusterroles", "clusterrolebindings", "roles", "rolebindings"]);
    prop_oneof![
        (0..2usize, 0..3usize, verb.clone()).prop_map(|(n, i, v)| Step::Role(n, i, v)),
        (0..3usize, verb).prop_map(|(i, v)| Step::ClusterRole(i, v)),
        (0..2usize, 0..3usize, any::<bool>(), 0..3usize, 0..SUBJECTS)
            .prop_map(|(n, i, c, r, s)| Step::Bind(n, i, c, r, s)),
        (0..3usize, 0..3usize, 0..SUBJECTS).prop_map(|(i, r, s)| Step::ClusterBind(i, r, s)),
        (resource, 0..2usize, 0..3usize).prop_map(|(r, n, i)| Step::Remove(r, n, i)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// After every change, the index answers the whole matrix of questions like the naive model.
    #[test]
    fn the_index_agrees_with_the_model(steps in proptest::collection::vec(any_step(), 1..25)) {
        let cluster = FakeCluster::new();
        let rbac = Rbac::new(cluster.clone());
        let users = [
            UserInfo::new("jane", &["dev"]),
            UserInfo::new("joe", &[]),
            UserInfo::service_account("a", "sa", ""),
            UserInfo::service_account("b", "sa", ""),
        ];
        for step in steps {
            match step {
                Step::Role(n, i, v) => put(&cluster, "roles", NAMESPACES[n], NAMES[i], rule(&[v], &["pods"])),
                Step::ClusterRole(i, v) => put(&cluster, "clusterroles", "", NAMES[i], rule(&[v], &["pods"])),
                Step::Bind(n, i, c, r, s) => {
                    let kind = if c { "ClusterRole" } else { "Role" };
                    let b = binding(kind, NAMES[r], json!([subject(s)]));
                    put(&cluster, "rolebindings", NAMESPACES[n], NAMES[i], b);
                }
                Step::ClusterBind(i, r, s) => {
                    let b = binding("ClusterRole", NAMES[r], json!([subject(s)]));
                    put(&cluster, "clusterrolebindings", "", NAMES[i], b);
                }
                Step::Remove(r, n, i) => {
                    let namespace = if r.starts_with("cluster") { "" } else { NAMESPACES[n] };
                    cluster.remove(GROUP, r, namespace, NAMES[i]);
                }
            }
            for user in &users {
                for verb in ["get", "list"] {
                    for namespace in ["", "a", "b"] {
                        let a = ask(user, verb, "pods", namespace);
                        prop_assert_eq!(rbac.decide(&a).is_allowed(), naive(&cluster, &a), "{:?}", a);
                    }
                }
            }
        }
    }
}
