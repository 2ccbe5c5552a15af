//! The Baseline standard: known ways out of a container are closed.

use super::super::support::containers;
use super::{Check, Violation, named, plural, quoted, setters};
use crate::reader::{items, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// All of Baseline, in the order messages list them.
pub(super) const ALL: [Check; 12] = [
    app_armor,
    capabilities,
    host_namespaces,
    host_path,
    host_ports,
    host_probes,
    privileged,
    proc_mount,
    se_linux,
    seccomp,
    sysctls,
    windows_host_process,
];

/// Without those that Restricted has a stricter form of.
pub(super) const NOT_OVERRIDDEN: [Check; 10] = [
    app_armor,
    host_namespaces,
    host_path,
    host_ports,
    host_probes,
    privileged,
    proc_mount,
    se_linux,
    sysctls,
    windows_host_process,
];

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail })
}

/// Names of the containers for which `bad` says so.
pub(super) fn offenders<'a>(pod: &'a Value, bad: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
    containers(&pod["spec"]).filter(|(_, _, c)| bad(c)).map(|(_, _, c)| text(c, "/name")).collect()
}

fn app_armor(pod: &Value) -> Option<Violation> {
    let unconfined = |at: &Value| text(at, "/securityContext/appArmorProfile/type") == "Unconfined";
    let (whole, names) = (unconfined(&pod["spec"]), offenders(pod, unconfined));
    let mut values = BTreeSet::new();
    let mut who = Vec::new();
    if whole || !names.is_empty() {
        values.insert("\"Unconfined\"".to_owned());
        who.push(setters(whole, &names));
    }
    let mut annotations = Vec::new();
    for (key, value) in pod["metadata"]["annotations"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or("");
        let fine = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !fine {
            annotations.push(key);
            values.insert(format!("{value:?}"));
        }
    }
    if !annotations.is_empty() {
        let word = plural("annotation", "annotations", annotations.len());
        who.push(format!("{word} {}", quoted(annotations)));
    }
    if who.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    let values = values.into_iter().collect::<Vec<_>>().join(", ");
    violation(reason, format!("{} must not set AppArmor profile type to {values}", who.join(" and ")))
}

fn capabilities(pod: &Value) -> Option<Violation> {
    let added = |c: &Value| -> Vec<String> {
        let all = items(c, "/securityContext/capabilities/add").iter().filter_map(Value::as_str);
        all.filter(|cap| !CAPABILITIES.contains(cap)).map(str::to_owned).collect()
    };
    let names = offenders(pod, |c| !added(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = containers(&pod["spec"]).flat_map(|(_, _, c)| added(c)).collect();
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", named(&names), quoted(all));
    violation("non-default capabilities", detail)
}

fn host_namespaces(pod: &Value) -> Option<Violation> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod["spec"][**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

fn host_path(pod: &Value) -> Option<Violation> {
    let volumes = items(pod, "/spec/volumes").iter().filter(|v| v["hostPath"].is_object());
    let names: Vec<&str> = volumes.map(|v| text(v, "/name")).collect();
    if names.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(names)))
}

fn host_ports(pod: &Value) -> Option<Violation> {
    let ports = |c: &Value| -> Vec<i64> {
        items(c, "/ports").iter().filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).collect()
    };
    let names = offenders(pod, |c| !ports(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<i64> = containers(&pod["spec"]).flat_map(|(_, _, c)| ports(c)).collect();
    let word = plural("hostPort", "hostPorts", all.len());
    let uses = plural("uses", "use", names.len());
    let list = all.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    violation(word, format!("{} {uses} {word} {list}", named(&names)))
}

fn host_probes(pod: &Value) -> Option<Violation> {
    let hosts = |c: &Value| -> Vec<String> {
        let handlers = [
            &c["livenessProbe"],
            &c["readinessProbe"],
            &c["startupProbe"],
            &c["lifecycle"]["postStart"],
            &c["lifecycle"]["preStop"],
        ];
        let of = |h: &Value| [text(h, "/httpGet/host").to_owned(), text(h, "/tcpSocket/host").to_owned()];
        handlers.into_iter().flat_map(of).filter(|host| !host.is_empty()).collect()
    };
    let names = offenders(pod, |c| !hosts(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = containers(&pod["spec"]).flat_map(|(_, _, c)| hosts(c)).collect();
    let uses = plural("uses", "use", names.len());
    let word = plural("probe or lifecycle host", "probe or lifecycle hosts", all.len());
    violation("probe or lifecycle host", format!("{} {uses} {word} {}", named(&names), quoted(all)))
}

fn privileged(pod: &Value) -> Option<Violation> {
    let names = offenders(pod, |c| c["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", named(&names)))
}

fn proc_mount(pod: &Value) -> Option<Violation> {
    let odd = |c: &Value| {
        Some(text(c, "/securityContext/procMount").to_owned()).filter(|m| !m.is_empty() && m != "Default")
    };
    let names = offenders(pod, |c| odd(c).is_some());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = containers(&pod["spec"]).filter_map(|(_, _, c)| odd(c)).collect();
    violation(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", named(&names), quoted(all)),
    )
}

fn se_linux(pod: &Value) -> Option<Violation> {
    const TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let options = |at: &Value| {
        let of = |field: &str| text(at, &format!("/securityContext/seLinuxOptions/{field}")).to_owned();
        (of("type"), of("user"), of("role"))
    };
    let bad = |at: &Value| {
        let (kind, user, role) = options(at);
        !TYPES.contains(&kind.as_str()) || !user.is_empty() || !role.is_empty()
    };
    let (whole, names) = (bad(&pod["spec"]), offenders(pod, bad));
    if !whole && names.is_empty() {
        return None;
    }
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    for at in std::iter::once(&pod["spec"]).chain(containers(&pod["spec"]).map(|(_, _, c)| c)) {
        let (kind, u, r) = options(at);
        if !TYPES.contains(&kind.as_str()) {
            types.insert(kind);
        }
        user |= !u.is_empty();
        role |= !r.is_empty();
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    if user {
        data.push("user may not be set".into());
    }
    if role {
        data.push("role may not be set".into());
    }
    let who = setters(whole, &names);
    violation(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")),
    )
}

fn seccomp(pod: &Value) -> Option<Violation> {
    let unconfined = |at: &Value| text(at, "/securityContext/seccompProfile/type") == "Unconfined";
    let (whole, names) = (unconfined(&pod["spec"]), offenders(pod, unconfined));
    if !whole && names.is_empty() {
        return None;
    }
    let who = setters(whole, &names);
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to \"Unconfined\""),
    )
}

fn sysctls(pod: &Value) -> Option<Violation> {
    let all = items(pod, "/spec/securityContext/sysctls").iter().map(|s| text(s, "/name"));
    let bad: Vec<&str> = all.filter(|name| !SYSCTLS.contains(name)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(pod: &Value) -> Option<Violation> {
    let set = |at: &Value| at["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let (whole, names) = (set(&pod["spec"]), offenders(pod, set));
    if !whole && names.is_empty() {
        return None;
    }
    let who = setters(whole, &names);
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
