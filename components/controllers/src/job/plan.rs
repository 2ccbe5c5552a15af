//! Running to completion: who is counted, how many pods run, when it is over. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::objects::{entry, is_deleting, is_ready, phase, uid};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FIRST_BACKOFF: i64 = 10;
const LAST_BACKOFF: i64 = 600;

#[derive(Debug, Default)]
pub struct Plan {
    pub status: JobStatus,
    /// Whose finalizer goes once the status is written.
    pub release: Vec<Arc<Pod>>,
    pub delete: Vec<Arc<Pod>>,
    /// How many to create; for an indexed job the indexes.
    pub create: usize,
    pub indexes: Vec<i32>,
    pub again: Option<Timestamp>,
    /// Reason and words of an event about something that has just come about.
    pub event: Option<(bool, &'static str, String)>,
}

pub fn is_finished(status: &JobStatus) -> bool {
    has(status, "Complete") || has(status, "Failed")
}

fn has(status: &JobStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}

fn get<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn put(status: &mut JobStatus, kind: &str, on: bool, reason: &str, words: &str, now: Timestamp) -> bool {
    let value = if on { "True" } else { "False" };
    let list = status.conditions.get_or_insert_default();
    if list.iter().any(|c| c.type_ == kind && c.status == value) {
        return false;
    }
    list.retain(|c| c.type_ != kind);
    list.push(JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()).filter(|r: &String| !r.is_empty()),
        message: Some(words.into()).filter(|w: &String| !w.is_empty()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    true
}

fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

pub fn index(pod: &Pod) -> Option<i32> {
    entry(pod.metadata.annotations.as_ref(), INDEX)?.parse().ok().filter(|n| *n >= 0)
}

/// `1,3-5` as numbers.
pub fn parse_indexes(text: &str) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<i32>(), to.parse::<i32>()) {
            set.extend(from..=to);
        }
    }
    set
}

/// Numbers as `1,3-5`.
pub fn format_indexes(set: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for n in set {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == *n => *end = *n,
            _ => parts.push((*n, *n)),
        }
    }
    let text = |(from, to): &(i32, i32)| match to - from {
        0 => from.to_string(),
        1 => format!("{from},{to}"),
        _ => format!("{from}-{to}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

fn finish_time(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends =
        statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()).map(|t| t.0);
    let ready = client::objects::pod_condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref());
    ends.max().or(ready.map(|t| t.0)).or(pod.metadata.deletion_timestamp.as_ref().map(|t| t.0))
}

fn counts_as_failed(spec: &JobSpec, pod: &Pod) -> bool {
    phase(pod) == "Failed"
        || (is_deleting(&pod.metadata)
            && phase(pod) != "Succeeded"
            && spec.pod_replacement_policy.as_deref() != Some("Failed"))
}

/// Failures at the end of the line, without a success after them.
fn backoff(spec: &JobSpec, pods: &[Arc<Pod>], now: Timestamp) -> Option<Timestamp> {
    let mut ends: Vec<(Timestamp, bool)> = pods
        .iter()
        .filter(|p| phase(p) == "Failed" || phase(p) == "Succeeded")
        .filter_map(|p| finish_time(p).map(|t| (t, counts_as_failed(spec, p))))
        .collect();
    ends.sort();
    let failures: Vec<Timestamp> = ends.iter().rev().take_while(|(_, bad)| *bad).map(|(t, _)| *t).collect();
    let last = *failures.first()?;
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(16).min(16);
    let wait = (FIRST_BACKOFF << doublings).min(LAST_BACKOFF);
    Timestamp::from_second(last.as_second() + wait).ok().filter(|at| *at > now)
}

/// What the job should do next, given its pods.
pub fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let mut p = Plan { status: job.status.clone().unwrap_or_default(), ..Default::default() };
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    let suspended = spec.suspend.unwrap_or(false);
    if is_finished(&p.status) {
        p.release = pods.iter().filter(|x| has_finalizer(x)).cloned().collect();
        count(&mut p, &spec, pods, indexed);
        return p;
    }
    if p.status.start_time.is_none() && !suspended {
        p.status.start_time = Some(Time(now));
    }
    count(&mut p, &spec, pods, indexed);
    let waiting = p.status.uncounted_terminated_pods.clone().unwrap_or_default();
    let n = |l: &Option<Vec<String>>| i32::try_from(l.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX);
    let failed = p.status.failed.unwrap_or(0) + n(&waiting.failed);
    let done = parse_indexes(p.status.completed_indexes.as_deref().unwrap_or(""));
    let succeeded = if indexed {
        i32::try_from(done.len()).unwrap_or(i32::MAX)
    } else {
        p.status.succeeded.unwrap_or(0) + n(&waiting.succeeded)
    };
    let active: Vec<Arc<Pod>> = pods
        .iter()
        .filter(|x| !matches!(phase(x), "Succeeded" | "Failed") && !is_deleting(&x.metadata))
        .cloned()
        .collect();
    let running = i32::try_from(active.len()).unwrap_or(i32::MAX);
    let leaving = pods
        .iter()
        .filter(|x| is_deleting(&x.metadata) && !matches!(phase(x), "Succeeded" | "Failed"))
        .count();

    let deadline =
        spec.active_deadline_seconds.zip(p.status.start_time.as_ref()).and_then(|(seconds, start)| {
            Timestamp::from_second(start.0.as_second().saturating_add(seconds)).ok()
        });
    if get(&p.status, "FailureTarget").is_none() && get(&p.status, "SuccessCriteriaMet").is_none() {
        if failed > spec.backoff_limit.unwrap_or(6) {
            let words = "Job has reached the specified backoff limit";
            put(&mut p.status, "FailureTarget", true, "BackoffLimitExceeded", words, now);
        } else if !suspended && deadline.is_some_and(|at| at <= now) {
            let words = "Job was active longer than specified deadline";
            put(&mut p.status, "FailureTarget", true, "DeadlineExceeded", words, now);
        } else {
            let complete = match spec.completions {
                Some(wanted) => succeeded >= wanted,
                None => succeeded > 0 && running == 0,
            };
            if complete && !suspended {
                let words = "Reached expected number of succeeded pods";
                put(&mut p.status, "SuccessCriteriaMet", true, "CompletionsReached", words, now);
            }
        }
    }
    let ending = has(&p.status, "FailureTarget") || has(&p.status, "SuccessCriteriaMet");
    if ending {
        p.delete = active;
    } else if suspended {
        p.delete = active;
        if put(&mut p.status, "Suspended", true, "JobSuspended", "Job suspended", now) {
            p.event = Some((false, "Suspended", "Job suspended".into()));
        }
        p.status.start_time = None;
    } else {
        if has(&p.status, "Suspended")
            && put(&mut p.status, "Suspended", false, "JobResumed", "Job resumed", now)
        {
            p.status.start_time = Some(Time(now));
            p.event = Some((false, "Resumed", "Job resumed".into()));
        }
        let limit = spec.parallelism.unwrap_or(1);
        let wanted = match spec.completions {
            Some(all) => limit.min((all - succeeded).max(0)),
            None if succeeded > 0 => running.min(limit),
            None => limit,
        };
        // A pod that leaves is replaced at once, unless the policy waits for its end.
        let held = if spec.pod_replacement_policy.as_deref() == Some("Failed") {
            running + i32::try_from(leaving).unwrap_or(0)
        } else {
            running
        };
        if running > wanted {
            let mut surplus = active;
            surplus.sort_by_key(|x| (is_ready(x), client::objects::node_name(x).is_some()));
            surplus.truncate(usize::try_from(running - wanted).unwrap_or(0));
            p.delete = surplus;
        } else if held < wanted {
            match backoff(&spec, pods, now) {
                Some(at) => p.again = Some(at),
                None => grow(&mut p, &spec, indexed, &done, &active, wanted - held),
            }
        }
        p.again = [p.again, deadline].into_iter().flatten().min();
    }
    let leaving_now = i32::try_from(leaving + p.delete.len()).unwrap_or(i32::MAX);
    let kept = running - i32::try_from(p.delete.len()).unwrap_or(0);
    p.status.active = Some(kept).filter(|x| *x != 0);
    // Those about to go are neither active nor ready: the API server refuses more ready pods than active ones.
    let going = |x: &Arc<Pod>| p.delete.iter().any(|d| d.metadata.uid == x.metadata.uid);
    let ready = pods
        .iter()
        .filter(|x| is_ready(x) && !is_deleting(&x.metadata) && phase(x) == "Running" && !going(x))
        .count();
    p.status.ready = Some(i32::try_from(ready).unwrap_or(0));
    p.status.terminating = Some(leaving_now);
    let counted =
        p.status.uncounted_terminated_pods.as_ref().is_none_or(|u| n(&u.failed) + n(&u.succeeded) == 0);
    if ending && counted && leaving_now == 0 && kept == 0 && p.release.is_empty() {
        conclude(&mut p, now);
    }
    p
}

/// The end itself, once nothing runs and everything is counted.
fn conclude(p: &mut Plan, now: Timestamp) {
    let take = |c: Option<&JobCondition>| {
        c.map(|c| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default()))
    };
    if let Some((reason, words)) = take(get(&p.status, "FailureTarget")) {
        put(&mut p.status, "Failed", true, &reason, &words, now);
        let event = if reason == "DeadlineExceeded" { "DeadlineExceeded" } else { "BackoffLimitExceeded" };
        p.event = Some((true, event, words));
    } else if let Some((reason, words)) = take(get(&p.status, "SuccessCriteriaMet")) {
        put(&mut p.status, "Complete", true, &reason, &words, now);
        p.status.completion_time = Some(Time(now));
        p.event = Some((false, "Completed", "Job completed".into()));
    }
}

/// Moves pods that ended through the books: noted first, counted once their finalizer is gone.
fn count(p: &mut Plan, spec: &JobSpec, pods: &[Arc<Pod>], indexed: bool) {
    let books = p.status.uncounted_terminated_pods.clone().unwrap_or_default();
    let find = |u: &str| pods.iter().find(|x| uid(&x.metadata) == u);
    let held = |u: &String| find(u).is_some_and(|x| has_finalizer(x));
    let (mut bad, gone_bad): (Vec<String>, Vec<String>) =
        books.failed.unwrap_or_default().into_iter().partition(held);
    let (mut good, gone_good): (Vec<String>, Vec<String>) =
        books.succeeded.unwrap_or_default().into_iter().partition(held);
    let add = |slot: &mut Option<i32>, more: usize| {
        let sum = slot.unwrap_or(0) + i32::try_from(more).unwrap_or(0);
        *slot = Some(sum).filter(|n| *n != 0);
    };
    add(&mut p.status.failed, gone_bad.len());
    let mut done = parse_indexes(p.status.completed_indexes.as_deref().unwrap_or(""));
    if !indexed {
        add(&mut p.status.succeeded, gone_good.len());
    }
    for pod in pods.iter().filter(|x| has_finalizer(x)) {
        let id = uid(&pod.metadata).to_owned();
        if phase(pod) == "Succeeded" {
            match index(pod).filter(|_| indexed) {
                Some(n) if n < spec.completions.unwrap_or(0) => {
                    done.insert(n);
                }
                Some(_) => {}
                None if !good.contains(&id) => good.push(id),
                None => {}
            }
        } else if counts_as_failed(spec, pod) {
            if !bad.contains(&id) {
                bad.push(id);
            }
        } else {
            continue;
        }
        if !p.release.iter().any(|x| Arc::ptr_eq(x, pod)) {
            p.release.push(pod.clone());
        }
    }
    if indexed {
        p.status.completed_indexes = Some(format_indexes(&done)).filter(|t| !t.is_empty());
        p.status.succeeded = i32::try_from(done.len()).ok().filter(|n| *n != 0);
    }
    let some = |l: Vec<String>| Some(l).filter(|l| !l.is_empty());
    p.status.uncounted_terminated_pods =
        Some(UncountedTerminatedPods { failed: some(bad), succeeded: some(good) });
}

fn grow(
    p: &mut Plan,
    spec: &JobSpec,
    indexed: bool,
    done: &BTreeSet<i32>,
    active: &[Arc<Pod>],
    missing: i32,
) {
    let missing = usize::try_from(missing).unwrap_or(0).min(crate::common::podctl::BURST);
    if indexed {
        let taken: BTreeSet<i32> = active.iter().filter_map(|x| index(x)).collect();
        let free = (0..spec.completions.unwrap_or(0)).filter(|n| !done.contains(n) && !taken.contains(n));
        p.indexes = free.take(missing).collect();
        p.create = p.indexes.len();
    } else {
        p.create = missing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;

    fn job(completions: Option<i32>, parallelism: i32, limit: i32, indexed: bool) -> Job {
        Job {
            spec: Some(JobSpec {
                completions,
                parallelism: Some(parallelism),
                backoff_limit: Some(limit),
                completion_mode: Some(if indexed { "Indexed" } else { "NonIndexed" }.into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pod(id: usize, index: Option<i32>, phase: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                uid: Some(id.to_string()),
                finalizers: Some(vec![FINALIZER.into()]),
                annotations: index.map(|n| [(INDEX.to_owned(), n.to_string())].into()),
                ..Default::default()
            },
            status: Some(PodStatus { phase: Some(phase.into()), ..Default::default() }),
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn indexes_are_written_and_read_back(set in prop::collection::btree_set(0i32..60, 0..40)) {
            prop_assert_eq!(parse_indexes(&format_indexes(&set)), set);
        }

        /// Run to its end with pods that end as luck has it: every end is counted once, never too many run at once, and
        /// the job finishes as it must.
        #[test]
        fn every_end_is_counted_once(
            completions in 1i32..8, parallelism in 1i32..4, limit in 0i32..4, indexed: bool,
            luck in prop::collection::vec(0u8..4, 400)
        ) {
            let mut j = job(Some(completions), parallelism, limit, indexed);
            let mut pods: Vec<Pod> = Vec::new();
            let (mut id, mut clock) = (0, 0i64);
            let (mut good, mut bad) = (0, 0);
            let mut luck = luck.into_iter().chain(std::iter::repeat(0));
            for _ in 0..600 {
                clock += 1000;
                let shared: Vec<Arc<Pod>> = pods.iter().cloned().map(Arc::new).collect();
                let p = plan(&j, &shared, Timestamp::from_second(clock).unwrap());
                for x in &p.release {
                    let at = pods.iter().position(|y| y.metadata.uid == x.metadata.uid).unwrap();
                    pods[at].metadata.finalizers = None;
                }
                for x in &p.delete { pods.retain(|y| y.metadata.uid != x.metadata.uid); }
                for n in 0..p.create {
                    id += 1;
                    pods.push(pod(id, p.indexes.get(n).copied(), "Running"));
                }
                j.status = Some(p.status);
                let running = pods.iter().filter(|x| phase(x) == "Running").count();
                prop_assert!(running as i32 <= parallelism);
                let s = j.status.as_ref().unwrap();
                if is_finished(s) {
                    prop_assert_eq!(s.failed.unwrap_or(0), bad);
                    prop_assert_eq!(s.succeeded.unwrap_or(0), good);
                    prop_assert_eq!(has(s, "Failed"), bad > limit);
                    prop_assert!(bad > limit || good == completions);
                    return Ok(());
                }
                for x in &mut pods {
                    if phase(x) == "Running" {
                        match luck.next().unwrap() {
                            0 | 1 => { x.status.as_mut().unwrap().phase = Some("Succeeded".into()); good += 1; }
                            2 => { x.status.as_mut().unwrap().phase = Some("Failed".into()); bad += 1; }
                            _ => {}
                        }
                    }
                }
            }
            prop_assert!(false, "never ends");
        }
    }

    #[test]
    fn suspension_stops_and_resumption_starts_the_clock_again() {
        let now = Timestamp::from_second(50).unwrap();
        let mut j = job(Some(1), 1, 6, false);
        j.spec.as_mut().unwrap().suspend = Some(true);
        let p = plan(&j, &[Arc::new(pod(1, None, "Running"))], now);
        assert_eq!((p.delete.len(), p.create), (1, 0));
        assert!(has(&p.status, "Suspended") && p.status.start_time.is_none());
        j.status = Some(p.status);
        j.spec.as_mut().unwrap().suspend = Some(false);
        let p = plan(&j, &[], now);
        assert_eq!(p.create, 1);
        assert!(!has(&p.status, "Suspended") && p.status.start_time.is_some());
    }
}
