//! The status of resource quotas: how much of each hard limit is used.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::controller::Outcome;
use client::objects::{is_terminal, namespace};
use client::{Change, Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, ResourceQuotaStatus, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use machinery::quantity::{Format, Quantity};

use crate::served::discover;
use crate::{Context, Error, synced};

const NAME: &str = "resourcequota-controller";

type Amounts = BTreeMap<String, Quantity>;

struct Loop {
    client: Client,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    replication: Informer<ReplicationController>,
    queue: WorkQueue<ObjectKey>,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        quotas: cx.informers.informer(),
        pods: cx.informers.informer(),
        services: cx.informers.informer(),
        claims: cx.informers.informer(),
        replication: cx.informers.informer(),
        queue: WorkQueue::new().named("resourcequota_primary"),
    });
    let c = &controller;
    if !synced!(cx, c.quotas, c.pods, c.services, c.claims, c.replication) {
        return Ok(());
    }
    let this = c.clone();
    c.quotas.subscribe(move |change| this.queue.add(ObjectKey::of(&**change.object())));
    let this = c.clone();
    c.pods.subscribe(move |change| {
        if let Change::Updated { old, new } = change
            && is_terminal(old) == is_terminal(new)
            && old.spec == new.spec
        {
            return;
        }
        this.wake(namespace(&change.object().metadata));
    });
    let this = c.clone();
    c.services.subscribe(move |change| this.wake(namespace(&change.object().metadata)));
    let this = c.clone();
    c.claims.subscribe(move |change| this.wake(namespace(&change.object().metadata)));
    let this = c.clone();
    c.replication.subscribe(move |change| this.wake(namespace(&change.object().metadata)));
    let this = c.clone();
    client::controller::run(NAME, 2, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

impl Loop {
    fn wake(&self, namespace: &str) {
        for quota in self.quotas.namespace(namespace) {
            self.queue.add(ObjectKey::of(&*quota));
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(quota) = self.quotas.get(key) else { return Ok(Outcome::DONE) };
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let mut used = Amounts::new();
        for pod in self.pods.namespace(&key.namespace) {
            if in_scopes(&quota, &pod) {
                add(&mut used, pod_usage(&pod));
            }
        }
        for service in self.services.namespace(&key.namespace) {
            add(&mut used, service_usage(&service));
        }
        for claim in self.claims.namespace(&key.namespace) {
            add(&mut used, claim_usage(&claim));
        }
        count(&mut used, "replicationcontrollers", self.replication.namespace(&key.namespace).len());
        self.count_others(key, &hard, &mut used).await?;
        let zero = || Quantity::from_value(0, Format::DecimalSI);
        let used: BTreeMap<String, Raw> = hard
            .keys()
            .map(|k| (k.clone(), Raw(used.get(k).copied().unwrap_or_else(zero).to_string())))
            .collect();
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
        if !same(quota.status.as_ref(), &status) {
            let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &key.namespace);
            let object = ResourceQuota { status: Some(status), ..(*quota).clone() };
            client::errors::ignore_not_found(client::patch::replace_status(&api, &object).await)
                .map_err(Error::Api)?;
        }
        Ok(Outcome::DONE)
    }

    /// Kinds that nobody caches here are counted by a list of their metadata, and only when a limit names them.
    async fn count_others(
        &self,
        key: &ObjectKey,
        hard: &BTreeMap<String, Raw>,
        used: &mut Amounts,
    ) -> Result<(), Error> {
        let known = ["pods", "services", "persistentvolumeclaims", "replicationcontrollers"];
        let mut served = None;
        for limit in hard.keys() {
            let (plural, group) = match limit.strip_prefix("count/") {
                Some(rest) => rest.split_once('.').unwrap_or((rest, "")),
                None if matches!(limit.as_str(), "configmaps" | "secrets" | "resourcequotas") => {
                    (limit.as_str(), "")
                }
                None => continue,
            };
            if group.is_empty() && known.contains(&plural) {
                let n = used.get(plural).copied();
                used.extend(n.map(|n| (limit.clone(), n)));
                continue;
            }
            let list = match &served {
                Some(list) => Arc::clone(list),
                None => served.insert(discover(&self.client).await?.0).clone(),
            };
            let Some(found) = list.iter().find(|s| s.resource.plural == plural && s.resource.group == group)
            else {
                continue;
            };
            let gvk = GroupVersionKind::gvk(group, &found.resource.version, &found.resource.kind);
            let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
            let objects = api.list_metadata(&ListParams::default()).await.map_err(Error::Api)?;
            count(used, limit, objects.items.len());
        }
        Ok(())
    }
}

/// Equal as amounts, not as text.
fn same(old: Option<&ResourceQuotaStatus>, new: &ResourceQuotaStatus) -> bool {
    let parse = |m: &Option<BTreeMap<String, Raw>>| -> BTreeMap<String, i64> {
        let all = m.iter().flatten();
        all.filter_map(|(k, v)| Quantity::parse(&v.0).ok().map(|q| (k.clone(), q.milli_value()))).collect()
    };
    old.is_some_and(|o| parse(&o.hard) == parse(&new.hard) && parse(&o.used) == parse(&new.used))
}

fn count(used: &mut Amounts, what: &str, n: usize) {
    let n = Quantity::from_value(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSI);
    match used.get_mut(what) {
        Some(sum) => sum.add(&n),
        None => drop(used.insert(what.to_owned(), n)),
    }
}

fn add(used: &mut Amounts, more: Amounts) {
    for (what, n) in more {
        match used.get_mut(&what) {
            Some(sum) => sum.add(&n),
            None => drop(used.insert(what, n)),
        }
    }
}

fn is_best_effort(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) == Some("BestEffort") || {
        let all = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
        all.map(|c| c.resources.as_ref()).all(|r| {
            r.is_none_or(|r| {
                r.requests.as_ref().is_none_or(BTreeMap::is_empty)
                    && r.limits.as_ref().is_none_or(BTreeMap::is_empty)
            })
        })
    }
}

fn in_scope(scope: &str, pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let terminating = spec.and_then(|s| s.active_deadline_seconds).is_some();
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => spec.and_then(|s| s.priority_class_name.as_ref()).is_some_and(|n| !n.is_empty()),
        _ => true,
    }
}

fn in_scopes(quota: &ResourceQuota, pod: &Pod) -> bool {
    let Some(spec) = &quota.spec else { return true };
    let plain = spec.scopes.iter().flatten().all(|s| in_scope(s, pod));
    let selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten()).all(|e| {
        let class =
            pod.spec.as_ref().and_then(|s| s.priority_class_name.as_deref()).filter(|n| !n.is_empty());
        let listed = || class.is_some_and(|c| e.values.iter().flatten().any(|v| v == c));
        match e.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "DoesNotExist" => !in_scope(&e.scope_name, pod),
            _ => in_scope(&e.scope_name, pod),
        }
    });
    plain && selected
}

/// What a pod that has not ended uses.
fn pod_usage(pod: &Pod) -> Amounts {
    let mut used = Amounts::new();
    count(&mut used, "count/pods", 1);
    if is_terminal(pod) {
        return used;
    }
    count(&mut used, "pods", 1);
    let Some(spec) = &pod.spec else { return used };
    for (prefix, limits) in [("requests.", false), ("limits.", true)] {
        let of = |c: &Container| -> Amounts {
            let r = c.resources.as_ref();
            let list =
                if limits { r.and_then(|r| r.limits.as_ref()) } else { r.and_then(|r| r.requests.as_ref()) };
            list.into_iter()
                .flatten()
                .filter_map(|(k, v)| Some((k.clone(), Quantity::parse(&v.0).ok()?)))
                .collect()
        };
        let mut sum = Amounts::new();
        let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
        let init = || spec.init_containers.iter().flatten();
        spec.containers.iter().chain(init().filter(sidecar)).for_each(|c| add(&mut sum, of(c)));
        for c in init().filter(|c| !sidecar(c)) {
            for (what, n) in of(c) {
                if sum.get(&what).is_none_or(|have| have.milli_value() < n.milli_value()) {
                    sum.insert(what, n);
                }
            }
        }
        for (what, n) in sum {
            if !limits && matches!(what.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                used.insert(what.clone(), n);
            }
            used.insert(format!("{prefix}{what}"), n);
        }
    }
    used
}

fn service_usage(service: &Service) -> Amounts {
    let mut used = Amounts::new();
    count(&mut used, "services", 1);
    let Some(spec) = &service.spec else { return used };
    let ports = spec.ports.as_ref().map_or(0, Vec::len);
    match spec.type_.as_deref() {
        Some("NodePort") => count(&mut used, "services.nodeports", ports),
        Some("LoadBalancer") => {
            count(&mut used, "services.loadbalancers", 1);
            if spec.allocate_load_balancer_node_ports != Some(false) {
                count(&mut used, "services.nodeports", ports);
            }
        }
        _ => {}
    }
    used
}

fn claim_usage(claim: &PersistentVolumeClaim) -> Amounts {
    let mut used = Amounts::new();
    count(&mut used, "persistentvolumeclaims", 1);
    let Some(spec) = &claim.spec else { return used };
    let storage = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
    let storage = storage.and_then(|q| Quantity::parse(&q.0).ok());
    if let Some(class) = &spec.storage_class_name {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        count(&mut used, &format!("{prefix}/persistentvolumeclaims"), 1);
        used.extend(storage.map(|q| (format!("{prefix}/requests.storage"), q)));
    }
    used.extend(storage.map(|q| ("requests.storage".to_owned(), q)));
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

    fn container(cpu: &str) -> Container {
        Container {
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_owned(), Raw(cpu.into()))].into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_uses_the_larger_of_its_phases() {
        let pod = Pod {
            spec: Some(PodSpec {
                containers: vec![container("100m"), container("200m")],
                init_containers: Some(vec![container("1")]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let used = pod_usage(&pod);
        assert_eq!(used["requests.cpu"].milli_value(), 1000);
        assert_eq!(used["cpu"].milli_value(), 1000);
        assert_eq!(used["pods"].value(), 1);
        assert!(!is_best_effort(&pod));
        assert!(is_best_effort(&Pod::default()));
    }

    #[test]
    fn amounts_are_compared_not_their_texts() {
        let status = |t: &str| ResourceQuotaStatus {
            hard: Some([("cpu".to_owned(), Raw(t.into()))].into()),
            used: None,
        };
        assert!(same(Some(&status("1000m")), &status("1")));
        assert!(!same(Some(&status("1")), &status("2")));
        assert!(!same(None, &status("2")));
    }
}
