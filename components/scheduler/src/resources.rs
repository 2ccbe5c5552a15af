//! Amounts of resources, as whole numbers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Raw;
use machinery::quantity::Quantity;

/// What a container that requests nothing counts as when nodes are scored.
pub const DEFAULT_MILLI_CPU: i64 = 100;
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    pub scalars: BTreeMap<String, i64>,
}

/// `None` for text that is no quantity; the API server lets none through.
fn milli(raw: &Raw) -> i64 {
    Quantity::parse(&raw.0).map_or(0, |q| q.milli_value())
}

fn whole(raw: &Raw) -> i64 {
    Quantity::parse(&raw.0).map_or(0, |q| q.value())
}

impl Resources {
    pub fn parse(list: Option<&BTreeMap<String, Raw>>) -> Self {
        let mut r = Self::default();
        for (name, raw) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => r.milli_cpu = milli(raw),
                "memory" => r.memory = whole(raw),
                "ephemeral-storage" => r.ephemeral = whole(raw),
                "pods" => {}
                _ => {
                    r.scalars.insert(name.clone(), whole(raw));
                }
            }
        }
        r
    }

    pub fn add(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral = self.ephemeral.saturating_add(other.ephemeral);
        for (name, n) in &other.scalars {
            let slot = self.scalars.entry(name.clone()).or_insert(0);
            *slot = slot.saturating_add(*n);
        }
    }

    pub fn sub(&mut self, other: &Self) {
        self.milli_cpu -= other.milli_cpu;
        self.memory -= other.memory;
        self.ephemeral -= other.ephemeral;
        for (name, n) in &other.scalars {
            if let Some(slot) = self.scalars.get_mut(name) {
                *slot -= n;
                if *slot == 0 {
                    self.scalars.remove(name);
                }
            }
        }
    }

    pub fn max(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, n) in &other.scalars {
            let slot = self.scalars.entry(name.clone()).or_insert(0);
            *slot = (*slot).max(*n);
        }
    }

    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral == 0
            && self.scalars.values().all(|n| *n == 0)
    }
}

fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// What the pod needs: the larger of all containers with sidecars and each init container with the sidecars before it,
/// or what the pod as a whole says, plus overhead. `each` reads one container.
fn total(pod: &Pod, each: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut running = Resources::default();
    for c in &spec.containers {
        running.add(&each(c));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for c in spec.init_containers.iter().flatten() {
        let own = each(c);
        if is_sidecar(c) {
            running.add(&own);
            sidecars.add(&own);
            peak.max(&sidecars);
        } else {
            let mut with = sidecars.clone();
            with.add(&own);
            peak.max(&with);
        }
    }
    running.max(&peak);
    if let Some(requests) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let whole = Resources::parse(Some(requests));
        if requests.contains_key("cpu") {
            running.milli_cpu = whole.milli_cpu;
        }
        if requests.contains_key("memory") {
            running.memory = whole.memory;
        }
        running.scalars.extend(whole.scalars);
    }
    running.add(&Resources::parse(spec.overhead.as_ref()));
    running
}

/// What the pod requests.
pub fn requests(pod: &Pod) -> Resources {
    total(pod, |c| Resources::parse(c.resources.as_ref().and_then(|r| r.requests.as_ref())))
}

/// CPU and memory that the pod counts as for scoring: containers that request nothing count as something.
pub fn scoring_requests(pod: &Pod) -> (i64, i64) {
    let r = total(pod, |c| {
        let list = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mut r = Resources::parse(list);
        if list.is_none_or(|l| !l.contains_key("cpu")) {
            r.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if list.is_none_or(|l| !l.contains_key("memory")) {
            r.memory = DEFAULT_MEMORY;
        }
        r
    });
    (r.milli_cpu, r.memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
    use proptest::prelude::*;

    fn container(cpu: i64, sidecar: bool) -> Container {
        Container {
            restart_policy: sidecar.then(|| "Always".into()),
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_owned(), Raw(format!("{cpu}m")))].into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pod(main: &[i64], init: &[(i64, bool)]) -> Pod {
        Pod {
            spec: Some(PodSpec {
                containers: main.iter().map(|n| container(*n, false)).collect(),
                init_containers: Some(init.iter().map(|(n, s)| container(*n, *s)).collect()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn init_containers_and_sidecars_follow_upstream() {
        assert_eq!(requests(&pod(&[100, 200], &[])).milli_cpu, 300);
        assert_eq!(requests(&pod(&[100], &[(500, false), (50, false)])).milli_cpu, 500);
        assert_eq!(requests(&pod(&[100], &[(50, true), (500, false)])).milli_cpu, 550);
        assert_eq!(requests(&pod(&[100], &[(500, false), (50, true)])).milli_cpu, 500);
        assert_eq!(requests(&pod(&[100], &[(50, true), (60, true)])).milli_cpu, 210);
    }

    proptest! {
        #[test]
        fn adding_and_taking_away_is_nothing(a in any::<(u32, u32, u32)>(), b in any::<(u32, u32, u32)>()) {
            let make = |t: (u32, u32, u32)| Resources {
                milli_cpu: t.0.into(), memory: t.1.into(), ephemeral: 0,
                scalars: [("x/y".to_owned(), i64::from(t.2) + 1)].into(),
            };
            let (a, b) = (make(a), make(b));
            let mut sum = a.clone();
            sum.add(&b);
            sum.sub(&b);
            prop_assert_eq!(sum, a);
        }
    }
}
