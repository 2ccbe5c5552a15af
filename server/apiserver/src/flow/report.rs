//! What flow control tells about itself: `apiserver_flowcontrol_*` and the debug dumps.

use super::FlowControl;
use super::level::{Histogram, REASONS, Series};
use super::queues::Mode;
use crate::ApiServer;
use crate::http::options::Query;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

const PREFIX: &str = "apiserver_flowcontrol_";

struct Page<'a>(&'a mut String);

impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{PREFIX}{name}{{{labels}}} {value}");
    }

    fn histogram<const N: usize>(&mut self, name: &str, labels: &str, histogram: &Histogram<N>) {
        let (rows, count, sum) = histogram.read();
        if count == 0 {
            return;
        }
        for (bound, below) in rows {
            let _ = writeln!(self.0, "{PREFIX}{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(
            self.0,
            "{PREFIX}{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{PREFIX}{name}_sum{{{labels}}} {sum}\n\
             {PREFIX}{name}_count{{{labels}}} {count}"
        );
    }
}

fn labels(series: &Series) -> String {
    format!("flow_schema=\"{}\",priority_level=\"{}\"", series.schema, series.level)
}

impl FlowControl {
    /// Lines for `/metrics`.
    pub(crate) fn render(&self, out: &mut String) {
        let state = self.state.lock();
        let mut all: Vec<Arc<Series>> = state.series.values().cloned().collect();
        let mut levels: Vec<_> = state.levels.values().map(|held| held.level.clone()).collect();
        let fair = state.fair;
        drop(state);
        all.sort_by(|a, b| (&a.level, &a.schema).cmp(&(&b.level, &b.schema)));
        levels.sort_by(|a, b| a.name.cmp(&b.name));
        let mut page = Page(out);
        type Gauge = (&'static str, &'static str, &'static str, fn(&Series) -> i64);
        let gauges: [Gauge; 5] = [
            (
                "dispatched_requests_total",
                "counter",
                "Number of requests executed by API Priority and Fairness subsystem",
                |s| i64::try_from(s.dispatched.load(Relaxed)).unwrap_or(i64::MAX),
            ),
            (
                "current_executing_requests",
                "gauge",
                "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
                |s| s.executing.load(Relaxed),
            ),
            (
                "current_executing_seats",
                "gauge",
                "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
                |s| s.executing_seats.load(Relaxed),
            ),
            (
                "current_inqueue_requests",
                "gauge",
                "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
                |s| s.waiting.load(Relaxed),
            ),
            (
                "current_inqueue_seats",
                "gauge",
                "Number of seats currently pending in queues of the API Priority and Fairness subsystem",
                |s| s.waiting_seats.load(Relaxed),
            ),
        ];
        for (name, kind, help, value) in gauges {
            page.head(name, kind, help);
            for series in &all {
                page.line(name, &labels(series), value(series));
            }
        }
        page.head(
            "rejected_requests_total",
            "counter",
            "Number of requests rejected by API Priority and Fairness subsystem",
        );
        for series in &all {
            for (reason, count) in REASONS.iter().zip(&series.rejected) {
                let count = count.load(Relaxed);
                if count > 0 {
                    page.line(
                        "rejected_requests_total",
                        &format!("{},reason=\"{reason}\"", labels(series)),
                        count,
                    );
                }
            }
        }
        page.head(
            "request_wait_duration_seconds",
            "histogram",
            "Length of time a request spent waiting in its queue",
        );
        for series in &all {
            for (execute, histogram) in [("false", &series.waited_in_vain), ("true", &series.waited)] {
                let labels = format!("execute=\"{execute}\",{}", labels(series));
                page.histogram("request_wait_duration_seconds", &labels, histogram);
            }
        }
        page.head(
            "request_execution_seconds",
            "histogram",
            "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
        );
        for series in &all {
            for (kind, histogram) in [("regular", &series.ran), ("watch", &series.ran_watch)] {
                let labels = format!("{},type=\"{kind}\"", labels(series));
                page.histogram("request_execution_seconds", &labels, histogram);
            }
        }
        page.head(
            "work_estimated_seats",
            "histogram",
            "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
        );
        for series in &all {
            page.histogram("work_estimated_seats", &labels(series), &series.estimated);
        }
        page.head(
            "request_queue_length_after_enqueue",
            "histogram",
            "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
        );
        for series in &all {
            page.histogram("request_queue_length_after_enqueue", &labels(series), &series.lengths);
        }
        page.head(
            "watch_count_samples",
            "histogram",
            "count of watchers for mutating requests in API Priority and Fairness",
        );
        for series in &all {
            page.histogram("watch_count_samples", &labels(series), &series.watchers);
        }
        let now = Instant::now();
        let states: Vec<_> = levels
            .iter()
            .map(|level| {
                let mut queues = level.queues.lock();
                queues.sync(now);
                (level.name.clone(), *level.limits.lock(), queues.r, queues.no_room)
            })
            .collect();
        type Figure = (&'static str, &'static str, fn(&super::level::Limits) -> f64);
        let figures: [Figure; 9] = [
            (
                "nominal_limit_seats",
                "Nominal number of execution seats configured for each priority level",
                |l| f64::from(l.nominal),
            ),
            (
                "lower_limit_seats",
                "Configured lower bound on number of execution seats available to each priority level",
                |l| f64::from(l.least),
            ),
            (
                "upper_limit_seats",
                "Configured upper bound on number of execution seats available to each priority level",
                |l| f64::from(l.most),
            ),
            (
                "current_limit_seats",
                "current derived number of execution seats available to each priority level",
                |l| f64::from(l.current),
            ),
            (
                "demand_seats_high_watermark",
                "High watermark, over last adjustment period, of demand_seats",
                |l| f64::from(l.demand.peak),
            ),
            (
                "demand_seats_average",
                "Time-weighted average, over last adjustment period, of demand_seats",
                |l| l.demand.mean,
            ),
            (
                "demand_seats_stdev",
                "Time-weighted standard deviation, over last adjustment period, of demand_seats",
                |l| l.demand.deviation,
            ),
            ("demand_seats_smoothed", "Smoothed seat demands", |l| l.demand.smoothed),
            ("target_seats", "Seat allocation targets", |l| l.demand.target),
        ];
        for (name, help, value) in figures {
            page.head(name, "gauge", help);
            for (level, limits, ..) in &states {
                page.line(name, &format!("priority_level=\"{level}\""), value(limits));
            }
        }
        page.head(
            "request_dispatch_no_accommodation_total",
            "counter",
            "Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats",
        );
        for (level, .., count) in &states {
            page.line(
                "request_dispatch_no_accommodation_total",
                &format!("priority_level=\"{level}\""),
                count,
            );
        }
        page.head("current_r", "gauge", "R(time of last change)");
        for (level, _, r, _) in &states {
            page.line("current_r", &format!("priority_level=\"{level}\""), r);
        }
        page.head(
            "seat_fair_frac",
            "gauge",
            "Fair fraction of server's concurrency to allocate to each priority level that can use it",
        );
        let _ = writeln!(page.0, "{PREFIX}seat_fair_frac {fair}");
    }
}

/// `/debug/api_priority_and_fairness/<which>`; `None` for an unknown one.
pub(crate) fn dump(server: &ApiServer, which: &str, query: &Query) -> Option<String> {
    let flow = &server.flow;
    match which {
        "dump_priority_levels" => Some(priority_levels(flow)),
        "dump_queues" => Some(queues(flow)),
        "dump_requests" => {
            Some(requests(flow, query.get("includeRequestDetails").is_some_and(|v| !v.is_empty())))
        }
        _ => None,
    }
}

/// Rows with a comma after each cell, in columns of equal width, as upstream's tab writer makes them.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let longest = rows.iter().filter(|r| at + 1 < r.len()).map(|r| r[at].chars().count() + 1).max();
        (longest.unwrap_or(0) + 1).max(8)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            if at + 1 == row.len() {
                out.push_str(cell);
            } else {
                let _ = write!(out, "{:<width$}", format!("{cell},"), width = widths[at]);
            }
        }
        out.push('\n');
    }
    out
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

fn priority_levels(flow: &FlowControl) -> String {
    let mut rows = vec![words(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    let state = flow.state.lock();
    for (name, held) in sorted(&state.levels) {
        let of_level = state.series.iter().filter(|((level, _), _)| level == name).map(|(_, s)| s);
        let (mut dispatched, mut rejected, mut timed_out, mut cancelled) = (0, 0, 0, 0);
        for series in of_level {
            dispatched += series.dispatched.load(Relaxed);
            rejected += series.rejected.iter().map(|r| r.load(Relaxed)).sum::<u64>();
            timed_out += series.rejected[2].load(Relaxed);
            cancelled += series.rejected[3].load(Relaxed);
        }
        let queues = held.level.queues.lock();
        let active = queues.queues.iter().filter(|q| !q.waiting.is_empty()).count();
        let mut row =
            vec![name.clone(), active.to_string(), queues.idle().to_string(), held.leaving.to_string()];
        row.extend(
            [
                u64::from(queues.waiting),
                u64::from(queues.executing),
                dispatched,
                rejected,
                timed_out,
                cancelled,
            ]
            .map(|n| n.to_string()),
        );
        rows.push(row);
    }
    aligned(&rows)
}

fn sorted<V>(map: &std::collections::HashMap<String, V>) -> std::collections::BTreeMap<&String, &V> {
    map.iter().collect()
}

fn queues(flow: &FlowControl) -> String {
    let mut rows = vec![words(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    let state = flow.state.lock();
    for (name, held) in sorted(&state.levels) {
        let set = held.level.queues.lock();
        if set.mode == Mode::Exempt {
            let mut row = vec![name.clone()];
            row.extend(std::iter::repeat_n("<none>".to_owned(), 8));
            rows.push(row);
        }
        for (index, queue) in set.queues.iter().enumerate() {
            rows.push(vec![
                name.clone(),
                index.to_string(),
                queue.waiting.len().to_string(),
                queue.executing.to_string(),
                queue.seats.to_string(),
                format!("{:.8}ss", queue.next),
                queue.waiting_initial.to_string(),
                queue.waiting_seats.to_string(),
                format!("{:.8}ss", queue.waiting_work),
            ]);
        }
    }
    aligned(&rows)
}

fn requests(flow: &FlowControl, details: bool) -> String {
    let mut head = words(&[
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ]);
    if details {
        head.extend(words(&[
            "UserName",
            "Verb",
            "APIPath",
            "Namespace",
            "Name",
            "APIVersion",
            "Resource",
            "SubResource",
        ]));
    }
    let mut rows = vec![head];
    let state = flow.state.lock();
    for (name, held) in sorted(&state.levels) {
        let set = held.level.queues.lock();
        for (index, queue) in set.queues.iter().enumerate() {
            for (place, waiting) in queue.waiting.iter().enumerate() {
                let d = &waiting.details;
                let mut row = vec![
                    name.clone(),
                    d.schema.clone(),
                    index.to_string(),
                    place.to_string(),
                    d.distinguisher.clone(),
                    d.at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
                    waiting.work.initial.to_string(),
                    waiting.work.last.to_string(),
                    format!("{:?}", waiting.work.linger),
                    "0001-01-01T00:00:00Z".to_owned(),
                ];
                if details {
                    row.extend(
                        [
                            &d.user,
                            &d.verb,
                            &d.path,
                            &d.namespace,
                            &d.name,
                            &d.version,
                            &d.resource,
                            &d.subresource,
                        ]
                        .map(String::clone),
                    );
                }
                rows.push(row);
            }
        }
    }
    aligned(&rows)
}
