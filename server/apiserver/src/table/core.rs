//! The core group: pods, services, nodes and the rest of `v1`.

use super::words::{age, int, items, map, name, or_none, since, text};
use super::{AGE, Column, NAME, Printer, column, wide};
use crate::registry::meta;
use serde_json::{Value, json};

pub(super) fn printer(group: &str, kind: &str) -> Option<&'static Printer> {
    if !group.is_empty() {
        return None;
    }
    Some(match kind {
        "Pod" => &POD,
        "Service" => &SERVICE,
        "Node" => &NODE,
        "Namespace" => &NAMESPACE,
        "Event" => &EVENT,
        "ConfigMap" => &CONFIG_MAP,
        "Secret" => &SECRET,
        "ServiceAccount" => &SERVICE_ACCOUNT,
        "Endpoints" => &ENDPOINTS,
        "PersistentVolume" => &super::volumes::VOLUME,
        "PersistentVolumeClaim" => &super::volumes::CLAIM,
        "ResourceQuota" => &QUOTA,
        "PodTemplate" => &POD_TEMPLATE,
        "ComponentStatus" => &COMPONENT_STATUS,
        "ReplicationController" => &super::apps::REPLICATION_CONTROLLER,
        _ => return None,
    })
}

const POD: Printer = Printer {
    columns: &[
        NAME,
        column("Ready"),
        column("Status"),
        column("Restarts"),
        AGE,
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells: pod,
};

/// Upstream's `printPod`: the reason a person wants to see, worked out from phase and container states.
fn pod(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut restarts = 0;
    let mut restartable_init_restarts = 0;
    let mut total = items(&spec["containers"]).len();
    let mut ready = 0;
    let mut last_restart = None;
    let mut last_restartable_init_restart = None;
    let mut reason = text(&status["reason"]).to_owned();
    if reason.is_empty() {
        reason = text(&status["phase"]).to_owned();
    }
    let condition = |kind: &str| items(&status["conditions"]).iter().find(|c| c["type"] == kind);
    if condition("PodScheduled").is_some_and(|c| text(&c["reason"]) == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let later = |a: Option<chrono::DateTime<chrono::Utc>>, b: &Value| {
        let b = b.as_str().and_then(meta::parse_time);
        if b > a { b } else { a }
    };
    let sidecar = |n: &str| {
        items(&spec["initContainers"]).iter().any(|c| c["name"] == n && c["restartPolicy"] == "Always")
    };
    total += items(&spec["initContainers"]).iter().filter(|c| c["restartPolicy"] == "Always").count();
    let init_count = items(&spec["initContainers"]).len();
    let mut initializing = false;
    for (i, c) in items(&status["initContainerStatuses"]).iter().enumerate() {
        restarts += int(&c["restartCount"]);
        last_restart = later(last_restart, &c["lastState"]["terminated"]["finishedAt"]);
        let is_sidecar = sidecar(text(&c["name"]));
        if is_sidecar {
            restartable_init_restarts += int(&c["restartCount"]);
            last_restartable_init_restart =
                later(last_restartable_init_restart, &c["lastState"]["terminated"]["finishedAt"]);
        }
        let state = &c["state"];
        let terminated = &state["terminated"];
        if terminated.is_object() && int(&terminated["exitCode"]) == 0 {
            continue;
        }
        if is_sidecar && c["started"] == Value::Bool(true) {
            if c["ready"] == Value::Bool(true) {
                ready += 1;
            }
            continue;
        }
        if terminated.is_object() {
            let why = text(&terminated["reason"]);
            reason = if !why.is_empty() {
                format!("Init:{why}")
            } else if int(&terminated["signal"]) != 0 {
                format!("Init:Signal:{}", int(&terminated["signal"]))
            } else {
                format!("Init:ExitCode:{}", int(&terminated["exitCode"]))
            };
            initializing = true;
        } else {
            let why = text(&state["waiting"]["reason"]);
            reason = if !why.is_empty() && why != "PodInitializing" {
                format!("Init:{why}")
            } else {
                format!("Init:{i}/{init_count}")
            };
            initializing = true;
        }
        break;
    }
    let initialized = condition("Initialized").is_some_and(|c| c["status"] == "True");
    if !initializing || initialized {
        restarts = restartable_init_restarts;
        last_restart = last_restartable_init_restart;
        let mut running = false;
        for c in items(&status["containerStatuses"]).iter().rev() {
            restarts += int(&c["restartCount"]);
            last_restart = later(last_restart, &c["lastState"]["terminated"]["finishedAt"]);
            let (waiting, terminated) = (&c["state"]["waiting"], &c["state"]["terminated"]);
            if !text(&waiting["reason"]).is_empty() {
                reason = text(&waiting["reason"]).to_owned();
            } else if terminated.is_object() && !text(&terminated["reason"]).is_empty() {
                reason = text(&terminated["reason"]).to_owned();
            } else if terminated.is_object() {
                reason = if int(&terminated["signal"]) != 0 {
                    format!("Signal:{}", int(&terminated["signal"]))
                } else {
                    format!("ExitCode:{}", int(&terminated["exitCode"]))
                };
            } else if c["ready"] == Value::Bool(true) && c["state"]["running"].is_object() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let is_ready = condition("Ready").is_some_and(|c| c["status"] == "True");
            reason = if is_ready { "Running".into() } else { "NotReady".into() };
        }
    }
    if meta::deleting(object) {
        if status["reason"] == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(text(&status["phase"]), "Failed" | "Succeeded") {
            reason = "Terminating".into();
        }
    }
    let restart_text = match last_restart {
        Some(at) if restarts != 0 => {
            format!("{restarts} ({} ago)", super::human_duration((chrono::Utc::now() - at).num_seconds()))
        }
        _ => restarts.to_string(),
    };
    let ip = items(&status["podIPs"]).first().map_or(text(&status["podIP"]), |ip| text(&ip["ip"]));
    let gates = items(&spec["readinessGates"]);
    let gates = if gates.is_empty() {
        String::new()
    } else {
        let met = gates
            .iter()
            .filter(|g| condition(text(&g["conditionType"])).is_some_and(|c| c["status"] == "True"))
            .count();
        format!("{met}/{}", gates.len())
    };
    vec![
        name(object),
        format!("{ready}/{total}").into(),
        reason.into(),
        restart_text.into(),
        age(object),
        or_none(ip),
        or_none(text(&spec["nodeName"])),
        or_none(text(&status["nominatedNodeName"])),
        or_none(gates),
    ]
}

const SERVICE: Printer = Printer {
    columns: &[
        NAME,
        column("Type"),
        column("Cluster-IP"),
        column("External-IP"),
        column("Port(s)"),
        AGE,
        wide("Selector"),
    ],
    cells: |o| {
        let spec = &o["spec"];
        let kind = text(&spec["type"]);
        let cluster_ip = items(&spec["clusterIPs"]).first().map_or(text(&spec["clusterIP"]), text);
        vec![
            name(o),
            kind.into(),
            or_none(cluster_ip),
            external_ip(o).into(),
            ports(spec),
            age(o),
            or_none(map(&spec["selector"])),
        ]
    },
};

fn external_ip(o: &Value) -> String {
    let spec = &o["spec"];
    let external: Vec<&str> = items(&spec["externalIPs"]).iter().map(text).collect();
    match text(&spec["type"]) {
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        "LoadBalancer" => {
            let mut all: Vec<&str> = items(&o["status"]["loadBalancer"]["ingress"])
                .iter()
                .map(|i| if text(&i["ip"]).is_empty() { text(&i["hostname"]) } else { text(&i["ip"]) })
                .filter(|s| !s.is_empty())
                .collect();
            all.extend(external);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if external.is_empty() => "<none>".into(),
        _ => external.join(","),
    }
}

fn ports(spec: &Value) -> Value {
    let all: Vec<String> = items(&spec["ports"])
        .iter()
        .map(|p| {
            let node = int(&p["nodePort"]);
            if node > 0 {
                format!("{}:{node}/{}", int(&p["port"]), text(&p["protocol"]))
            } else {
                format!("{}/{}", int(&p["port"]), text(&p["protocol"]))
            }
        })
        .collect();
    or_none(all.join(","))
}

const NODE: Printer = Printer {
    columns: &[
        NAME,
        column("Status"),
        column("Roles"),
        AGE,
        column("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |o| {
        let status = &o["status"];
        let ready = items(&status["conditions"]).iter().find(|c| c["type"] == "Ready");
        let mut words = vec![match ready {
            Some(c) if c["status"] == "True" => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }];
        if o["spec"]["unschedulable"] == Value::Bool(true) {
            words.push("SchedulingDisabled");
        }
        let mut roles: Vec<String> = o["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => Some(role.to_owned()),
                _ if k == "kubernetes.io/role" && !text(v).is_empty() => Some(text(v).to_owned()),
                _ => None,
            })
            .collect();
        roles.sort();
        roles.dedup();
        let address = |kind: &str| {
            let found = items(&status["addresses"]).iter().find(|a| a["type"] == kind);
            or_none(found.map_or("", |a| text(&a["address"])))
        };
        let info = &status["nodeInfo"];
        let known = |v: &Value| if text(v).is_empty() { Value::from("<unknown>") } else { v.clone() };
        vec![
            name(o),
            words.join(",").into(),
            or_none(roles.join(",")),
            age(o),
            text(&info["kubeletVersion"]).into(),
            address("InternalIP"),
            address("ExternalIP"),
            known(&info["osImage"]),
            known(&info["kernelVersion"]),
            known(&info["containerRuntimeVersion"]),
        ]
    },
};

const NAMESPACE: Printer = Printer {
    columns: &[NAME, column("Status"), AGE],
    cells: |o| vec![name(o), o["status"]["phase"].clone(), age(o)],
};

const EVENT: Printer = Printer {
    columns: &[
        column("Last Seen"),
        column("Type"),
        column("Reason"),
        column("Object"),
        wide("Subobject"),
        wide("Source"),
        column("Message"),
        wide("First Seen"),
        wide("Count"),
        Column { name: "Name", kind: "string", format: "name", priority: 1 },
    ],
    cells: |o| {
        let first = if o["firstTimestamp"].is_string() {
            since(&o["firstTimestamp"])
        } else {
            since(&o["eventTime"])
        };
        let last = if o["series"].is_object() {
            since(&o["series"]["lastObservedTime"])
        } else if o["lastTimestamp"].is_string() {
            since(&o["lastTimestamp"])
        } else {
            first.clone()
        };
        let count =
            if o["series"].is_object() { int(&o["series"]["count"]) } else { int(&o["count"]).max(1) };
        let about = &o["involvedObject"];
        let target = if text(&about["name"]).is_empty() {
            text(&about["kind"]).to_lowercase()
        } else {
            format!("{}/{}", text(&about["kind"]).to_lowercase(), text(&about["name"]))
        };
        let component = match text(&o["source"]["component"]) {
            "" => text(&o["reportingComponent"]),
            c => c,
        };
        let host = match text(&o["source"]["host"]) {
            "" => text(&o["reportingInstance"]),
            h => h,
        };
        let source =
            [component, host].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(", ");
        vec![
            last,
            o["type"].clone(),
            o["reason"].clone(),
            target.into(),
            text(&about["fieldPath"]).into(),
            source.into(),
            text(&o["message"]).trim().into(),
            first,
            count.to_string().into(),
            name(o),
        ]
    },
};

fn size(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

const CONFIG_MAP: Printer = Printer {
    columns: &[NAME, column("Data"), AGE],
    cells: |o| vec![name(o), json!(size(&o["data"]) + size(&o["binaryData"])), age(o)],
};

const SECRET: Printer = Printer {
    columns: &[NAME, column("Type"), column("Data"), AGE],
    cells: |o| vec![name(o), o["type"].clone(), json!(size(&o["data"])), age(o)],
};

const SERVICE_ACCOUNT: Printer = Printer {
    columns: &[NAME, column("Secrets"), AGE],
    cells: |o| vec![name(o), json!(items(&o["secrets"]).len()), age(o)],
};

const ENDPOINTS: Printer =
    Printer { columns: &[NAME, column("Endpoints"), AGE], cells: |o| vec![name(o), endpoints(o), age(o)] };

fn endpoints(o: &Value) -> Value {
    const SHOWN: usize = 3;
    let mut all = Vec::new();
    for subset in items(&o["subsets"]) {
        let ports = items(&subset["ports"]);
        for address in items(&subset["addresses"]) {
            if ports.is_empty() {
                all.push(text(&address["ip"]).to_owned());
            }
            for port in ports {
                all.push(format!("{}:{}", text(&address["ip"]), int(&port["port"])));
            }
        }
    }
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let shown = all.join(",");
    if more > 0 { format!("{shown} + {more} more...").into() } else { or_none(shown) }
}

const QUOTA: Printer = Printer {
    columns: &[NAME, column("Request"), column("Limit"), AGE],
    cells: |o| {
        let (hard, used) = (&o["status"]["hard"], &o["status"]["used"]);
        let show = |limits: bool| {
            let pairs = hard.as_object().into_iter().flatten();
            let mut all: Vec<String> = pairs
                .filter(|(k, _)| k.starts_with("limits.") == limits)
                .map(|(k, v)| format!("{k}: {}/{}", text(&used[k]), text(v)))
                .collect();
            all.sort();
            Value::from(all.join(", "))
        };
        vec![name(o), show(false), show(true), age(o)]
    },
};

const POD_TEMPLATE: Printer = Printer {
    columns: &[NAME, column("Containers"), column("Images"), column("Pod Labels")],
    cells: |o| {
        let (names, images) = super::words::containers(&o["template"]["spec"]);
        vec![name(o), names, images, or_none(map(&o["template"]["metadata"]["labels"]))]
    },
};

const COMPONENT_STATUS: Printer = Printer {
    columns: &[NAME, column("Status"), column("Message"), column("Error")],
    cells: |o| {
        let c = items(&o["conditions"]).iter().find(|c| c["type"] == "Healthy");
        let get = |f: &str| c.map_or(Value::from(""), |c| text(&c[f]).into());
        let healthy = c.is_some_and(|c| c["status"] == "True");
        vec![
            name(o),
            if healthy { "Healthy".into() } else { "Unhealthy".into() },
            get("message"),
            get("error"),
        ]
    },
};
