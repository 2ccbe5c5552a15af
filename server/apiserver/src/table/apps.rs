//! Workloads: apps, batch, autoscaling, policy.

use super::words::{age, containers, int, items, map, name, or_none, selector, since, text};
use super::{AGE, NAME, Printer, column, number, wide};
use crate::registry::meta;
use serde_json::{Value, json};

pub(super) fn printer(group: &str, kind: &str) -> Option<&'static Printer> {
    Some(match (group, kind) {
        ("apps", "Deployment") => &DEPLOYMENT,
        ("apps", "ReplicaSet") => &REPLICA_SET,
        ("apps", "StatefulSet") => &STATEFUL_SET,
        ("apps", "DaemonSet") => &DAEMON_SET,
        ("apps", "ControllerRevision") => &CONTROLLER_REVISION,
        ("batch", "Job") => &JOB,
        ("batch", "CronJob") => &CRON_JOB,
        ("autoscaling", "HorizontalPodAutoscaler") => &AUTOSCALER,
        ("policy", "PodDisruptionBudget") => &DISRUPTION_BUDGET,
        _ => return None,
    })
}

fn workload(o: &Value) -> (Value, Value) {
    containers(&o["spec"]["template"]["spec"])
}

const DEPLOYMENT: Printer = Printer {
    columns: &[
        NAME,
        column("Ready"),
        number("Up-to-date"),
        number("Available"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o| {
        let status = &o["status"];
        let (names, images) = workload(o);
        vec![
            name(o),
            format!("{}/{}", int(&status["readyReplicas"]), int(&o["spec"]["replicas"])).into(),
            int(&status["updatedReplicas"]).into(),
            int(&status["availableReplicas"]).into(),
            age(o),
            names,
            images,
            selector(&o["spec"]["selector"]),
        ]
    },
};

const REPLICA_SET: Printer = Printer {
    columns: &[
        NAME,
        number("Desired"),
        number("Current"),
        number("Ready"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o| {
        let (names, images) = workload(o);
        let status = &o["status"];
        vec![
            name(o),
            int(&o["spec"]["replicas"]).into(),
            int(&status["replicas"]).into(),
            int(&status["readyReplicas"]).into(),
            age(o),
            names,
            images,
            selector(&o["spec"]["selector"]),
        ]
    },
};

pub(super) const REPLICATION_CONTROLLER: Printer = Printer {
    columns: REPLICA_SET.columns,
    cells: |o| {
        let mut cells = (REPLICA_SET.cells)(o);
        cells.pop();
        cells.push(or_none(map(&o["spec"]["selector"])));
        cells
    },
};

const STATEFUL_SET: Printer = Printer {
    columns: &[NAME, column("Ready"), AGE, wide("Containers"), wide("Images")],
    cells: |o| {
        let (names, images) = workload(o);
        let ready = format!("{}/{}", int(&o["status"]["readyReplicas"]), int(&o["spec"]["replicas"]));
        vec![name(o), ready.into(), age(o), names, images]
    },
};

const DAEMON_SET: Printer = Printer {
    columns: &[
        NAME,
        number("Desired"),
        number("Current"),
        number("Ready"),
        number("Up-to-date"),
        number("Available"),
        column("Node Selector"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o| {
        let (names, images) = workload(o);
        let status = |f: &str| Value::from(int(&o["status"][f]));
        vec![
            name(o),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            or_none(map(&o["spec"]["template"]["spec"]["nodeSelector"])),
            age(o),
            names,
            images,
            selector(&o["spec"]["selector"]),
        ]
    },
};

const CONTROLLER_REVISION: Printer = Printer {
    columns: &[NAME, column("Controller"), number("Revision"), AGE],
    cells: |o| {
        let owner =
            items(&o["metadata"]["ownerReferences"]).iter().find(|r| r["controller"] == Value::Bool(true));
        let controller = owner.map_or(String::new(), |r| {
            let group = text(&r["apiVersion"]).split_once('/').map_or("", |(g, _)| g);
            crate::status::group_resource(group, &text(&r["kind"]).to_lowercase()) + "/" + text(&r["name"])
        });
        vec![name(o), or_none(controller), int(&o["revision"]).into(), age(o)]
    },
};

const JOB: Printer = Printer {
    columns: &[
        NAME,
        column("Status"),
        column("Completions"),
        column("Duration"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let has = |kind: &str| {
            items(&status["conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True")
        };
        let state = if has("Complete") {
            "Complete"
        } else if has("Failed") {
            "Failed"
        } else if meta::deleting(o) {
            "Terminating"
        } else if has("Suspended") {
            "Suspended"
        } else if has("FailureTarget") {
            "FailureTarget"
        } else if has("SuccessCriteriaMet") {
            "SuccessCriteriaMet"
        } else {
            "Running"
        };
        let succeeded = int(&status["succeeded"]);
        let completions = match (spec["completions"].as_i64(), spec["parallelism"].as_i64()) {
            (Some(n), _) => format!("{succeeded}/{n}"),
            (None, Some(p)) if p > 1 => format!("{succeeded}/1 of {p}"),
            _ => format!("{succeeded}/1"),
        };
        let start = status["startTime"].as_str().and_then(meta::parse_time);
        let end = status["completionTime"].as_str().and_then(meta::parse_time);
        let duration = match (start, end) {
            (None, _) => String::new(),
            (Some(start), end) => {
                super::human_duration((end.unwrap_or_else(chrono::Utc::now) - start).num_seconds())
            }
        };
        let (names, images) = workload(o);
        vec![
            name(o),
            state.into(),
            completions.into(),
            duration.into(),
            age(o),
            names,
            images,
            selector(&spec["selector"]),
        ]
    },
};

const CRON_JOB: Printer = Printer {
    columns: &[
        NAME,
        column("Schedule"),
        column("Timezone"),
        column("Suspend"),
        number("Active"),
        column("Last Schedule"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |o| {
        let spec = &o["spec"];
        let last = &o["status"]["lastScheduleTime"];
        let (names, images) = containers(&spec["jobTemplate"]["spec"]["template"]["spec"]);
        let suspended = spec["suspend"] == Value::Bool(true);
        vec![
            name(o),
            text(&spec["schedule"]).into(),
            or_none(text(&spec["timeZone"])),
            if suspended { "True".into() } else { "False".into() },
            items(&o["status"]["active"]).len().into(),
            if last.is_string() { since(last) } else { "<none>".into() },
            age(o),
            names,
            images,
            selector(&spec["jobTemplate"]["spec"]["selector"]),
        ]
    },
};

const AUTOSCALER: Printer = Printer {
    columns: &[
        NAME,
        column("Reference"),
        column("Targets"),
        column("MinPods"),
        column("MaxPods"),
        number("Replicas"),
        AGE,
    ],
    cells: |o| {
        let spec = &o["spec"];
        let target = &spec["scaleTargetRef"];
        let min = spec["minReplicas"].as_i64().map_or("<unset>".to_owned(), |n| n.to_string());
        vec![
            name(o),
            format!("{}/{}", text(&target["kind"]), text(&target["name"])).into(),
            targets(o).into(),
            min.into(),
            int(&spec["maxReplicas"]).to_string().into(),
            int(&o["status"]["currentReplicas"]).into(),
            age(o),
        ]
    },
};

fn targets(o: &Value) -> String {
    const SHOWN: usize = 2;
    let current = items(&o["status"]["currentMetrics"]);
    let all = items(&o["spec"]["metrics"]);
    if all.is_empty() {
        return "<none>".into();
    }
    let mut words = Vec::new();
    for (i, metric) in all.iter().enumerate() {
        let (source, field) = match text(&metric["type"]) {
            "Resource" => (&metric["resource"], "resource"),
            "ContainerResource" => (&metric["containerResource"], "containerResource"),
            "Pods" => (&metric["pods"], "pods"),
            "Object" => (&metric["object"], "object"),
            "External" => (&metric["external"], "external"),
            _ => {
                words.push("<unknown type>".to_owned());
                continue;
            }
        };
        let now = current.get(i).map_or(Value::Null, |m| m[field]["current"].clone());
        let label = if matches!(field, "resource" | "containerResource") {
            format!("{}: ", text(&source["name"]))
        } else {
            String::new()
        };
        let target = &source["target"];
        words.push(if let Some(percent) = target["averageUtilization"].as_i64() {
            let now = now["averageUtilization"].as_i64().map_or("<unknown>".into(), |n| format!("{n}%"));
            format!("{label}{now}/{percent}%")
        } else if !text(&target["averageValue"]).is_empty() {
            let now =
                if text(&now["averageValue"]).is_empty() { "<unknown>" } else { text(&now["averageValue"]) };
            let suffix = if matches!(field, "object" | "external") { " (avg)" } else { "" };
            format!("{label}{now}/{}{suffix}", text(&target["averageValue"]))
        } else {
            let now = if text(&now["value"]).is_empty() { "<unknown>" } else { text(&now["value"]) };
            format!("{label}{now}/{}", text(&target["value"]))
        });
    }
    let more = words.len().saturating_sub(SHOWN);
    words.truncate(SHOWN);
    let shown = words.join(", ");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

const DISRUPTION_BUDGET: Printer = Printer {
    columns: &[NAME, column("Min Available"), column("Max Unavailable"), number("Allowed Disruptions"), AGE],
    cells: |o| {
        let spec = &o["spec"];
        let show = |v: &Value| match v {
            Value::Null => json!("N/A"),
            Value::String(s) => json!(s),
            other => json!(other.to_string()),
        };
        vec![
            name(o),
            show(&spec["minAvailable"]),
            show(&spec["maxUnavailable"]),
            int(&o["status"]["disruptionsAllowed"]).into(),
            age(o),
        ]
    },
};
