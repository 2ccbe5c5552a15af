//! CronJobs: a job at each time of a schedule.

pub mod schedule;

use std::sync::Arc;

use client::controller::Outcome;
use client::informer::{BY_OWNER, owner_uids};
use client::objects::{controller_of, controller_ref, created, is_deleting, name, namespace, uid};
use client::{EventRecorder, Informer, ObjectKey, WorkQueue};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};

use crate::common::podctl::message;
use crate::common::until;
use crate::{Context, Error, synced};
use schedule::Schedule;

const NAME: &str = "cronjob-controller";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Loop {
    client: Client,
    recorder: EventRecorder,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    queue: WorkQueue<ObjectKey>,
}

pub async fn run(cx: Context) -> Result<(), Error> {
    let controller = Arc::new(Loop {
        client: cx.client_for(NAME),
        recorder: cx.recorder(NAME),
        crons: cx.informers.informer(),
        jobs: cx.informers.informer(),
        queue: WorkQueue::new().named("cronjob"),
    });
    let c = &controller;
    c.jobs.index(BY_OWNER, owner_uids);
    if !synced!(cx, c.crons, c.jobs) {
        return Ok(());
    }
    let this = c.clone();
    c.crons.subscribe(move |change| this.queue.add(ObjectKey::of(&**change.object())));
    let this = c.clone();
    c.jobs.subscribe(move |change| {
        let meta = &change.object().metadata;
        if let Some(r) = controller_of(meta).filter(|r| r.kind == "CronJob") {
            this.queue.add(ObjectKey::new(namespace(meta), &r.name));
        }
    });
    let this = c.clone();
    client::controller::run(NAME, 2, c.queue.clone(), cx.stop.clone(), move |key| {
        let this = this.clone();
        async move { this.reconcile(&key).await }
    })
    .await;
    Ok(())
}

/// `Complete`, `Failed`, or nothing yet.
fn ended(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    let mut ends =
        conditions.filter(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True");
    ends.next().map(|c| c.type_.as_str())
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(cron) = self.crons.get(key).filter(|c| !is_deleting(&c.metadata)) else {
            return Ok(Outcome::DONE);
        };
        let spec = cron.spec.clone();
        let jobs = self.jobs.by_index(BY_OWNER, uid(&cron.metadata));
        let mut status = self.settle(&cron, &jobs);
        self.clean(&cron, &jobs).await?;
        let now = Timestamp::now();
        let mut again = None;
        let zone = match spec.time_zone.as_deref() {
            None => Some(TimeZone::UTC),
            Some(text) => TimeZone::get(text).ok(),
        };
        match (Schedule::parse(&spec.schedule), zone) {
            (Err(error), _) => self.recorder.warning(&*cron, "UnparseableSchedule", error.to_string()),
            (_, None) => {
                let words = format!("invalid timeZone: {:?}", spec.time_zone.unwrap_or_default());
                self.recorder.warning(&*cron, "UnknownTimeZone", words);
            }
            (Ok(_), Some(_)) if spec.suspend == Some(true) => {}
            (Ok(schedule), Some(zone)) => {
                self.start(key, &cron, &jobs, &schedule, &zone, now, &mut status).await?;
                again = schedule.next(now, &zone);
            }
        }
        if cron.status.as_ref() != Some(&status) {
            let api: Api<CronJob> = Api::namespaced(self.client.clone(), &key.namespace);
            let object = CronJob { status: Some(status), ..(*cron).clone() };
            client::errors::ignore_not_found(client::patch::replace_status(&api, &object).await)?;
        }
        Ok(again.map_or(Outcome::DONE, |at| Outcome::after(until(at, now))))
    }

    /// The status without what has ended.
    fn settle(&self, cron: &CronJob, jobs: &[Arc<Job>]) -> CronJobStatus {
        let mut status = cron.status.clone().unwrap_or_default();
        let mut active = status.active.take().unwrap_or_default();
        for job in jobs {
            let job_uid = uid(&job.metadata);
            let known = active.iter().position(|r| r.uid.as_deref() == Some(job_uid));
            match (known, ended(job)) {
                (Some(at), Some(end)) => {
                    active.remove(at);
                    let words = format!("Saw completed job: {}, condition: {end}", name(&job.metadata));
                    self.recorder.normal(cron, "SawCompletedJob", words);
                    let time = job.status.as_ref().and_then(|s| s.completion_time.clone());
                    if end == "Complete" && time > status.last_successful_time {
                        status.last_successful_time = time;
                    }
                }
                (None, None) => active.push(job_reference(job)),
                _ => {}
            }
        }
        // One that is gone from the cache altogether was deleted.
        active.retain(|r| jobs.iter().any(|j| Some(uid(&j.metadata)) == r.uid.as_deref()));
        status.active = Some(active).filter(|a| !a.is_empty());
        status
    }

    async fn start(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        jobs: &[Arc<Job>],
        schedule: &Schedule,
        zone: &TimeZone,
        now: Timestamp,
        status: &mut CronJobStatus,
    ) -> Result<(), kube::Error> {
        let spec = cron.spec.clone();
        let mut from = status.last_schedule_time.as_ref().map_or_else(|| created(&cron.metadata), |t| t.0);
        if let Some(deadline) = spec.starting_deadline_seconds
            && let Ok(earliest) = Timestamp::from_second(now.as_second().saturating_sub(deadline))
        {
            from = from.max(earliest);
        }
        let Some((at, missed)) = schedule.last_missed(from, now, zone) else { return Ok(()) };
        if missed > 100 {
            let words = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.recorder.warning(cron, "TooManyMissedTimes", words);
        }
        let job_name = format!("{}-{}", key.name, at.as_second() / 60);
        if self.jobs.get(&ObjectKey::new(&key.namespace, &job_name)).is_some() {
            status.last_schedule_time = Some(Time(at));
            return Ok(());
        }
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let running: Vec<&Arc<Job>> = jobs.iter().filter(|j| ended(j).is_none()).collect();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !running.is_empty() => {
                let words =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.recorder.normal(cron, "JobAlreadyActive", words);
                return Ok(());
            }
            Some("Replace") => {
                for job in running {
                    let deleted = api.delete(name(&job.metadata), &DeleteParams::background()).await;
                    client::errors::ignore_not_found(deleted)?;
                    let words = format!("Deleted job {}", name(&job.metadata));
                    self.recorder.normal(cron, "SuccessfulDelete", words);
                }
            }
            _ => {}
        }
        let template = spec.job_template.metadata.unwrap_or_default();
        let mut annotations = template.annotations.unwrap_or_default();
        let local = at.to_zoned(zone.clone());
        annotations.insert(
            SCHEDULED.into(),
            local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z"),
        );
        let job = Job {
            metadata: ObjectMeta {
                name: Some(job_name.clone()),
                labels: template.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_ref(cron)]),
                ..Default::default()
            },
            spec: spec.job_template.spec,
            status: None,
        };
        match api.create(&PostParams::default(), &job).await {
            Ok(made) => {
                self.recorder.normal(cron, "SuccessfulCreate", format!("Created job {job_name}"));
                status.active.get_or_insert_default().push(job_reference(&made));
            }
            Err(e) if client::errors::is_already_exists(&e) => {}
            Err(e) if client::errors::is_namespace_terminating(&e) => return Ok(()),
            Err(e) => {
                self.recorder.warning(cron, "FailedCreate", format!("Error creating job: {}", message(&e)));
                return Err(e);
            }
        }
        status.last_schedule_time = Some(Time(at));
        Ok(())
    }

    /// Deletes the oldest of the jobs that ended, beyond the limits.
    async fn clean(&self, cron: &CronJob, jobs: &[Arc<Job>]) -> Result<(), kube::Error> {
        let spec = cron.spec.clone();
        let limits = [
            ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (end, limit) in limits {
            let mut list: Vec<&Arc<Job>> = jobs.iter().filter(|j| ended(j) == Some(end)).collect();
            list.sort_by_key(|j| {
                (j.status.as_ref().and_then(|s| s.start_time.clone()), j.metadata.name.clone())
            });
            let surplus = list.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &list[..surplus] {
                let job_name = name(&job.metadata);
                let api: Api<Job> = Api::namespaced(self.client.clone(), namespace(&job.metadata));
                client::errors::ignore_not_found(api.delete(job_name, &DeleteParams::background()).await)?;
                self.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {job_name}"));
            }
        }
        Ok(())
    }
}

fn job_reference(job: &Job) -> ObjectReference {
    client::events::reference(job)
}
