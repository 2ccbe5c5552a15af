//! Creating and deleting the pods of a controller: slow start, ranking, events.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use client::EventRecorder;
use client::objects::{self, created, entry, is_ready, node_name, phase, ready_since};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Client, Resource};

/// At most so many creations or deletions in one pass.
pub const BURST: usize = 500;

/// The pod that `template` describes, owned by `owner`.
pub fn pod_of(template: &PodTemplateSpec, owner_name: &str, reference: OwnerReference) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    let mut prefix = format!("{owner_name}-");
    // A prefix that could not be a name would fail validation; upstream then leaves the dash out.
    if owner_name.ends_with('.') || owner_name.ends_with('-') {
        prefix = owner_name.to_owned();
    }
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![reference]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates a pod and says so, or why not, in an event about `owner`.
pub async fn create_pod<O>(
    client: &Client,
    recorder: &EventRecorder,
    owner: &O,
    namespace: &str,
    pod: &Pod,
) -> Result<Pod, kube::Error>
where
    O: Resource<DynamicType = ()>,
{
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match api.create(&PostParams::default(), pod).await {
        Ok(made) => {
            recorder.normal(
                owner,
                "SuccessfulCreate",
                format!("Created pod: {}", objects::name(&made.metadata)),
            );
            Ok(made)
        }
        Err(error) => {
            if !client::errors::is_namespace_terminating(&error) {
                recorder.warning(owner, "FailedCreate", format!("Error creating: {}", message(&error)));
            }
            Err(error)
        }
    }
}

/// Deletes a pod and says so in an event about `owner`. `Ok(false)` when it was gone already.
pub async fn delete_pod<O>(
    client: &Client,
    recorder: &EventRecorder,
    owner: &O,
    pod: &Pod,
) -> Result<bool, kube::Error>
where
    O: Resource<DynamicType = ()>,
{
    let api: Api<Pod> = Api::namespaced(client.clone(), objects::namespace(&pod.metadata));
    let name = objects::name(&pod.metadata);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..Default::default()
    };
    match api.delete(name, &params).await {
        Ok(_) => {
            recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"));
            Ok(true)
        }
        Err(e) if client::errors::is_not_found(&e) || client::errors::is_conflict(&e) => Ok(false),
        Err(error) => {
            recorder.warning(owner, "FailedDelete", format!("Error deleting: {}", message(&error)));
            Err(error)
        }
    }
}

/// The server's words, without the wrapping of the client library.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Calls `each` `count` times in batches of 1, 2, 4, ... and stops after the first batch with a failure, so that a
/// quota or a bad template costs one request, not hundreds. Returns the successes and the first failure.
pub async fn slow_start<F, Fut, E>(count: usize, each: F) -> (usize, Option<E>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let mut done = 0;
    let mut batch = 1.min(count);
    let mut next = 0;
    while batch > 0 {
        let results = futures::future::join_all((next..next + batch).map(&each)).await;
        next += batch;
        let mut failure = None;
        for result in results {
            match result {
                Ok(()) => done += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (done, failure);
        }
        batch = (batch * 2).min(count - next);
    }
    (done, None)
}

/// How many active pods, of `related`, each node has.
pub fn crowding(related: &[Arc<Pod>]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for pod in related.iter().filter(|p| objects::is_active(p)) {
        if let Some(node) = node_name(pod) {
            *counts.entry(node).or_insert(0) += 1;
        }
    }
    counts
}

/// `Less` when `a` should be deleted before `b`.
pub fn deletion_order(a: &Pod, b: &Pod, crowd: &HashMap<&str, usize>, now: Timestamp) -> Ordering {
    let bound = |p: &Pod| node_name(p).is_some();
    let stage = |p: &Pod| match phase(p) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    let rank = |p: &Pod| node_name(p).and_then(|n| crowd.get(n)).copied().unwrap_or(0);
    bound(a)
        .cmp(&bound(b))
        .then_with(|| stage(a).cmp(&stage(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| age(now, ready_since(a)).cmp(&age(now, ready_since(b))))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| age(now, Some(created(&a.metadata))).cmp(&age(now, Some(created(&b.metadata)))))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn deletion_cost(pod: &Pod) -> i32 {
    entry(pod.metadata.annotations.as_ref(), "controller.kubernetes.io/pod-deletion-cost")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The logarithm of an age: pods of about the same age are equals.
fn age(now: Timestamp, since: Option<Timestamp>) -> u32 {
    let nanos = since.map_or(0, |t| now.as_nanosecond().saturating_sub(t.as_nanosecond()).max(0));
    128 - u32::min(128, u128::try_from(nanos).unwrap_or(0).leading_zeros())
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    statuses.map(|c| c.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};
    use parking_lot::Mutex;
    use proptest::prelude::*;

    fn pod(node: Option<u8>, phase: u8, ready: bool, cost: i8, id: u8) -> Pod {
        let phase = ["Pending", "Unknown", "Running"][usize::from(phase % 3)];
        Pod {
            metadata: ObjectMeta {
                uid: Some(id.to_string()),
                annotations: Some(
                    [("controller.kubernetes.io/pod-deletion-cost".to_owned(), cost.to_string())].into(),
                ),
                ..Default::default()
            },
            spec: Some(PodSpec { node_name: node.map(|n| n.to_string()), ..Default::default() }),
            status: Some(PodStatus {
                phase: Some(phase.into()),
                conditions: ready.then(|| {
                    vec![PodCondition { type_: "Ready".into(), status: "True".into(), ..Default::default() }]
                }),
                ..Default::default()
            }),
        }
    }

    proptest! {
        /// A total order: sorting must not panic, and swapping the arguments mirrors the answer.
        #[test]
        fn deletion_order_is_total(a in any::<(Option<u8>, u8, bool, i8, u8)>(), b in any::<(Option<u8>, u8, bool, i8, u8)>()) {
            let (a, b) = (pod(a.0, a.1, a.2, a.3, a.4), pod(b.0, b.1, b.2, b.3, b.4));
            let pods = [Arc::new(a.clone()), Arc::new(b.clone())];
            let crowd = crowding(&pods);
            let now = Timestamp::now();
            prop_assert_eq!(deletion_order(&a, &b, &crowd, now), deletion_order(&b, &a, &crowd, now).reverse());
        }

        #[test]
        fn slow_start_stops_after_the_first_bad_batch(count in 0usize..300, bad in 0usize..400) {
            let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let called = Mutex::new(0);
            let (done, failure) = rt.block_on(slow_start(count, |i| {
                *called.lock() += 1;
                async move { if i == bad { Err(()) } else { Ok(()) } }
            }));
            let called = *called.lock();
            if bad < count {
                prop_assert!(failure.is_some());
                prop_assert_eq!(done, called - 1);
                prop_assert!(called <= 2 * bad + 1);
            } else {
                prop_assert_eq!((done, called), (count, count));
            }
        }
    }

    #[test]
    fn unbound_pending_unready_and_cheap_go_first() {
        let now = Timestamp::now();
        let crowd = HashMap::new();
        let first = |a: &Pod, b: &Pod| assert_eq!(deletion_order(a, b, &crowd, now), Ordering::Less);
        first(&pod(None, 2, true, 0, 1), &pod(Some(1), 0, false, 0, 2));
        first(&pod(Some(1), 0, true, 0, 1), &pod(Some(1), 2, false, 0, 2));
        first(&pod(Some(1), 2, false, 5, 1), &pod(Some(1), 2, true, 0, 2));
        first(&pod(Some(1), 2, true, -1, 2), &pod(Some(1), 2, true, 0, 1));
        let crowd = HashMap::from([("1", 3), ("2", 1)]);
        let (crowded, lonely) = (pod(Some(1), 2, true, 0, 9), pod(Some(2), 2, true, 0, 1));
        assert_eq!(deletion_order(&crowded, &lonely, &crowd, now), Ordering::Less);
    }
}
