//! Jobs, and the end of finished ones after their time to live.

pub mod plan;

use std::sync::Arc;

use client::controller::Outcome;
use client::informer::{BY_OWNER, owner_uids};
use client::objects::{
    controller_of, controller_ref, created, is_deleting, name, namespace, selector_matches, uid,
};
use client::{Change, EventRecorder, Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, Preconditions};
use serde_json::json;

use crate::common::claim::claim;
use crate::common::expectations::Expectations;
use crate::common::podctl::{create_pod, delete_pod, pod_of, slow_start};
use crate::common::until;
use crate::{Context, Error, synced};

const NAME: &str = "job-controller";
const TTL: &str = "ttl-after-finished-controller";

struct Loop {
    client: Client,
    recorder: EventRecorder,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        recorder: cx.recorder(NAME),
        jobs: cx.informers.informer(),
        pods: cx.informers.informer(),
        queue: WorkQueue::new().named("job"),
        expectations: Expectations::default(),
    });
    let c = &controller;
    c.pods.index(BY_OWNER, owner_uids);
    if !synced!(cx, c.jobs, c.pods) {
        return Ok(());
    }
    let this = c.clone();
    c.jobs.subscribe(move |change| {
        let key = ObjectKey::of(&**change.object());
        if change.is_deleted() {
            this.expectations.forget(&key);
        }
        this.queue.add(key);
    });
    let this = c.clone();
    c.pods.subscribe(move |change| this.pod_changed(change));
    let this = c.clone();
    client::controller::run(NAME, 5, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

impl Loop {
    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let Some(r) = controller_of(&pod.metadata).filter(|r| r.kind == "Job") else { return };
        let owner = ObjectKey::new(namespace(&pod.metadata), &r.name);
        if change.is_deleted() || is_deleting(&pod.metadata) {
            self.expectations.deletion_observed(&owner, uid(&pod.metadata));
        }
        if matches!(change, Change::Added(_)) {
            self.expectations.creation_observed(&owner);
        }
        self.queue.add(owner);
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(job) = self.jobs.get(key) else {
            return self.let_orphans_go(key, None).await.map(|()| Outcome::DONE);
        };
        self.let_orphans_go(key, Some(uid(&job.metadata))).await?;
        let managed = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
        if managed.is_some_and(|m| m != "kubernetes.io/job-controller") {
            return Ok(Outcome::DONE);
        }
        let owned = self.pods.by_index(BY_OWNER, uid(&job.metadata));
        if is_deleting(&job.metadata) {
            return self.let_go(&owned).await.map(|()| Outcome::DONE);
        }
        let owned = match job.spec.as_ref().and_then(|s| s.selector.as_ref()) {
            Some(selector) => {
                let mut candidates = owned;
                candidates.extend(self.pods.namespace(&key.namespace).into_iter().filter(|p| {
                    controller_of(&p.metadata).is_none()
                        && selector_matches(selector, p.metadata.labels.as_ref())
                }));
                claim(&self.client, &*job, &controller_ref(&*job), selector, candidates).await?
            }
            None => owned,
        };
        let trusted = self.expectations.satisfied(key);
        let now = Timestamp::now();
        let plan = plan::plan(&job, &owned, now);
        let mut base = job.clone();
        if job.status.as_ref() != Some(&plan.status) {
            let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
            let object = Job { status: Some(plan.status.clone()), ..(*job).clone() };
            match client::patch::replace_status(&api, &object).await {
                Ok(written) => base = Arc::new(written),
                Err(e) if client::errors::is_not_found(&e) => return Ok(Outcome::DONE),
                Err(e) => return Err(e),
            }
            if let Some((bad, reason, words)) = &plan.event {
                match bad {
                    true => self.recorder.warning(&*job, reason, words.clone()),
                    false => self.recorder.normal(&*job, reason, words.clone()),
                }
            }
        }
        self.let_go(&plan.release).await?;
        if trusted {
            self.act(key, &base, &plan).await?;
        }
        Ok(plan.again.map_or(Outcome::DONE, |at| Outcome::after(until(at, now))))
    }

    /// Pods whose job is gone (`now` is the uid of the one that has its name today) are tracked by nobody: without this
    /// their finalizer would keep them for ever.
    async fn let_orphans_go(&self, key: &ObjectKey, now: Option<&str>) -> Result<(), kube::Error> {
        let mut orphans = self.pods.namespace(&key.namespace);
        orphans.retain(|pod| {
            pod.metadata.finalizers.iter().flatten().any(|f| f == plan::FINALIZER)
                && controller_of(&pod.metadata)
                    .is_some_and(|r| r.kind == "Job" && r.name == key.name && now != Some(r.uid.as_str()))
        });
        if orphans.is_empty() {
            return Ok(());
        }
        // The cache of jobs may be behind that of pods.
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let live = api.get_metadata_opt(&key.name).await?.and_then(|job| job.metadata.uid);
        orphans.retain(|pod| controller_of(&pod.metadata).is_some_and(|r| Some(&r.uid) != live.as_ref()));
        self.let_go(&orphans).await
    }

    /// Takes the tracking finalizer off.
    async fn let_go(&self, pods: &[Arc<Pod>]) -> Result<(), kube::Error> {
        for pod in pods {
            if !pod.metadata.finalizers.iter().flatten().any(|f| f == plan::FINALIZER) {
                continue;
            }
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(&pod.metadata));
            let patch = json!({
                "metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [plan::FINALIZER]}
            });
            client::errors::ignore_not_found(
                client::patch::strategic(&api, name(&pod.metadata), &patch).await,
            )?;
        }
        Ok(())
    }

    async fn act(&self, key: &ObjectKey, job: &Job, plan: &plan::Plan) -> Result<(), kube::Error> {
        if !plan.delete.is_empty() {
            self.expectations.expect_deletions(key, plan.delete.iter().map(|p| uid(&p.metadata).to_owned()));
            let mut failed = None;
            for pod in &plan.delete {
                let result = delete_pod(&self.client, &self.recorder, job, pod).await;
                if !matches!(result, Ok(true)) {
                    self.expectations.deletion_observed(key, uid(&pod.metadata));
                }
                failed = failed.or(result.err());
            }
            return failed.map_or(Ok(()), Err);
        }
        if plan.create == 0 {
            return Ok(());
        }
        self.expectations.expect_creations(key, plan.create);
        let (done, failure) = slow_start(plan.create, |i| {
            let pod = new_pod(job, &key.name, plan.indexes.get(i).copied());
            async move { create_pod(&self.client, &self.recorder, job, &key.namespace, &pod).await.map(drop) }
        })
        .await;
        for _ in done..plan.create {
            self.expectations.creation_observed(key);
        }
        match failure {
            Some(e) if !client::errors::is_namespace_terminating(&e) => Err(e),
            _ => Ok(()),
        }
    }
}

fn new_pod(job: &Job, job_name: &str, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = pod_of(&template, job_name, controller_ref(job));
    pod.metadata.finalizers.get_or_insert_default().push(plan::FINALIZER.into());
    let Some(index) = index else { return pod };
    pod.metadata.generate_name = Some(format!("{job_name}-{index}-"));
    pod.metadata.annotations.get_or_insert_default().insert(plan::INDEX.into(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(plan::INDEX.into(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{job_name}-{index}"));
        let variable = EnvVar {
            name: "JOB_COMPLETION_INDEX".into(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: None,
                    field_path: format!("metadata.labels['{}']", plan::INDEX),
                }),
                ..Default::default()
            }),
        };
        for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let env = c.env.get_or_insert_default();
            if !env.iter().any(|e| e.name == variable.name) {
                env.push(variable.clone());
            }
        }
    }
    pod
}

/// Deletes finished jobs when their time to live is over.
pub async fn run_ttl(cx: Context) -> Result<(), Error> {
    let client = cx.client_for(TTL);
    let jobs = cx.informers.informer::<Job>();
    if !synced!(cx, jobs) {
        return Ok(());
    }
    let queue = WorkQueue::<ObjectKey>::new();
    let sink = queue.clone();
    jobs.subscribe(move |change| {
        if !change.is_deleted() && expiry(change.object()).is_some() {
            sink.add(ObjectKey::of(&**change.object()));
        }
    });
    client::controller::run(TTL, 1, queue, cx.stop.clone(), |key| {
        let (client, jobs) = (&client, &jobs);
        async move {
            let Some(job) = jobs.get(&key).filter(|j| !is_deleting(&j.metadata)) else {
                return Ok(Outcome::DONE);
            };
            let Some(at) = expiry(&job) else { return Ok(Outcome::DONE) };
            let now = Timestamp::now();
            if at > now {
                return Ok(Outcome::after(until(at, now)));
            }
            let api: Api<Job> = Api::namespaced(client.clone(), &key.namespace);
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: job.metadata.uid.clone(), resource_version: None }),
                ..DeleteParams::foreground()
            };
            client::errors::ignore_not_found(api.delete(&key.name, &params).await).map(|()| Outcome::DONE)
        }
    })
    .await;
    Ok(())
}

/// When a finished job with a time to live is to go.
fn expiry(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let mut ended = job.status.as_ref()?.conditions.iter().flatten();
    let end = ended.find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let at = end.last_transition_time.as_ref().map_or_else(|| created(&job.metadata), |t| t.0);
    Timestamp::from_second(at.as_second() + i64::from(ttl)).ok()
}
