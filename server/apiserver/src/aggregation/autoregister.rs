//! The `APIService`s of what this server serves itself. Source: kube-aggregator's autoregister controller, whose
//! table of cases [`plan`] is.

use crate::registry::meta;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

/// Marks the objects kept here: `onstart` for built-in versions, `true` for those of definitions.
pub const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";

/// One group version this server answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    pub group: String,
    pub version: String,
    pub priority: (u32, u32),
    /// Of a definition: kept as long as it is served, where built-in ones are only written at the start.
    pub always: bool,
}

impl Local {
    pub fn name(&self) -> String {
        format!("{}.{}", self.version, self.group)
    }

    fn spec(&self) -> Value {
        let mut spec = json!({
            "version": self.version,
            "groupPriorityMinimum": self.priority.0,
            "versionPriority": self.priority.1,
        });
        if !self.group.is_empty() {
            spec["group"] = self.group.as_str().into();
        }
        spec
    }

    fn object(&self) -> Value {
        json!({
            "kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1",
            "metadata": {"name": self.name(), "labels": {LABEL: if self.always { "true" } else { "onstart" }}},
            "spec": self.spec(),
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Create(Value),
    /// The object with its spec as it should be.
    Update(Value),
    Delete(String),
}

/// What has been seen and done since the start.
#[derive(Default)]
pub struct Memory {
    /// Names there were when this server started.
    pub at_start: HashSet<String>,
    /// Names that were once as they should be.
    pub synced: HashSet<String>,
}

/// What is to be written, by name. A name without an action is as it should be, and goes into [`Memory::synced`].
pub fn plan(current: &[Value], wanted: &[Local], memory: &Memory) -> BTreeMap<String, Option<Action>> {
    let desired: BTreeMap<String, &Local> = wanted.iter().map(|l| (l.name(), l)).collect();
    let mut out = BTreeMap::new();
    for object in current {
        let name = meta::name(object).to_owned();
        let action = correct(object, desired.get(&name).copied(), memory);
        out.insert(name, action);
    }
    for (name, local) in desired {
        if out.contains_key(&name) {
            continue;
        }
        let once = !local.always && memory.synced.contains(&name);
        out.insert(name, (!once).then(|| Action::Create(local.object())));
    }
    out
}

fn correct(object: &Value, desired: Option<&Local>, memory: &Memory) -> Option<Action> {
    let name = meta::name(object);
    let on_start = match object["metadata"]["labels"][LABEL].as_str() {
        Some("onstart") => true,
        Some("true") => false,
        // Someone else's.
        _ => return None,
    };
    if desired.is_some_and(|d| !d.always) && memory.synced.contains(name) {
        return None;
    }
    if on_start && (!memory.at_start.contains(name) || memory.synced.contains(name)) {
        return None;
    }
    let Some(desired) = desired else { return Some(Action::Delete(name.to_owned())) };
    let spec = desired.spec();
    if object["spec"] == spec {
        return None;
    }
    let mut new = object.clone();
    new["spec"] = spec;
    Some(Action::Update(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(always: bool) -> Local {
        Local { group: "a.b".into(), version: "v1".into(), priority: (1000, 100), always }
    }

    fn only(current: &[Value], wanted: &[Local], memory: &Memory) -> Option<Action> {
        plan(current, wanted, memory).remove("v1.a.b").flatten()
    }

    #[test]
    fn built_in_versions_are_written_once() {
        let mut memory = Memory::default();
        assert!(matches!(only(&[], &[local(false)], &memory), Some(Action::Create(_))));
        memory.synced.insert("v1.a.b".into());
        assert_eq!(only(&[], &[local(false)], &memory), None, "a deleted one stays deleted");
    }

    #[test]
    fn those_of_definitions_come_and_go() {
        let memory = Memory { synced: ["v1.a.b".to_owned()].into(), ..Memory::default() };
        assert!(matches!(only(&[], &[local(true)], &memory), Some(Action::Create(_))));
        let object = local(true).object();
        assert_eq!(only(std::slice::from_ref(&object), &[local(true)], &memory), None);
        let mut changed = object.clone();
        changed["spec"]["versionPriority"] = 5.into();
        assert_eq!(only(&[changed], &[local(true)], &memory), Some(Action::Update(object.clone())));
        assert_eq!(only(&[object], &[], &memory), Some(Action::Delete("v1.a.b".into())));
    }

    #[test]
    fn objects_of_others_are_left_alone() {
        let mut own = local(true).object();
        own["metadata"]["labels"] = json!({});
        own["spec"]["versionPriority"] = 7.into();
        assert_eq!(only(&[own.clone()], &[local(true)], &Memory::default()), None);
        assert_eq!(only(&[own], &[], &Memory::default()), None);
        let stale = local(false).object();
        assert_eq!(
            only(std::slice::from_ref(&stale), &[], &Memory::default()),
            None,
            "not there at the start"
        );
        let memory = Memory { at_start: ["v1.a.b".to_owned()].into(), ..Memory::default() };
        assert_eq!(only(&[stale], &[], &memory), Some(Action::Delete("v1.a.b".into())));
    }
}
