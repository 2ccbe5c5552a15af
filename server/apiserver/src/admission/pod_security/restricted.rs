//! The Restricted standard: hardening that most workloads can live with.

use super::super::support::containers;
use super::baseline::offenders;
use super::{Check, Violation, named, on_windows, plural, quoted, setters};
use crate::reader::{items, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// All of Restricted that Baseline does not have, in the order messages list them.
pub(super) const ALL: [Check; 6] = [escalation, capabilities, volumes, non_root, user, seccomp];

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail })
}

fn escalation(pod: &Value) -> Option<Violation> {
    let names = offenders(pod, |c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() || on_windows(pod) {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&names));
    violation("allowPrivilegeEscalation != false", detail)
}

fn capabilities(pod: &Value) -> Option<Violation> {
    if on_windows(pod) {
        return None;
    }
    let keeps =
        offenders(pod, |c| !items(c, "/securityContext/capabilities/drop").iter().any(|d| d == "ALL"));
    let added = |c: &Value| -> Vec<String> {
        let all = items(c, "/securityContext/capabilities/add").iter().filter_map(Value::as_str);
        all.filter(|cap| *cap != "NET_BIND_SERVICE").map(str::to_owned).collect()
    };
    let adds = offenders(pod, |c| !added(c).is_empty());
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
    }
    if !adds.is_empty() {
        let all: BTreeSet<String> = containers(&pod["spec"]).flat_map(|(_, _, c)| added(c)).collect();
        let list = quoted(all);
        details.push(format!("{} must not include {list} in securityContext.capabilities.add", named(&adds)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &Value) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in items(pod, "/spec/volumes") {
        let members = volume.as_object().into_iter().flatten();
        let sources = members.filter(|(key, value)| *key != "name" && !value.is_null()).map(|(key, _)| key);
        let bad: Vec<&String> = sources.filter(|key| !ALLOWED.contains(&key.as_str())).collect();
        if !bad.is_empty() {
            names.push(text(volume, "/name"));
            types.extend(bad);
        }
    }
    if names.is_empty() {
        return None;
    }
    let (volume, uses) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
    let kind = plural("restricted volume type", "restricted volume types", types.len());
    violation(
        "restricted volume types",
        format!("{volume} {} {uses} {kind} {}", quoted(names), quoted(types)),
    )
}

fn non_root(pod: &Value) -> Option<Violation> {
    let whole = pod["spec"]["securityContext"]["runAsNonRoot"].as_bool();
    let own = |c: &Value| c["securityContext"]["runAsNonRoot"].as_bool();
    let refused = offenders(pod, |c| own(c) == Some(false));
    // A pod's own `false` does not matter where every container says otherwise.
    let unset = offenders(pod, |c| own(c).is_none());
    let pod_refuses = whole == Some(false) && !unset.is_empty();
    const REASON: &str = "runAsNonRoot != true";
    if pod_refuses || !refused.is_empty() {
        let who = setters(pod_refuses, &refused);
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if whole == Some(true) || unset.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&unset)))
}

fn user(pod: &Value) -> Option<Violation> {
    let root = |at: &Value| at["securityContext"]["runAsUser"] == 0;
    let (whole, names) = (root(&pod["spec"]), offenders(pod, root));
    if !whole && names.is_empty() {
        return None;
    }
    violation("runAsUser=0", format!("{} must not set runAsUser=0", setters(whole, &names)))
}

fn seccomp(pod: &Value) -> Option<Violation> {
    if on_windows(pod) {
        return None;
    }
    let kind = |at: &Value| text(at, "/securityContext/seccompProfile/type").to_owned();
    let fine = |kind: &str| kind == "RuntimeDefault" || kind == "Localhost";
    let bad = |kind: &str| !kind.is_empty() && !fine(kind);
    let whole = kind(&pod["spec"]);
    let (refused, unset) = (offenders(pod, |c| bad(&kind(c))), offenders(pod, |c| kind(c).is_empty()));
    let pod_refuses = bad(&whole) && !unset.is_empty();
    if pod_refuses || !refused.is_empty() {
        let mut values: BTreeSet<String> =
            containers(&pod["spec"]).map(|(_, _, c)| kind(c)).filter(|k| bad(k)).collect();
        if pod_refuses {
            values.insert(whole);
        }
        let who = setters(pod_refuses, &refused);
        let values = quoted(values);
        return violation(
            "seccompProfile",
            format!("{who} must not set securityContext.seccompProfile.type to {values}"),
        );
    }
    if fine(&whole) || unset.is_empty() {
        return None;
    }
    let who = named(&unset);
    let detail = format!(
        "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
    );
    violation("seccompProfile", detail)
}
