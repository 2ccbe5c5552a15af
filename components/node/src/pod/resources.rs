//! From resource requirements to quality of service, cgroups and the OOM score.

use crate::quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

type List = BTreeMap<String, Quantity>;

fn requests(r: Option<&ResourceRequirements>) -> Option<&List> {
    r?.requests.as_ref()
}

fn limits(r: Option<&ResourceRequirements>) -> Option<&List> {
    r?.limits.as_ref()
}

/// What is asked for, a limit standing in for a missing request.
pub fn request_of(r: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    requests(r).and_then(|l| l.get(name)).or_else(|| limits(r).and_then(|l| l.get(name))).cloned()
}

pub fn limit_of(r: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    limits(r).and_then(|l| l.get(name)).cloned()
}

/// The class the API server should have written already; computed where it has not.
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    compute_qos(spec)
}

fn compute_qos(spec: &PodSpec) -> Qos {
    let nonzero = |q: &Quantity| quantity::milli(q) > 0;
    let all: Vec<Option<&ResourceRequirements>> = if spec.resources.is_some() {
        vec![spec.resources.as_ref()]
    } else {
        containers(spec).map(|c| c.resources.as_ref()).collect()
    };
    let asks = |r: &Option<&ResourceRequirements>| {
        ["cpu", "memory"].iter().any(|n| {
            requests(*r).and_then(|l| l.get(*n)).is_some_and(nonzero)
                || limits(*r).and_then(|l| l.get(*n)).is_some_and(nonzero)
        })
    };
    if !all.iter().any(asks) {
        return Qos::BestEffort;
    }
    let guaranteed = all.iter().all(|r| {
        ["cpu", "memory"].iter().all(|n| {
            let limit = limit_of(*r, n);
            let request = request_of(*r, n);
            matches!((limit, request), (Some(l), Some(q)) if nonzero(&l) && quantity::milli(&l) == quantity::milli(&q))
        })
    });
    if guaranteed { Qos::Guaranteed } else { Qos::Burstable }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

pub fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// What the scheduler counts: main containers and sidecars together, or the hungriest init container with the sidecars
/// before it; pod-level requests replace the sum; overhead comes on top.
pub fn pod_request(spec: &PodSpec, name: &str) -> i64 {
    let read: fn(&Quantity) -> i64 = if name == "cpu" { quantity::milli } else { quantity::value };
    let of = |c: &Container| requests(c.resources.as_ref()).and_then(|l| l.get(name)).map_or(0, read);
    let mut sum: i64 = spec.containers.iter().map(of).sum();
    let mut sidecars = 0;
    let mut peak = 0;
    for c in spec.init_containers.iter().flatten() {
        if is_sidecar(c) {
            sidecars += of(c);
            sum += of(c);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(of(c) + sidecars);
        }
    }
    let mut total = sum.max(peak);
    if let Some(q) = requests(spec.resources.as_ref()).and_then(|l| l.get(name)) {
        total = read(q);
    }
    total + spec.overhead.as_ref().and_then(|o| o.get(name)).map_or(0, read)
}

/// The whole pod's limit, if every container has one.
fn pod_limit(spec: &PodSpec, name: &str) -> Option<i64> {
    let read: fn(&Quantity) -> i64 = if name == "cpu" { quantity::milli } else { quantity::value };
    let overhead = spec.overhead.as_ref().and_then(|o| o.get(name)).map_or(0, read);
    if let Some(q) = limits(spec.resources.as_ref()).and_then(|l| l.get(name)) {
        return Some(read(q) + overhead);
    }
    let of = |c: &Container| limits(c.resources.as_ref()).and_then(|l| l.get(name)).map(read);
    let mut sum = 0;
    for c in &spec.containers {
        sum += of(c)?;
    }
    let mut sidecars = 0;
    let mut peak = 0;
    for c in spec.init_containers.iter().flatten() {
        let limit = of(c)?;
        if is_sidecar(c) {
            sidecars += limit;
            sum += limit;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(limit + sidecars);
        }
    }
    Some(sum.max(peak) + overhead)
}

pub fn shares(milli_cpu: i64) -> u64 {
    let s = if milli_cpu == 0 { MIN_SHARES } else { (milli_cpu * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) };
    s.unsigned_abs()
}

fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { (milli_cpu * PERIOD_US / 1000).max(MIN_QUOTA_US) }
}

/// Upstream's formula: the smaller the share of the machine's memory a burstable container asked for, the sooner it
/// is killed.
pub fn oom_score_adj(pod: &Pod, c: &Container, memory_capacity: u64) -> i64 {
    let class = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    if class >= 2_000_000_000 {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let capacity = i64::try_from(memory_capacity.max(1)).unwrap_or(i64::MAX);
            let request =
                requests(c.resources.as_ref()).and_then(|l| l.get("memory")).map_or(0, quantity::value);
            let adj = i64::try_from(1000 - (1000 * i128::from(request)) / i128::from(capacity)).unwrap_or(0);
            if adj < 3 {
                return 3;
            }
            if adj == 1000 { 999 } else { adj }
        }
    }
}

/// The container's own cgroup.
pub fn container_resources(pod: &Pod, c: &Container, memory_capacity: u64) -> runtime::Resources {
    let r = c.resources.as_ref();
    let cpu_limit = limit_of(r, "cpu").map_or(0, |q| quantity::milli(&q));
    let cpu_request = requests(r)
        .and_then(|l| l.get("cpu"))
        .map_or(if cpu_limit > 0 { cpu_limit } else { 0 }, quantity::milli);
    runtime::Resources {
        cpu_shares: shares(cpu_request),
        cpu_period_us: if cpu_limit > 0 { PERIOD_US.unsigned_abs() } else { 0 },
        cpu_quota_us: quota(cpu_limit),
        memory_limit_bytes: limit_of(r, "memory").map_or(0, |q| quantity::value(&q)),
        oom_score_adj: oom_score_adj(pod, c, memory_capacity),
        ..Default::default()
    }
}

/// The pod's cgroup.
pub fn pod_resources(spec: &PodSpec) -> runtime::Resources {
    let cpu_limit = pod_limit(spec, "cpu").unwrap_or(0);
    runtime::Resources {
        cpu_shares: shares(pod_request(spec, "cpu")),
        cpu_period_us: if cpu_limit > 0 { PERIOD_US.unsigned_abs() } else { 0 },
        cpu_quota_us: quota(cpu_limit),
        memory_limit_bytes: pod_limit(spec, "memory").unwrap_or(0),
        ..Default::default()
    }
}

pub fn cgroup_parent(qos: Qos, uid: &str) -> String {
    match qos {
        Qos::Guaranteed => format!("kubepods/pod{uid}"),
        Qos::Burstable => format!("kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let list = |l: &[(&str, &str)]| {
            (!l.is_empty()).then(|| l.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).into()))).collect())
        };
        Container {
            name: "c".into(),
            resources: Some(ResourceRequirements {
                requests: list(requests),
                limits: list(limits),
                claims: None,
            }),
            ..Default::default()
        }
    }

    fn pod(containers: Vec<Container>) -> Pod {
        Pod { spec: Some(PodSpec { containers, ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn quality_of_service() {
        assert_eq!(qos(&pod(vec![container(&[], &[])])), Qos::BestEffort);
        assert_eq!(qos(&pod(vec![container(&[("cpu", "1")], &[])])), Qos::Burstable);
        assert_eq!(qos(&pod(vec![container(&[], &[("cpu", "1"), ("memory", "1Gi")])])), Qos::Guaranteed);
        let mixed = pod(vec![container(&[], &[("cpu", "1"), ("memory", "1Gi")]), container(&[], &[])]);
        assert_eq!(qos(&mixed), Qos::Burstable);
    }

    #[test]
    fn oom_scores() {
        let p = pod(vec![container(&[("memory", "1Gi")], &[])]);
        let c = &p.spec.as_ref().expect("spec").containers[0];
        assert_eq!(oom_score_adj(&p, c, 4 << 30), 750);
        let p = pod(vec![container(&[], &[])]);
        assert_eq!(oom_score_adj(&p, &p.spec.as_ref().expect("spec").containers[0], 4 << 30), 1000);
    }

    #[test]
    fn cgroup_numbers() {
        let p = pod(vec![container(&[("cpu", "250m")], &[("cpu", "500m"), ("memory", "64Mi")])]);
        let r = container_resources(&p, &p.spec.as_ref().expect("spec").containers[0], 1 << 30);
        assert_eq!((r.cpu_shares, r.cpu_quota_us, r.cpu_period_us), (256, 50_000, 100_000));
        assert_eq!(r.memory_limit_bytes, 64 << 20);
        assert_eq!(shares(0), 2);
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let mut p = pod(vec![container(&[("cpu", "100m")], &[])]);
        let spec = p.spec.as_mut().expect("spec");
        let mut sidecar = container(&[("cpu", "50m")], &[]);
        sidecar.restart_policy = Some("Always".into());
        spec.init_containers = Some(vec![sidecar, container(&[("cpu", "300m")], &[])]);
        assert_eq!(pod_request(spec, "cpu"), 350);
    }
}
