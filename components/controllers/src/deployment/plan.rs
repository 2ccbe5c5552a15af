//! What a deployment should do next, as a pure function of the deployment, its sets and whether old pods still run.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::scale::{self, Resize};
use super::status;
use super::util::{
    DESIRED, HASH_LABEL, MAX, REVISION, Set, condition, deadline, is_paused, is_rolling, max_surge,
    new_and_old, new_annotations, revision, set_wanted, size_annotations, to_clean, wanted,
};
use crate::common::hash::template_hash;
use client::objects::{StringMap, controller_ref, entry, is_deleting, name, namespace};

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Option<Box<ReplicaSet>>,
    /// The new set as it should be, when its annotations or readiness time differ.
    pub refresh: Option<Box<ReplicaSet>>,
    pub resize: Vec<Resize>,
    pub clean: Vec<Set>,
    /// The revision the deployment should carry.
    pub revision: Option<String>,
    pub status: Option<DeploymentStatus>,
    /// Look again at this time even without an event.
    pub again: Option<Timestamp>,
}

/// `old_pods_run`: pods of old sets that have not ended exist (asked for Recreate).
pub fn plan(d: &Deployment, sets: &[Set], old_pods_run: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let (new, old) = new_and_old(d, sets);
    if is_deleting(&d.metadata) {
        plan.finish(d, status::calculate(d, sets, new.as_ref(), now), now);
        return plan;
    }
    let pause = status::pause_condition(d, now);
    if is_paused(d) || is_scaling(d, sets) {
        if let Some(new) = &new {
            plan.adopt_new(d, new, &old);
        }
        plan.resize = scale::proportional(d, new.as_ref(), &old);
        if is_paused(d) {
            plan.clean = to_clean(d, &old);
        }
        let mut status = status::calculate(d, sets, new.as_ref(), now);
        if let Some(c) = pause {
            status::set_condition(&mut status, c);
        }
        plan.finish(d, status, now);
        return plan;
    }
    if is_rolling(d) {
        plan.roll(d, sets, new.as_ref(), &old);
    } else {
        plan.recreate(d, sets, new.as_ref(), &old, old_pods_run);
    }
    let mut status = status::rollout(d, sets, new.as_ref(), now);
    if let Some(c) = pause {
        status::set_condition(&mut status, c);
    }
    if deadline(d).is_some() {
        if let Some(made) = &plan.create {
            let words = format!("Created new replica set \"{}\"", name(&made.metadata));
            status::set_condition(&mut status, progressing("NewReplicaSetCreated", words, now));
        } else if let Some(new) = &new
            && condition(d, "Progressing").is_none()
            && !status.conditions.iter().flatten().any(|c| c.type_ == "Progressing")
        {
            let words = format!("Found new replica set \"{}\"", name(&new.metadata));
            status::set_condition(&mut status, progressing("FoundNewReplicaSet", words, now));
        }
    }
    if plan.create.is_none() && plan.resize.is_empty() && status::is_complete(d, &status) {
        plan.clean = to_clean(d, &old);
    }
    plan.finish(d, status, now);
    plan
}

fn progressing(reason: &str, words: String, now: Timestamp) -> DeploymentCondition {
    status::new_condition("Progressing", "True", reason, words, now)
}

/// Whether `spec.replicas` changed since the active sets were sized.
fn is_scaling(d: &Deployment, sets: &[Set]) -> bool {
    sets.iter().filter(|rs| set_wanted(rs) > 0).any(|rs| {
        entry(rs.metadata.annotations.as_ref(), DESIRED)
            .and_then(|t| t.parse::<i32>().ok())
            .is_some_and(|n| n != wanted(d))
    })
}

impl Plan {
    fn finish(&mut self, d: &Deployment, status: DeploymentStatus, now: Timestamp) {
        self.again = status::deadline_at(d, &status, now);
        if d.status.as_ref() != Some(&status) {
            self.status = Some(status);
        }
    }

    fn next_revision(old: &[Set]) -> i64 {
        old.iter().map(|rs| revision(rs.metadata.annotations.as_ref())).max().unwrap_or(0) + 1
    }

    /// Brings the annotations of an existing new set and the deployment's revision up to date.
    fn adopt_new(&mut self, d: &Deployment, new: &Set, old: &[Set]) {
        let current = new.metadata.annotations.as_ref();
        let annotations = new_annotations(d, current, Self::next_revision(old));
        let min_ready = d.spec.as_ref().and_then(|s| s.min_ready_seconds);
        let stale =
            new.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) != min_ready.unwrap_or(0);
        let text = entry(annotations.as_ref().or(current), REVISION).map(str::to_owned);
        if text.as_deref() != entry(d.metadata.annotations.as_ref(), REVISION) {
            self.revision = text;
        }
        if annotations.is_some() || stale {
            let mut rs = (**new).clone();
            if annotations.is_some() {
                rs.metadata.annotations = annotations;
            }
            if let Some(spec) = &mut rs.spec {
                spec.min_ready_seconds = min_ready;
            }
            self.refresh = Some(Box::new(rs));
        }
    }

    fn make_new(&mut self, d: &Deployment, all: &[Set], old: &[Set]) {
        let made = new_set(d, scale::new_size(d, all, None), Self::next_revision(old));
        self.revision = entry(made.metadata.annotations.as_ref(), REVISION).map(str::to_owned);
        self.create = Some(Box::new(made));
    }

    fn roll(&mut self, d: &Deployment, all: &[Set], new: Option<&Set>, old: &[Set]) {
        let Some(new) = new else {
            return self.make_new(d, all, old);
        };
        self.adopt_new(d, new, old);
        if self.refresh.is_some() {
            return;
        }
        self.resize = match scale::step_new(d, all, new) {
            Some(step) => vec![step],
            None => scale::step_old(d, all, Some(new), old),
        };
    }

    fn recreate(&mut self, d: &Deployment, all: &[Set], new: Option<&Set>, old: &[Set], old_pods_run: bool) {
        if let Some(new) = new {
            self.adopt_new(d, new, old);
        }
        self.resize = scale::drop_old(old);
        if !self.resize.is_empty() || old_pods_run || self.refresh.is_some() {
            return;
        }
        match new {
            None => self.make_new(d, all, old),
            Some(new) => self.resize = scale::step_new(d, all, new).into_iter().collect(),
        }
    }
}

/// The set for the deployment's template.
fn new_set(d: &Deployment, replicas: i32, revision: i64) -> ReplicaSet {
    let spec = d.spec.clone().unwrap_or_default();
    let hash = template_hash(&spec.template, d.status.as_ref().and_then(|s| s.collision_count));
    let mut template = spec.template;
    let labels: &mut StringMap = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let mut annotations = new_annotations(d, None, revision).unwrap_or_default();
    annotations.insert(DESIRED.into(), wanted(d).to_string());
    annotations.insert(MAX.into(), (wanted(d) + max_surge(d)).to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(&d.metadata))),
            namespace: Some(namespace(&d.metadata).to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(d)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// The set as it should be written for `resize`, or `None` when it already is so.
pub fn resized(d: &Deployment, resize: &Resize) -> Option<ReplicaSet> {
    let annotations = size_annotations(&resize.set, wanted(d), wanted(d) + max_surge(d));
    if annotations.is_none() && set_wanted(&resize.set) == resize.to {
        return None;
    }
    let mut rs = (*resize.set).clone();
    if annotations.is_some() {
        rs.metadata.annotations = annotations;
    }
    rs.spec.get_or_insert_default().replicas = Some(resize.to);
    Some(rs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStrategy, ReplicaSetStatus};
    use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
    use std::sync::Arc;

    fn deployment(replicas: i32, image: &str, strategy: &str) -> Deployment {
        Deployment {
            metadata: ObjectMeta {
                name: Some("web".into()),
                uid: Some("d".into()),
                generation: Some(1),
                ..Default::default()
            },
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                progress_deadline_seconds: Some(600),
                revision_history_limit: Some(1),
                strategy: Some(DeploymentStrategy { type_: Some(strategy.into()), rolling_update: None }),
                template: PodTemplateSpec {
                    metadata: Some(ObjectMeta {
                        labels: Some([("app".to_owned(), "web".to_owned())].into()),
                        ..Default::default()
                    }),
                    spec: Some(PodSpec {
                        containers: vec![Container { image: Some(image.into()), ..Default::default() }],
                        ..Default::default()
                    }),
                },
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// A world of sets whose pods are all ready at once, and the loop that acts on it.
    struct World {
        d: Deployment,
        sets: Vec<ReplicaSet>,
        clock: i64,
        actions: Vec<String>,
    }

    impl World {
        fn put(&mut self, rs: ReplicaSet) {
            let at = self.sets.iter().position(|s| s.metadata.name == rs.metadata.name).unwrap();
            self.sets[at] = rs;
        }

        fn step(&mut self) -> bool {
            self.clock += 1;
            let now = Timestamp::from_second(self.clock).unwrap();
            let sets: Vec<Set> = self.sets.iter().cloned().map(Arc::new).collect();
            let p = plan(&self.d, &sets, false, now);
            let mut moved = false;
            if let Some(made) = p.create {
                let mut rs = *made;
                rs.metadata.creation_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
                self.actions.push(format!("create {}", set_wanted(&rs)));
                self.sets.push(rs);
                moved = true;
            }
            if let Some(rs) = p.refresh {
                self.put(*rs);
                moved = true;
            }
            for r in &p.resize {
                if let Some(rs) = resized(&self.d, r) {
                    self.actions.push(scale::describe(&r.set, r.to));
                    self.put(rs);
                    moved = true;
                }
            }
            for gone in &p.clean {
                self.sets.retain(|s| s.metadata.name != gone.metadata.name);
                moved = true;
            }
            if let Some(text) = p.revision {
                self.d.metadata.annotations.get_or_insert_default().insert(REVISION.into(), text);
                moved = true;
            }
            if let Some(status) = p.status {
                self.d.status = Some(status);
                moved = true;
            }
            for rs in &mut self.sets {
                let n = set_wanted(rs);
                let status = ReplicaSetStatus {
                    replicas: n,
                    ready_replicas: Some(n),
                    available_replicas: Some(n),
                    terminating_replicas: Some(0),
                    ..Default::default()
                };
                moved |= rs.status.as_ref() != Some(&status);
                rs.status = Some(status);
            }
            moved
        }

        fn settle(&mut self) {
            for _ in 0..100 {
                if !self.step() {
                    return;
                }
            }
            panic!("never settles: {:?}", self.actions);
        }

        fn template(&mut self, image: &str) {
            self.d.metadata.generation = Some(self.d.metadata.generation.unwrap() + 1);
            let template = &mut self.d.spec.as_mut().unwrap().template;
            template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        }

        fn progress(&self) -> (&str, &str) {
            let c = condition(&self.d, "Progressing").unwrap();
            (c.status.as_str(), c.reason.as_deref().unwrap())
        }
    }

    fn world(replicas: i32, strategy: &str) -> World {
        World { d: deployment(replicas, "a", strategy), sets: Vec::new(), clock: 1000, actions: Vec::new() }
    }

    #[test]
    fn a_rollout_and_its_rollback_settle_with_upstreams_words() {
        let mut w = world(4, "RollingUpdate");
        w.settle();
        assert_eq!(w.actions, ["create 4"]);
        assert_eq!(w.progress(), ("True", "NewReplicaSetAvailable"));
        assert_eq!(condition(&w.d, "Available").unwrap().reason.as_deref(), Some("MinimumReplicasAvailable"));
        assert_eq!(revision(w.d.metadata.annotations.as_ref()), 1);

        w.template("b");
        w.settle();
        assert_eq!(w.sets.len(), 2);
        assert_eq!(revision(w.d.metadata.annotations.as_ref()), 2);
        assert_eq!(set_wanted(&w.sets[0]), 0);
        assert_eq!(set_wanted(&w.sets[1]), 4);
        let words = condition(&w.d, "Progressing").unwrap().message.clone().unwrap();
        assert_eq!(
            words,
            format!("ReplicaSet \"{}\" has successfully progressed.", name(&w.sets[1].metadata))
        );

        w.template("a");
        w.settle();
        assert_eq!(revision(w.d.metadata.annotations.as_ref()), 3);
        let first = &w.sets[0];
        assert_eq!(set_wanted(first), 4);
        assert_eq!(
            entry(first.metadata.annotations.as_ref(), super::super::util::REVISION_HISTORY),
            Some("1")
        );

        w.template("c");
        w.settle();
        assert_eq!(w.sets.len(), 2, "the history limit of one is kept");
        assert_eq!(revision(w.d.metadata.annotations.as_ref()), 4);
    }

    #[test]
    fn recreate_empties_first() {
        let mut w = world(3, "Recreate");
        w.settle();
        w.template("b");
        w.actions.clear();
        w.settle();
        assert_eq!(w.actions.len(), 2);
        assert!(w.actions[0].starts_with("Scaled down"));
        assert_eq!(w.actions[1], "create 3");
    }

    #[test]
    fn recreate_waits_for_old_pods() {
        let mut w = world(3, "Recreate");
        w.settle();
        w.template("b");
        w.step();
        let sets: Vec<Set> = w.sets.iter().cloned().map(Arc::new).collect();
        let p = plan(&w.d, &sets, true, Timestamp::from_second(2000).unwrap());
        assert!(p.create.is_none() && p.resize.is_empty());
    }

    #[test]
    fn a_paused_deployment_scales_but_does_not_roll() {
        let mut w = world(2, "RollingUpdate");
        w.settle();
        w.d.spec.as_mut().unwrap().paused = Some(true);
        w.template("b");
        w.d.spec.as_mut().unwrap().replicas = Some(5);
        w.settle();
        assert_eq!(w.sets.len(), 1);
        assert_eq!(set_wanted(&w.sets[0]), 5);
        assert_eq!(w.progress(), ("Unknown", "DeploymentPaused"));
        w.d.spec.as_mut().unwrap().paused = Some(false);
        w.settle();
        assert_eq!(w.sets.len(), 2);
        assert_eq!(w.progress(), ("True", "NewReplicaSetAvailable"));
    }

    #[test]
    fn the_deadline_is_told() {
        let mut w = world(1, "RollingUpdate");
        w.step();
        let mut rs = w.sets[0].clone();
        rs.status = Some(ReplicaSetStatus { replicas: 1, ..Default::default() });
        let sets = [Arc::new(rs)];
        let p = plan(&w.d, &sets, false, Timestamp::from_second(1002).unwrap());
        w.d.status = p.status;
        assert_eq!(p.again, Timestamp::from_second(1602 + 1).ok());
        let late = plan(&w.d, &sets, false, Timestamp::from_second(1700).unwrap()).status.unwrap();
        let c = late.conditions.unwrap().into_iter().find(|c| c.type_ == "Progressing").unwrap();
        assert_eq!((c.status.as_str(), c.reason.as_deref()), ("False", Some("ProgressDeadlineExceeded")));
    }
}
