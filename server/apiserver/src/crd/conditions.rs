//! What a definition's status says: the names it got, and its conditions. Source: apiextensions-apiserver's naming,
//! establishing, approval and finalizing controllers.

use crate::registry::meta;
use kinds::approval;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A condition without its time.
pub(super) struct Condition {
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Condition {
    pub fn terminating(status: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind: "Terminating", status, reason, message: message.into() }
    }
}

/// Names already taken in a group.
#[derive(Default)]
pub(super) struct Taken {
    pub resources: BTreeSet<String>,
    pub kinds: BTreeSet<String>,
}

impl Taken {
    /// Adds what a definition of the group has been given.
    fn add(&mut self, accepted: &Value) {
        let text = |f: &str| accepted[f].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        self.resources.extend([text("plural"), text("singular")].into_iter().flatten());
        self.resources.extend(short_names(accepted).map(str::to_owned));
        self.kinds.extend([text("kind"), text("listKind")].into_iter().flatten());
    }
}

fn short_names(names: &Value) -> impl Iterator<Item = &str> {
    names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub(super) fn status_of<'a>(definition: &'a Value, kind: &str) -> Option<&'a str> {
    let all = definition["status"]["conditions"].as_array()?;
    all.iter().find(|c| c["type"] == kind)?["status"].as_str()
}

/// Sets one condition; its time changes with its status only.
pub(super) fn set(object: &mut Value, condition: &Condition) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(all) = object["status"]["conditions"].as_array_mut() else { return };
    let at = all.iter().position(|c| c["type"] == condition.kind);
    let since = match at.map(|at| &all[at]) {
        Some(old) if old["status"] == condition.status => old["lastTransitionTime"].clone(),
        _ => meta::now().into(),
    };
    let new = json!({
        "type": condition.kind, "status": condition.status, "reason": condition.reason,
        "message": condition.message, "lastTransitionTime": since,
    });
    match at {
        Some(at) => all[at] = new,
        None => all.push(new),
    }
}

/// The definition with its names, conditions and stored versions as they should be; `None` if they are.
/// `all` are the definitions there are, `builtin` the names of the group's built-in resources.
pub(super) fn plan(one: &Value, all: &[Value], builtin: Taken) -> Option<Value> {
    let mut new = one.clone();
    let versions = one["spec"]["versions"].as_array()?;
    let storage = versions.iter().find(|v| v["storage"] == Value::Bool(true))?["name"].clone();
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    if !new["status"]["storedVersions"].is_array() {
        new["status"]["storedVersions"] = json!([]);
    }
    if let Some(stored) = new["status"]["storedVersions"].as_array_mut()
        && !stored.contains(&storage)
    {
        stored.push(storage);
    }
    let mut taken = builtin;
    for other in all.iter().filter(|o| o["spec"]["group"] == one["spec"]["group"]) {
        taken.add(&other["status"]["acceptedNames"]);
    }
    let (accepted, names) = accept(&one["spec"]["names"], &one["status"]["acceptedNames"], &taken);
    new["status"]["acceptedNames"] = accepted;
    let good = names.status == "True";
    set(&mut new, &names);
    let established = status_of(one, "Established");
    if good && established != Some("True") {
        let message = "the initial names have been accepted".to_owned();
        set(
            &mut new,
            &Condition { kind: "Established", status: "True", reason: "InitialNamesAccepted", message },
        );
    } else if established.is_none() {
        let message = "not all names are accepted".to_owned();
        set(&mut new, &Condition { kind: "Established", status: "False", reason: "NotAccepted", message });
    }
    if let Some((status, reason, message)) = approval::condition(one) {
        set(&mut new, &Condition { kind: "KubernetesAPIApprovalPolicyConformant", status, reason, message });
    }
    if meta::deleting(one)
        && meta::finalizers(one).contains(&FINALIZER)
        && status_of(one, "Terminating").is_none()
    {
        let message = "CustomResource deletion is in progress";
        set(&mut new, &Condition::terminating("True", "InstanceDeletionInProgress", message));
    }
    (new != *one).then_some(new)
}

/// The names a definition is given, and the condition that says so. A name in use stays with whom it was given.
fn accept(requested: &Value, accepted: &Value, taken: &Taken) -> (Value, Condition) {
    let mut out = if accepted.is_object() { accepted.clone() } else { json!({}) };
    let mut refused: Option<(&'static str, String)> = None;
    let text = |v: &Value, f: &str| v[f].as_str().unwrap_or_default().to_owned();
    let in_use = |name: &str| format!("{name:?} is already in use");
    let free = |field: &'static str,
                reason: &'static str,
                used: &BTreeSet<String>,
                out: &mut Value,
                refused: &mut Option<(&'static str, String)>| {
        let wanted = text(requested, field);
        if wanted != text(accepted, field) && used.contains(&wanted) {
            *refused = Some((reason, in_use(&wanted)));
        } else {
            out[field] = wanted.into();
        }
    };
    free("plural", "PluralConflict", &taken.resources, &mut out, &mut refused);
    free("singular", "SingularConflict", &taken.resources, &mut out, &mut refused);
    let own: Vec<&str> = short_names(accepted).collect();
    let bad: Vec<String> = short_names(requested)
        .filter(|name| !own.contains(name) && taken.resources.contains(*name))
        .map(in_use)
        .collect();
    match bad.as_slice() {
        [] => copy(requested, &mut out, "shortNames"),
        [one] => refused = Some(("ShortNamesConflict", one.clone())),
        many => refused = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    free("kind", "KindConflict", &taken.kinds, &mut out, &mut refused);
    free("listKind", "ListKindConflict", &taken.kinds, &mut out, &mut refused);
    copy(requested, &mut out, "categories");
    for required in ["plural", "kind"] {
        if out[required].is_null() {
            out[required] = "".into();
        }
    }
    for optional in ["singular", "listKind"] {
        if out[optional] == ""
            && let Some(map) = out.as_object_mut()
        {
            map.remove(optional);
        }
    }
    let condition = match refused {
        None => Condition {
            kind: "NamesAccepted",
            status: "True",
            reason: "NoConflicts",
            message: "no conflicts found".to_owned(),
        },
        Some((reason, message)) => Condition { kind: "NamesAccepted", status: "False", reason, message },
    };
    (out, condition)
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match from.get(field).filter(|v| v.as_array().is_some_and(|l| !l.is_empty())) {
        Some(value) => to[field] = value.clone(),
        None => {
            if let Some(map) = to.as_object_mut() {
                map.remove(field);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, names: Value) -> Value {
        json!({"metadata": {"name": format!("{name}.a.b")}, "spec": {"group": "a.b", "names": names,
            "versions": [{"name": "v1", "served": true, "storage": true}]}})
    }

    fn condition(object: &Value, kind: &str) -> String {
        let all = object["status"]["conditions"].as_array().unwrap();
        let c = all.iter().find(|c| c["type"] == kind).unwrap();
        format!("{} {}: {}", c["status"], c["reason"], c["message"]).replace('"', "")
    }

    #[test]
    fn the_first_comer_keeps_its_names() {
        let foos = json!({"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList", "shortNames": ["f"]});
        let first = plan(&definition("foos", foos.clone()), &[], Taken::default()).unwrap();
        assert_eq!(first["status"]["acceptedNames"], foos);
        assert_eq!(condition(&first, "NamesAccepted"), "True NoConflicts: no conflicts found");
        assert_eq!(
            condition(&first, "Established"),
            "True InitialNamesAccepted: the initial names have been accepted"
        );
        assert!(plan(&first, std::slice::from_ref(&first), Taken::default()).is_none(), "and then nothing");
        let others = json!({"plural": "bars", "singular": "bar", "kind": "Bar", "listKind": "BarList", "shortNames": ["f"]});
        let second = definition("bars", others);
        let second = plan(&second, &[first.clone(), second.clone()], Taken::default()).unwrap();
        assert_eq!(condition(&second, "NamesAccepted"), "False ShortNamesConflict: \\f\\ is already in use");
        assert_eq!(condition(&second, "Established"), "False NotAccepted: not all names are accepted");
        assert_eq!(second["status"]["acceptedNames"]["plural"], "bars", "what is free is given");
        let kinds = json!({"plural": "bars", "singular": "bar", "kind": "Foo", "listKind": "BarList"});
        let third = definition("bars", kinds);
        let third = plan(&third, &[first], Taken::default()).unwrap();
        assert_eq!(condition(&third, "NamesAccepted"), "False KindConflict: \\Foo\\ is already in use");
        assert_eq!(third["status"]["acceptedNames"]["kind"], "");
    }

    #[test]
    fn times_follow_the_status() {
        let mut object = json!({"status": {"conditions": [
            {"type": "Terminating", "status": "True", "reason": "A", "lastTransitionTime": "then"}]}});
        set(&mut object, &Condition::terminating("True", "B", "b"));
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "then");
        set(&mut object, &Condition::terminating("False", "C", "c"));
        assert_ne!(object["status"]["conditions"][0]["lastTransitionTime"], "then");
    }
}
