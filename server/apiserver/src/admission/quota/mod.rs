//! ResourceQuota: a namespace uses no more than it was given, however many ask at once.
//!
//! Usage is the sum over the namespace's objects in the cache, plus what was admitted a moment ago and is not in
//! the cache yet. Checking and reserving happen under one lock, so concurrent requests cannot both take the last
//! unit. A reservation ends when its object shows, or after [`RESERVED_FOR`] if its write failed.
//!
//! [`QuotaController`] keeps `status.used` up to date for those who look.

mod controller;
mod usage;

pub use controller::QuotaController;

use super::support::{Resources, add_resources, read_resources};
use super::{Denied, Operation, Plugin, Request};
use crate::cache::Entry;
use crate::reader::{Reader, parse, text};
use async_trait::async_trait;
use machinery::quantity::{Format, Quantity};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use usage::{in_scope, unspecified};

const RESERVED_FOR: Duration = Duration::from_secs(5);

/// Resources measured by more than their number.
const MEASURED: [&str; 3] = ["pods", "services", "persistentvolumeclaims"];

/// What an object was found to use, by quota, as long as it has this revision.
type Known = HashMap<(String, String), (u64, Arc<Value>)>;

struct Reservation {
    group: String,
    resource: String,
    name: String,
    uid: String,
    object: Value,
    since: Instant,
}

#[derive(Default)]
struct Namespace {
    reservations: Vec<Reservation>,
    /// Parsed objects of measured resources.
    parsed: Known,
}

pub(super) struct ResourceQuota {
    reader: Arc<dyn Reader>,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

/// The group and resource a quota resource name is about; `None` for names that are about pods' resources.
fn counted(name: &str) -> Option<(String, String)> {
    if let Some(rest) = name.strip_prefix("count/") {
        let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
        return Some((group.into(), resource.into()));
    }
    let core = |r: &str| Some((String::new(), r.to_owned()));
    match name {
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => core(name),
        n if n == "services" || n.starts_with("services.") => core("services"),
        n if n == "persistentvolumeclaims"
            || n == "requests.storage"
            || n.contains(".storageclass.storage.k8s.io/") =>
        {
            core("persistentvolumeclaims")
        }
        _ => core("pods"),
    }
}

/// The resources whose objects count towards a quota.
fn subjects(hard: &Resources) -> BTreeSet<(String, String)> {
    hard.keys().filter_map(|name| counted(name)).collect()
}

fn zero() -> Quantity {
    Quantity::from_value(0, Format::DecimalSI)
}

/// Only what the quota limits, nothing of it missing.
fn masked(used: &Resources, hard: &Resources) -> Resources {
    hard.keys().map(|name| (name.clone(), used.get(name).copied().unwrap_or_else(zero))).collect()
}

/// Usage under one quota of the objects in the cache, except those `skip` names.
fn used(
    reader: &dyn Reader,
    parsed: &mut Known,
    namespace: &str,
    quota: &Value,
    hard: &Resources,
    skip: impl Fn(&str, &str, &Entry) -> bool,
) -> Resources {
    let mut sum = Resources::new();
    for (group, resource) in subjects(hard) {
        for entry in reader.list(&group, &resource, Some(namespace)) {
            if skip(&group, &resource, &entry) {
                continue;
            }
            if group.is_empty() && MEASURED.contains(&resource.as_str()) {
                let key = (resource.clone(), entry.name.to_string());
                let object = match parsed.get(&key) {
                    Some((revision, object)) if *revision == entry.revision => object.clone(),
                    _ => {
                        let object = Arc::new(parse(&entry));
                        parsed.insert(key, (entry.revision, object.clone()));
                        object
                    }
                };
                if in_scope(quota, &group, &resource, &object) {
                    add_resources(&mut sum, &usage::usage(&group, &resource, &object));
                }
            } else if in_scope(quota, &group, &resource, &Value::Null) {
                add_resources(&mut sum, &usage::usage(&group, &resource, &Value::Null));
            }
        }
    }
    masked(&sum, hard)
}

impl ResourceQuota {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, namespaces: Mutex::default() }
    }

    fn check(&self, r: &Request<'_>, object: &Value) -> Result<(), Denied> {
        let quotas = self.reader.list("", "resourcequotas", Some(r.namespace));
        if quotas.is_empty() {
            return Ok(());
        }
        let delta_of = |quota: &Value| -> Resources {
            let mut delta = Resources::new();
            if in_scope(quota, r.group, r.resource, object) {
                add_resources(&mut delta, &usage::usage(r.group, r.resource, object));
            }
            if let Some(old) = r.old.filter(|old| in_scope(quota, r.group, r.resource, old)) {
                for (name, quantity) in usage::usage(r.group, r.resource, old) {
                    delta.entry(name).or_insert_with(zero).sub(&quantity);
                }
            }
            delta
        };
        let mut namespaces = self.namespaces.lock();
        let state = namespaces.entry(r.namespace.to_owned()).or_default();
        let reader = &*self.reader;
        // What the cache shows needs no reservation any more.
        state.reservations.retain(|reserved| {
            let shows = reader
                .get(&reserved.group, &reserved.resource, r.namespace, &reserved.name)
                .is_some_and(|e| e.uid() == reserved.uid);
            !shows && reserved.since.elapsed() < RESERVED_FOR
        });
        let mut concerned = false;
        for entry in quotas {
            let quota = parse(&entry);
            let hard = read_resources(&quota["spec"]["hard"]);
            let delta: Resources = delta_of(&quota)
                .into_iter()
                .filter(|(name, q)| hard.contains_key(name) && !q.is_zero())
                .collect();
            let name = text(&quota, "/metadata/name");
            if r.resource == "pods" && r.group.is_empty() && in_scope(&quota, "", "pods", object) {
                let compute: Resources = hard.iter().map(|(k, v)| (k.clone(), *v)).collect();
                if let Some(missing) = unspecified(object, &compute) {
                    return Err(Denied::forbidden(format!("failed quota: {name}: must specify {missing}")));
                }
            }
            if delta.is_empty() || delta.values().all(|q| q.sign() <= 0) {
                continue;
            }
            concerned = true;
            let Namespace { reservations, parsed } = &mut *state;
            let mut used = used(reader, parsed, r.namespace, &quota, &hard, |_, _, _| false);
            for reserved in reservations.iter() {
                if in_scope(&quota, &reserved.group, &reserved.resource, &reserved.object) {
                    let more = usage::usage(&reserved.group, &reserved.resource, &reserved.object);
                    for (name, quantity) in more {
                        if let Some(sum) = used.get_mut(&name) {
                            sum.add(&quantity);
                        }
                    }
                }
            }
            let mut over = Vec::new();
            for (resource, quantity) in &delta {
                let mut total = used.get(resource).copied().unwrap_or_else(zero);
                total.add(quantity);
                if quantity.sign() > 0 && hard.get(resource).is_some_and(|limit| total > *limit) {
                    over.push(resource.clone());
                }
            }
            if !over.is_empty() {
                let list = |of: &Resources| {
                    let parts = over
                        .iter()
                        .map(|name| format!("{name}={}", of.get(name).copied().unwrap_or_else(zero)));
                    parts.collect::<Vec<_>>().join(",")
                };
                return Err(Denied::forbidden(format!(
                    "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                    list(&delta),
                    list(&used),
                    list(&hard)
                )));
            }
        }
        if concerned && r.operation == Operation::Create && !r.dry_run {
            state.reservations.push(Reservation {
                group: r.group.into(),
                resource: r.resource.into(),
                name: text(object, "/metadata/name").into(),
                uid: text(object, "/metadata/uid").into(),
                object: object.clone(),
                since: Instant::now(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        let measured = r.group.is_empty() && MEASURED.contains(&r.resource);
        let unlimited = r.group.is_empty() && matches!(r.resource, "namespaces" | "events");
        if r.namespace.is_empty() || unlimited {
            return false;
        }
        match r.operation {
            Operation::Create => r.subresource.is_empty(),
            Operation::Update => measured && matches!(r.subresource, "" | "resize"),
            _ => false,
        }
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        object.map_or(Ok(()), |object| self.check(r, object))
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    fn world(spec: Value) -> (Arc<FakeCluster>, ResourceQuota) {
        let cluster = FakeCluster::new();
        cluster.put("", "resourcequotas", json!({"metadata": {"namespace": "a", "name": "q"}, "spec": spec}));
        (cluster.clone(), ResourceQuota::new(cluster))
    }

    fn pod(n: usize, cpu: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": format!("p{n}"), "uid": format!("u{n}")},
               "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hundred_at_once_against_ten_leave_exactly_ten() {
        let (cluster, plugin) = world(json!({"hard": {"pods": "10"}}));
        let plugin = Arc::new(plugin);
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let (cluster, plugin) = (cluster.clone(), plugin.clone());
                tokio::spawn(async move {
                    let admitted = Ask::create("", "pods").run(&*plugin, pod(n, "1")).await.is_ok();
                    // The cache is told a while later.
                    tokio::task::yield_now().await;
                    if admitted {
                        cluster.put("", "pods", pod(n, "1"));
                    }
                    admitted
                })
            })
            .collect();
        let mut admitted = 0;
        for task in tasks {
            admitted += usize::from(task.await.unwrap());
        }
        assert_eq!(admitted, 10);
        let error = Ask::create("", "pods").run(&*plugin, pod(1000, "1")).await.unwrap_err();
        assert_eq!(error.message, "exceeded quota: q, requested: pods=1, used: pods=10, limited: pods=10");
        cluster.remove("", "pods", "a", cluster.list("", "pods", Some("a"))[0].name.to_string().as_str());
        Ask::create("", "pods").run(&*plugin, pod(1001, "1")).await.unwrap();
    }

    #[tokio::test]
    async fn compute_resources_must_be_said_and_fit() {
        let (cluster, plugin) = world(json!({"hard": {"requests.cpu": "2", "limits.memory": "1Gi"}}));
        let ask = Ask::create("", "pods");
        let error = ask.run(&plugin, pod(1, "1")).await.unwrap_err();
        assert_eq!(error.message, "failed quota: q: must specify limits.memory for: c");
        cluster.put(
            "",
            "resourcequotas",
            json!({"metadata": {"namespace": "a", "name": "q"}, "spec": {"hard": {"requests.cpu": "2"}}}),
        );
        ask.run(&plugin, pod(1, "1500m")).await.unwrap();
        cluster.put("", "pods", pod(1, "1500m"));
        let error = ask.run(&plugin, pod(2, "600m")).await.unwrap_err();
        assert_eq!(
            error.message,
            "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=1500m, limited: requests.cpu=2"
        );
        // Ended pods use nothing.
        let mut ended = pod(1, "1500m");
        ended["status"] = json!({"phase": "Succeeded"});
        cluster.put("", "pods", ended);
        ask.run(&plugin, pod(2, "600m")).await.unwrap();
    }

    #[tokio::test]
    async fn counts_claims_and_scopes() {
        let (_, plugin) = world(
            json!({"hard": {"count/deployments.apps": "1", "configmaps": "1", "requests.storage": "1Gi",
            "services.nodeports": "1"}}),
        );
        let object = |n: &str| json!({"metadata": {"namespace": "a", "name": n, "uid": n}});
        for (group, resource) in [("apps", "deployments"), ("", "configmaps")] {
            Ask::create(group, resource).run(&plugin, object("one")).await.unwrap();
            assert!(Ask::create(group, resource).run(&plugin, object("two")).await.is_err(), "{resource}");
        }
        Ask::create("", "secrets").run(&plugin, object("free")).await.unwrap();
        let mut claim = object("c");
        claim["spec"] = json!({"resources": {"requests": {"storage": "2Gi"}}});
        assert!(Ask::create("", "persistentvolumeclaims").run(&plugin, claim).await.is_err());
        let mut service = object("s");
        service["spec"] = json!({"type": "NodePort", "ports": [{}, {}]});
        assert!(Ask::create("", "services").run(&plugin, service).await.is_err());
        let (_, plugin) = world(json!({"hard": {"pods": "0"}, "scopes": ["BestEffort"]}));
        Ask::create("", "pods").run(&plugin, pod(1, "1")).await.unwrap();
        let mut idle = pod(2, "1");
        idle["spec"]["containers"][0]["resources"] = json!({});
        assert!(Ask::create("", "pods").run(&plugin, idle).await.is_err());
    }
}
