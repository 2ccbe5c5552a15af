//! The two kinds that this controller serves, seen as one.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::plan::SetStatus;

pub trait ReplicaOwner:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    fn replicas(&self) -> i32;
    fn min_ready(&self) -> i32;
    fn selector(&self) -> LabelSelector;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn status(&self) -> SetStatus;
    fn with_status(&self, status: &SetStatus) -> Self;
    /// Whether the kind's status counts terminating pods.
    const COUNTS_TERMINATING: bool;
}

impl ReplicaOwner for ReplicaSet {
    const COUNTS_TERMINATING: bool = true;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> LabelSelector {
        self.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default()
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> SetStatus {
        let s = self.status.clone().unwrap_or_default();
        SetStatus {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas.unwrap_or(0),
            ready: s.ready_replicas.unwrap_or(0),
            available: s.available_replicas.unwrap_or(0),
            terminating: s.terminating_replicas,
            observed_generation: s.observed_generation.unwrap_or(0),
            conditions: s.conditions.unwrap_or_default(),
        }
    }

    fn with_status(&self, s: &SetStatus) -> Self {
        let status = ReplicaSetStatus {
            replicas: s.replicas,
            fully_labeled_replicas: Some(s.fully_labeled).filter(|n| *n != 0),
            ready_replicas: Some(s.ready).filter(|n| *n != 0),
            available_replicas: Some(s.available).filter(|n| *n != 0),
            terminating_replicas: s.terminating,
            observed_generation: Some(s.observed_generation),
            conditions: Some(s.conditions.clone()).filter(|c| !c.is_empty()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

impl ReplicaOwner for ReplicationController {
    const COUNTS_TERMINATING: bool = false;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> LabelSelector {
        let labels = self.spec.as_ref().and_then(|s| s.selector.clone());
        LabelSelector { match_labels: labels, match_expressions: None }
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> SetStatus {
        let s = self.status.clone().unwrap_or_default();
        let conditions = s.conditions.into_iter().flatten().map(|c| ReplicaSetCondition {
            last_transition_time: c.last_transition_time,
            message: c.message,
            reason: c.reason,
            status: c.status,
            type_: c.type_,
        });
        SetStatus {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas.unwrap_or(0),
            ready: s.ready_replicas.unwrap_or(0),
            available: s.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: s.observed_generation.unwrap_or(0),
            conditions: conditions.collect(),
        }
    }

    fn with_status(&self, s: &SetStatus) -> Self {
        let conditions = s.conditions.iter().cloned().map(|c| ReplicationControllerCondition {
            last_transition_time: c.last_transition_time,
            message: c.message,
            reason: c.reason,
            status: c.status,
            type_: c.type_,
        });
        let status = ReplicationControllerStatus {
            replicas: s.replicas,
            fully_labeled_replicas: Some(s.fully_labeled).filter(|n| *n != 0),
            ready_replicas: Some(s.ready).filter(|n| *n != 0),
            available_replicas: Some(s.available).filter(|n| *n != 0),
            observed_generation: Some(s.observed_generation),
            conditions: Some(conditions.collect::<Vec<_>>()).filter(|c| !c.is_empty()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}
