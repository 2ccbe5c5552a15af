//! PodSecurity: the Pod Security Standards, by namespace label.

mod baseline;
mod restricted;

use super::{Denied, Operation, Plugin, Request};
use crate::audit;
use crate::reader::{Reader, text};
use async_trait::async_trait;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

const PREFIX: &str = "pod-security.kubernetes.io/";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level with the version it was asked in, as messages show it.
struct Policy {
    level: Level,
    name: String,
}

impl Policy {
    /// From `<mode>` and `<mode>-version` among a namespace's labels. A level nobody knows restricts, as upstream.
    fn of(labels: &BTreeMap<String, String>, mode: &str) -> Self {
        let (level, word) = match labels.get(&format!("{PREFIX}{mode}")).map(String::as_str) {
            None | Some("privileged" | "") => (Level::Privileged, "privileged"),
            Some("baseline") => (Level::Baseline, "baseline"),
            Some(_) => (Level::Restricted, "restricted"),
        };
        let version = labels.get(&format!("{PREFIX}{mode}-version")).filter(|v| is_version(v));
        Self { level, name: format!("{word}:{}", version.map_or("latest", String::as_str)) }
    }
}

fn is_version(text: &str) -> bool {
    text == "latest"
        || text
            .strip_prefix("v1.")
            .is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit()))
}

/// One broken rule: `reason (detail)`.
struct Violation {
    reason: String,
    detail: String,
}

type Check = fn(&Value) -> Option<Violation>;

/// Every rule the pod breaks at `level`, in upstream's order, joined; empty when there is none.
fn evaluate(level: Level, pod: &Value) -> String {
    let mut found = Vec::new();
    let mut run = |checks: &[Check]| found.extend(checks.iter().filter_map(|check| check(pod)));
    match level {
        Level::Privileged => {}
        Level::Baseline => run(&baseline::ALL),
        Level::Restricted => {
            run(&baseline::NOT_OVERRIDDEN);
            run(&restricted::ALL);
        }
    }
    found.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect::<Vec<_>>().join(", ")
}

/// `"a", "b"`
fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|n| format!("{:?}", n.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`
fn named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`: who set something they must not.
fn setters(pod: bool, containers: &[&str]) -> String {
    match (pod, containers) {
        (true, []) => "pod".into(),
        (true, names) => format!("pod and {}", named(names)),
        (false, names) => named(names),
    }
}

pub(super) struct PodSecurity {
    reader: Arc<dyn Reader>,
}

impl PodSecurity {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }

    fn labels(&self, namespace: &str) -> Option<Arc<crate::cache::Entry>> {
        let entry = self.reader.get("", "namespaces", "", namespace)?;
        // Most namespaces carry no such label, and nothing more is looked at.
        entry.labels().keys().any(|k| k.starts_with(PREFIX)).then_some(entry)
    }
}

/// The pod inside a workload, as a pod.
fn template(resource: &str, object: &Value) -> Option<Value> {
    let template = match resource {
        "pods" => return Some(object.clone()),
        "podtemplates" => &object["template"],
        "cronjobs" => &object["spec"]["jobTemplate"]["spec"]["template"],
        "deployments" | "replicasets" | "statefulsets" | "daemonsets" | "jobs" | "replicationcontrollers" => {
            &object["spec"]["template"]
        }
        _ => return None,
    };
    template.is_object().then(|| template.clone())
}

/// Updates that cannot change the outcome are let through, so that pods from before a label stay manageable.
fn significant(old: &Value, new: &Value) -> bool {
    old["spec"] != new["spec"] || old["metadata"]["annotations"] != new["metadata"]["annotations"]
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        if !matches!(r.operation, Operation::Create | Operation::Update) {
            return false;
        }
        let workload = matches!(
            (r.group, r.resource),
            ("", "pods" | "podtemplates" | "replicationcontrollers")
                | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
                | ("batch", "jobs" | "cronjobs")
        );
        workload && (r.subresource.is_empty() || r.subresource == "ephemeralcontainers")
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let Some(object) = object else { return Ok(()) };
        let pod = object;
        let Some(namespace) = self.labels(r.namespace) else {
            if r.resource == "pods" {
                audit::annotate("pod-security.kubernetes.io/enforce-policy", "privileged:latest");
            }
            return Ok(());
        };
        if r.old.is_some_and(|old| !significant(old, pod)) {
            return Ok(());
        }
        audit::annotate_at(audit::Level::Metadata, "pod-security.kubernetes.io/audit-violations", || {
            violations(&Policy::of(namespace.labels(), "audit"), r.resource, object)
        });
        if r.resource != "pods" {
            return Ok(());
        }
        let policy = Policy::of(namespace.labels(), "enforce");
        audit::annotate("pod-security.kubernetes.io/enforce-policy", policy.name.as_str());
        let broken = evaluate(policy.level, pod);
        if broken.is_empty() {
            return Ok(());
        }
        Err(Denied::forbidden(format!("violates PodSecurity {:?}: {broken}", policy.name)))
    }

    fn warnings(&self, r: &Request<'_>, object: &Value) -> Vec<String> {
        let Some(namespace) = self.labels(r.namespace) else { return Vec::new() };
        if r.old.is_some_and(|old| !significant(old, object)) {
            return Vec::new();
        }
        let policy = Policy::of(namespace.labels(), "warn");
        let Some(pod) = template(r.resource, object).filter(|_| policy.level > Level::Privileged) else {
            return Vec::new();
        };
        // What is refused anyway is not warned of.
        if r.resource == "pods" && !evaluate(Policy::of(namespace.labels(), "enforce").level, &pod).is_empty()
        {
            return Vec::new();
        }
        let broken = evaluate(policy.level, &pod);
        if broken.is_empty() {
            Vec::new()
        } else {
            vec![format!("would violate PodSecurity {:?}: {broken}", policy.name)]
        }
    }
}

/// What a mode that only tells would say; empty when there is nothing to tell.
fn violations(policy: &Policy, resource: &str, object: &Value) -> String {
    let pod = template(resource, object).filter(|_| policy.level > Level::Privileged);
    match pod.map(|pod| evaluate(policy.level, &pod)) {
        Some(broken) if !broken.is_empty() => {
            format!("would violate PodSecurity {:?}: {broken}", policy.name)
        }
        _ => String::new(),
    }
}

fn on_windows(pod: &Value) -> bool {
    text(pod, "/spec/os/name") == "windows"
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    fn plugin(level: &str) -> PodSecurity {
        let cluster = FakeCluster::new();
        let labels = json!({"pod-security.kubernetes.io/enforce": level});
        cluster.put("", "namespaces", json!({"metadata": {"name": "a", "labels": labels}}));
        PodSecurity::new(cluster)
    }

    fn pod(spec: Value) -> Value {
        let mut pod =
            json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    }

    async fn say(level: &str, spec: Value) -> String {
        match Ask::create("", "pods").run(&plugin(level), pod(spec)).await {
            Ok(_) => String::new(),
            Err(denied) => denied.message,
        }
    }

    fn context(value: Value) -> Value {
        json!({"containers": [{"name": "c", "securityContext": value}]})
    }

    #[tokio::test]
    async fn restricted_reads_like_upstream() {
        assert_eq!(
            say("restricted", json!({})).await,
            "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set \
             securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
             securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let good = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 1000,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, "seccompProfile": {"type": "RuntimeDefault"}});
        assert_eq!(say("restricted", context(good)).await, "");
    }

    #[tokio::test]
    async fn each_baseline_rule() {
        assert_eq!(say("baseline", json!({})).await, "");
        for (spec, broken) in [
            (
                json!({"hostNetwork": true, "hostPID": true}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                context(json!({"privileged": true})),
                "privileged (container \"c\" must not set securityContext.privileged=true)",
            ),
            (
                context(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_ADMIN"]}})),
                "non-default capabilities (container \"c\" must not include \"NET_ADMIN\", \"SYS_ADMIN\" in \
                 securityContext.capabilities.add)",
            ),
            (
                json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}),
                "hostPath volumes (volume \"h\")",
            ),
            (
                json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}),
                "hostPort (container \"c\" uses hostPort 80)",
            ),
            (
                context(json!({"seccompProfile": {"type": "Unconfined"}})),
                "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                context(json!({"procMount": "Unmasked"})),
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "root"}}}),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
            ),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
            (
                json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "1.2.3.4"}}}]}),
                "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"1.2.3.4\")",
            ),
        ] {
            assert_eq!(
                say("baseline", spec.clone()).await,
                format!("violates PodSecurity \"baseline:latest\": {broken}")
            );
            assert_eq!(say("privileged", spec).await, "");
        }
    }

    #[tokio::test]
    async fn restricted_adds_its_own() {
        let with = |extra: Value| {
            let mut good = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
            for (key, value) in extra.as_object().unwrap() {
                good[key] = value.clone();
            }
            context(good)
        };
        for (spec, broken) in [
            (with(json!({"runAsUser": 0})), "runAsUser=0 (container \"c\" must not set runAsUser=0)"),
            (
                with(json!({"runAsNonRoot": false})),
                "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)",
            ),
            (
                with(json!({"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}})),
                "unrestricted capabilities (container \"c\" must not include \"CHOWN\" in \
                 securityContext.capabilities.add)",
            ),
        ] {
            assert_eq!(
                say("restricted", spec).await,
                format!("violates PodSecurity \"restricted:latest\": {broken}")
            );
        }
        let mut volume = with(json!({}));
        volume["volumes"] = json!([{"name": "v", "nfs": {}}, {"name": "e", "emptyDir": {}}]);
        assert!(
            say("restricted", volume).await.contains("(volume \"v\" uses restricted volume type \"nfs\")")
        );
    }

    #[tokio::test]
    async fn workloads_are_warned_of_and_old_pods_left_alone() {
        let cluster = FakeCluster::new();
        let labels = json!({"pod-security.kubernetes.io/warn": "baseline", "pod-security.kubernetes.io/warn-version": "v1.30"});
        cluster.put("", "namespaces", json!({"metadata": {"name": "a", "labels": labels}}));
        let plugin = PodSecurity::new(cluster);
        let user = crate::authentication::UserInfo::default();
        let request = Request {
            operation: Operation::Create,
            group: "apps",
            version: "v1",
            kind: "Deployment",
            resource: "deployments",
            subresource: "",
            namespace: "a",
            name: "d",
            old: None,
            options: &Value::Null,
            user: &user,
            dry_run: false,
            versions: None,
            notes: Default::default(),
        };
        let deployment = json!({"spec": {"template": {"spec": {"hostNetwork": true}}}});
        assert_eq!(
            plugin.warnings(&request, &deployment),
            ["would violate PodSecurity \"baseline:v1.30\": host namespaces (hostNetwork=true)"]
        );
        let enforced = super::tests::plugin("baseline");
        let old = pod(json!({"hostNetwork": true}));
        let mut relabelled = old.clone();
        relabelled["metadata"]["labels"] = json!({"x": "y"});
        Ask::update("", "pods", old).run(&enforced, relabelled).await.unwrap();
    }
}
