//! Policies with their bindings, brought up to date when a request asks, compiled once a change.

use super::GROUP;
use super::matching::Criteria;
use super::params::ParamRef;
use crate::reader::{Change, Feeds, Reader, parse, strings, text};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Binding {
    pub name: String,
    pub policy: String,
    pub criteria: Option<Criteria>,
    pub params: Option<ParamRef>,
    pub actions: Vec<String>,
}

impl Binding {
    fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let resources = &spec["matchResources"];
        Self {
            name: text(object, "/metadata/name").to_owned(),
            policy: text(spec, "/policyName").to_owned(),
            criteria: resources.is_object().then(|| Criteria::read(resources)),
            params: ParamRef::read(spec),
            actions: strings(spec, "/validationActions"),
        }
    }
}

/// A policy that is bound.
pub(super) struct Hook<P> {
    pub policy: Arc<P>,
    pub bindings: Vec<Arc<Binding>>,
}

pub(super) struct Store<P> {
    inner: Mutex<Inner<P>>,
    compile: fn(&Value) -> P,
}

struct Inner<P> {
    feeds: Feeds,
    policies: BTreeMap<String, Arc<P>>,
    bindings: BTreeMap<String, Arc<Binding>>,
    hooks: Arc<[Hook<P>]>,
}

impl<P> Store<P> {
    pub fn new(
        reader: Arc<dyn Reader>,
        policies: &'static str,
        bindings: &'static str,
        compile: fn(&Value) -> P,
    ) -> Self {
        let inner = Inner {
            feeds: Feeds::new(reader, &[(GROUP, policies), (GROUP, bindings)]),
            policies: BTreeMap::new(),
            bindings: BTreeMap::new(),
            hooks: Arc::new([]),
        };
        Self { inner: Mutex::new(inner), compile }
    }

    /// The bound policies, by name.
    pub fn hooks(&self) -> Arc<[Hook<P>]> {
        let mut inner = self.inner.lock();
        let Inner { feeds, policies, bindings, .. } = &mut *inner;
        let mut changed = false;
        feeds.drain(|place, change| {
            changed = true;
            let (policy, compile) = (place == 0, self.compile);
            match change {
                Change::Put(entry) if policy => {
                    drop(policies.insert(entry.name.to_string(), Arc::new(compile(&parse(&entry)))));
                }
                Change::Put(entry) => {
                    drop(bindings.insert(entry.name.to_string(), Arc::new(Binding::read(&parse(&entry)))));
                }
                Change::Delete { name, .. } if policy => drop(policies.remove(&*name)),
                Change::Delete { name, .. } => drop(bindings.remove(&*name)),
                Change::Snapshot(all) => {
                    if policy {
                        policies.clear();
                    } else {
                        bindings.clear();
                    }
                    for entry in &all {
                        let object = parse(entry);
                        if policy {
                            policies.insert(entry.name.to_string(), Arc::new(compile(&object)));
                        } else {
                            bindings.insert(entry.name.to_string(), Arc::new(Binding::read(&object)));
                        }
                    }
                }
            }
        });
        if changed {
            let hook = |(name, policy): (&String, &Arc<P>)| {
                let bound: Vec<_> = bindings.values().filter(|b| b.policy == *name).cloned().collect();
                (!bound.is_empty()).then(|| Hook { policy: policy.clone(), bindings: bound })
            };
            inner.hooks = policies.iter().filter_map(hook).collect();
        }
        inner.hooks.clone()
    }
}
