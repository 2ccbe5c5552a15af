//! The objects an informer holds, ordered by key, with indices.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use kube::ResourceExt;

/// Namespace (empty for cluster-scoped objects) and name. Ordered by namespace first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }

    pub fn of<K: ResourceExt>(object: &K) -> Self {
        Self {
            namespace: object.meta().namespace.clone().unwrap_or_default(),
            name: object.meta().name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The values an object has in an index; may be none.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

struct Index<K> {
    values: IndexFn<K>,
    entries: HashMap<String, BTreeMap<ObjectKey, Arc<K>>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &Arc<K>) {
        for value in (self.values)(object) {
            self.entries.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            if let Some(set) = self.entries.get_mut(&value) {
                set.remove(key);
                if set.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

pub(super) struct Store<K> {
    pub(super) objects: BTreeMap<ObjectKey, Arc<K>>,
    indices: HashMap<&'static str, Index<K>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), indices: HashMap::new() }
    }
}

impl<K> Store<K> {
    pub(super) fn add_index(&mut self, name: &'static str, values: IndexFn<K>) {
        if self.indices.contains_key(name) {
            return;
        }
        let mut index = Index { values, entries: HashMap::new() };
        for (key, object) in &self.objects {
            index.insert(key, object);
        }
        self.indices.insert(name, index);
    }

    pub(super) fn insert(&mut self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indices.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        old
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indices.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }

    pub(super) fn namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        let namespace = namespace.to_owned();
        self.objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, object)| object)
    }

    pub(super) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.indices
            .get(name)
            .and_then(|index| index.entries.get(value))
            .map(|set| set.values().cloned().collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// An index always answers what a scan would.
        #[test]
        fn an_index_answers_as_a_scan(ops in prop::collection::vec((0u8..6, prop::option::of(0u8..4)), 0..100)) {
            let mut store: Store<u8> = Store::default();
            store.add_index("value", |v| vec![v.to_string()]);
            for (key, value) in ops {
                let key = ObjectKey::new("ns", key.to_string());
                match value {
                    Some(value) => { store.insert(key, Arc::new(value)); }
                    None => { store.remove(&key); }
                }
                for probe in 0u8..4 {
                    let scan: Vec<u8> = store.objects.values().map(|v| **v).filter(|v| *v == probe).collect();
                    let got: Vec<u8> = store.by_index("value", &probe.to_string()).iter().map(|v| **v).collect();
                    prop_assert_eq!(scan, got);
                }
            }
            prop_assert_eq!(store.namespace("ns").count(), store.objects.len());
            prop_assert_eq!(store.namespace("n").count(), 0);
        }
    }
}
