//! Who owns whom. Pure.
//!
//! Only objects that own, are owned or are being deleted with a collector's finalizer are kept; the others cost nothing.
//! An owner that is only known from a reference is *virtual* until it was seen or asked for.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub type Uid = Arc<str>;

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// Where an object is: its resource (an index that the caller understands), namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub resource: usize,
    pub namespace: Box<str>,
    pub name: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: Uid,
    pub blocks: bool,
}

#[derive(Debug)]
pub struct Item {
    pub place: Place,
    pub owners: Vec<Owner>,
    pub dependents: BTreeSet<Uid>,
    /// Seen or asked for, not only referred to.
    pub real: bool,
    pub deleting: bool,
    /// Being deleted, waiting for its dependents.
    pub foreground: bool,
    pub orphaning: bool,
}

/// What to look at next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// Whether it should go: an owner may be gone, or it waits for dependents.
    Check(Uid),
    /// Set its dependents free.
    Orphan(Uid),
    /// Observe it again: the kind of one of its owners was not known and may be now.
    Relink(Uid),
}

#[derive(Debug, Default)]
pub struct Graph {
    items: HashMap<Uid, Item>,
    /// Objects with an owner of a kind that was not served when they were seen.
    unresolved: BTreeSet<Uid>,
}

/// Where the owner that a reference names would be, seen from an object at a place.
pub trait Resolve {
    /// `None` when the kind is not served, or a cluster-scoped object names a namespaced owner.
    fn owner_place(&self, reference: &OwnerReference, from: &Place) -> Option<Place>;
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// An object was seen: created, changed, or listed.
    pub fn observe(&mut self, meta: &ObjectMeta, place: Place, resolve: &impl Resolve) -> Vec<Task> {
        let mut tasks = Vec::new();
        let Some(uid) = meta.uid.as_deref().filter(|u| !u.is_empty()) else { return tasks };
        let deleting = meta.deletion_timestamp.is_some();
        let finalizer = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
        let (foreground, orphaning) = (deleting && finalizer(FOREGROUND), deleting && finalizer(ORPHAN));
        let references = meta.owner_references.as_deref().unwrap_or(&[]);
        let known = self.items.contains_key(uid);
        if !known && references.is_empty() && !foreground && !orphaning {
            return tasks;
        }
        let uid: Uid = self.items.get_key_value(uid).map_or_else(|| Uid::from(uid), |(k, _)| k.clone());
        let owners: Vec<Owner> = references
            .iter()
            .map(|r| Owner { uid: self.intern(&r.uid), blocks: r.block_owner_deletion == Some(true) })
            .collect();
        let item = self.items.entry(uid.clone()).or_insert_with(|| Item {
            place: place.clone(),
            owners: Vec::new(),
            dependents: BTreeSet::new(),
            real: false,
            deleting: false,
            foreground: false,
            orphaning: false,
        });
        let was = std::mem::replace(&mut item.owners, owners.clone());
        let (was_foreground, was_orphaning) = (item.foreground, item.orphaning);
        let misplaced = !item.real && item.place != place;
        item.place = place.clone();
        item.real = true;
        item.deleting = deleting;
        item.foreground = foreground;
        item.orphaning = orphaning;
        if misplaced {
            // Someone named it at the wrong place: to them it does not exist.
            tasks.extend(item.dependents.iter().cloned().map(Task::Check));
        }
        if orphaning && !was_orphaning {
            tasks.push(Task::Orphan(uid.clone()));
        }
        if foreground && !was_foreground {
            tasks.extend(item.dependents.iter().cloned().map(Task::Check));
            tasks.push(Task::Check(uid.clone()));
        }
        for old in &was {
            match owners.iter().find(|o| o.uid == old.uid) {
                Some(new) if old.blocks && !new.blocks => self.wake_waiting(&old.uid, &mut tasks),
                Some(_) => {}
                None => {
                    self.unlink(&old.uid, &uid);
                    self.wake_waiting(&old.uid, &mut tasks);
                }
            }
        }
        for (owner, reference) in owners.iter().zip(references) {
            if was.iter().any(|o| o.uid == owner.uid) {
                continue;
            }
            let expected = resolve.owner_place(reference, &place);
            match self.items.get_mut(&owner.uid) {
                Some(found) => {
                    found.dependents.insert(uid.clone());
                    let elsewhere = found.real && expected.as_ref().is_some_and(|e| *e != found.place);
                    // A dependent that comes while its owner goes must be looked at.
                    if found.foreground || elsewhere {
                        tasks.push(Task::Check(uid.clone()));
                    }
                    if !found.real {
                        tasks.push(Task::Check(owner.uid.clone()));
                    }
                }
                None => {
                    let Some(place) = expected else {
                        self.unresolved.insert(uid.clone());
                        continue;
                    };
                    let item = Item {
                        place,
                        owners: Vec::new(),
                        dependents: BTreeSet::from([uid.clone()]),
                        real: false,
                        deleting: false,
                        foreground: false,
                        orphaning: false,
                    };
                    self.items.insert(owner.uid.clone(), item);
                    tasks.push(Task::Check(owner.uid.clone()));
                }
            }
        }
        self.forget_if_plain(&uid);
        tasks
    }

    /// More kinds are served: what named an owner of an unknown one is to be observed again.
    pub fn relink(&mut self) -> Vec<Task> {
        let all = std::mem::take(&mut self.unresolved);
        for uid in &all {
            let Some(mut owners) = self.items.get_mut(uid).map(|item| std::mem::take(&mut item.owners))
            else {
                continue;
            };
            // Those that were never linked are to be new when it is seen again.
            owners.retain(|owner| self.items.contains_key(&owner.uid));
            if let Some(item) = self.items.get_mut(uid) {
                item.owners = owners;
            }
        }
        all.into_iter().map(Task::Relink).collect()
    }

    fn intern(&self, uid: &str) -> Uid {
        self.items.get_key_value(uid).map_or_else(|| Uid::from(uid), |(k, _)| k.clone())
    }

    fn wake_waiting(&self, owner: &Uid, tasks: &mut Vec<Task>) {
        if self.items.get(owner).is_some_and(|o| o.foreground) {
            tasks.push(Task::Check(owner.clone()));
        }
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(item) = self.items.get_mut(owner) {
            item.dependents.remove(dependent);
        }
        self.forget_if_plain(owner);
    }

    fn forget_if_plain(&mut self, uid: &Uid) {
        let plain =
            |i: &Item| i.owners.is_empty() && i.dependents.is_empty() && !i.foreground && !i.orphaning;
        if self.items.get(uid).is_some_and(plain) {
            self.items.remove(uid);
        }
    }

    /// A virtual owner was asked for and exists.
    pub fn confirm(&mut self, meta: &ObjectMeta, place: Place, resolve: &impl Resolve) -> Vec<Task> {
        self.observe(meta, place, resolve)
    }

    /// An object is gone: what it owned is to be looked at, and an owner that waited for it too.
    pub fn gone(&mut self, uid: &str) -> Vec<Task> {
        let mut tasks = Vec::new();
        let Some((uid, item)) = self.items.remove_entry(uid) else { return tasks };
        for owner in &item.owners {
            if let Some(found) = self.items.get_mut(&owner.uid) {
                found.dependents.remove(&uid);
            }
            self.wake_waiting(&owner.uid, &mut tasks);
            self.forget_if_plain(&owner.uid);
        }
        tasks.extend(item.dependents.into_iter().map(Task::Check));
        tasks
    }

    /// The objects of a resource that a fresh list did not show.
    pub fn unseen(&self, resource: usize, seen: &HashSet<Uid>) -> Vec<Uid> {
        let all = self.items.iter().filter(|(_, i)| i.real && i.place.resource == resource);
        all.filter(|(uid, _)| !seen.contains(*uid)).map(|(uid, _)| uid.clone()).collect()
    }

    /// Whether a dependent of it is being deleted in the foreground itself: seen from an object whose owner is, too, that
    /// is a circle (or may be one).
    pub fn has_waiting_dependents(&self, uid: &str) -> bool {
        let Some(item) = self.items.get(uid) else { return false };
        item.dependents.iter().any(|d| self.items.get(d).is_some_and(|i| i.foreground))
    }

    /// The dependents that keep an object from going.
    pub fn blocking(&self, uid: &str) -> Vec<(Uid, bool)> {
        let Some(item) = self.items.get(uid) else { return Vec::new() };
        let dependents = item.dependents.iter().filter_map(|d| self.items.get(d).map(|i| (d, i)));
        dependents
            .filter(|(_, i)| i.owners.iter().any(|o| &*o.uid == uid && o.blocks))
            .map(|(d, i)| (d.clone(), i.foreground))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proptest::prelude::*;

    struct Flat;

    impl Resolve for Flat {
        fn owner_place(&self, r: &OwnerReference, from: &Place) -> Option<Place> {
            Some(Place { resource: 0, namespace: from.namespace.clone(), name: r.uid.as_str().into() })
        }
    }

    fn place(uid: &str) -> Place {
        Place { resource: 0, namespace: "".into(), name: uid.into() }
    }

    fn meta(uid: &str, owners: &[&str], finalizer: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            deletion_timestamp: finalizer.map(|_| Time(jiff::Timestamp::UNIX_EPOCH)),
            finalizers: finalizer.map(|f| vec![f.to_owned()]),
            owner_references: Some(
                owners
                    .iter()
                    .map(|o| OwnerReference {
                        uid: (*o).into(),
                        block_owner_deletion: Some(true),
                        ..Default::default()
                    })
                    .collect(),
            ),
            ..Default::default()
        }
    }

    fn check(uid: &str) -> Task {
        Task::Check(uid.into())
    }

    #[test]
    fn plain_objects_cost_nothing() {
        let mut g = Graph::default();
        assert!(g.observe(&meta("a", &[], None), place("a"), &Flat).is_empty());
        assert!(g.is_empty());
    }

    #[test]
    fn an_unknown_owner_is_asked_for_once_and_its_end_reaches_all_dependents() {
        let mut g = Graph::default();
        assert_eq!(g.observe(&meta("p1", &["rs"], None), place("p1"), &Flat), [check("rs")]);
        g.observe(&meta("rs", &[], None), place("rs"), &Flat);
        assert!(g.observe(&meta("p2", &["rs"], None), place("p2"), &Flat).is_empty());
        let mut tasks = g.gone("rs");
        tasks.sort();
        assert_eq!(tasks, [check("p1"), check("p2")]);
    }

    #[test]
    fn a_foreground_deletion_wakes_dependents_and_then_the_owner() {
        let mut g = Graph::default();
        g.observe(&meta("p", &["rs"], None), place("p"), &Flat);
        let tasks = g.observe(&meta("rs", &[], Some(FOREGROUND)), place("rs"), &Flat);
        assert_eq!(tasks, [check("p"), check("rs")]);
        assert_eq!(g.blocking("rs").len(), 1);
        assert_eq!(g.gone("p"), [check("rs")]);
        assert!(g.blocking("rs").is_empty());
    }

    #[test]
    fn an_owner_of_a_kind_that_comes_later_is_linked_then() {
        struct Nothing;
        impl Resolve for Nothing {
            fn owner_place(&self, _: &OwnerReference, _: &Place) -> Option<Place> {
                None
            }
        }
        let mut g = Graph::default();
        let dependent = meta("d", &["o"], None);
        assert!(g.observe(&dependent, place("d"), &Nothing).is_empty());
        assert_eq!(g.relink(), [Task::Relink("d".into())]);
        assert!(g.relink().is_empty());
        assert_eq!(g.observe(&dependent, place("d"), &Flat), [Task::Check("o".into())]);
        assert_eq!(g.gone("o"), [Task::Check("d".into())]);
    }

    #[test]
    fn a_circle_is_seen_where_it_closes() {
        let mut g = Graph::default();
        for (uid, owner) in [("a", "c"), ("b", "a"), ("c", "b")] {
            g.observe(&meta(uid, &[owner], None), place(uid), &Flat);
        }
        g.observe(&meta("a", &["c"], Some(FOREGROUND)), place("a"), &Flat);
        assert!(!g.has_waiting_dependents("b"));
        g.observe(&meta("b", &["a"], Some(FOREGROUND)), place("b"), &Flat);
        assert!(g.has_waiting_dependents("c"));
    }

    #[test]
    fn an_orphaning_deletion_is_told_once() {
        let mut g = Graph::default();
        g.observe(&meta("p", &["rs"], None), place("p"), &Flat);
        assert_eq!(
            g.observe(&meta("rs", &[], Some(ORPHAN)), place("rs"), &Flat),
            [Task::Orphan("rs".into())]
        );
        assert!(g.observe(&meta("rs", &[], Some(ORPHAN)), place("rs"), &Flat).is_empty());
        g.observe(&meta("p", &[], None), place("p"), &Flat);
        assert!(g.get("p").is_none(), "set free, it costs nothing again");
    }

    proptest! {
        /// Links agree in both directions whatever happens, and nothing is kept that has none.
        #[test]
        fn links_agree(ops in prop::collection::vec((0u8..6, prop::collection::btree_set(0u8..6, 0..3), 0u8..4), 0..80)) {
            let mut g = Graph::default();
            // A uid never comes back.
            let mut dead = HashSet::new();
            for (id, owners, op) in ops {
                if dead.contains(&id) {
                    continue;
                }
                if op == 0 {
                    dead.insert(id);
                }
                let id = id.to_string();
                let owners: Vec<String> = owners.iter().map(u8::to_string).filter(|o| *o != id).collect();
                let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
                match op {
                    0 => { g.gone(&id); }
                    1 => { g.observe(&meta(&id, &owners, Some(FOREGROUND)), place(&id), &Flat); }
                    _ => { g.observe(&meta(&id, &owners, None), place(&id), &Flat); }
                }
                for (uid, item) in &g.items {
                    for dependent in &item.dependents {
                        prop_assert!(g.items[dependent].owners.iter().any(|o| o.uid == *uid));
                    }
                    for owner in &item.owners {
                        // An owner that is gone stays named until its dependent was dealt with.
                        if let Some(found) = g.items.get(&owner.uid) {
                            prop_assert!(!found.real || found.dependents.contains(uid) || found.dependents.is_empty());
                        }
                    }
                    prop_assert!(!item.owners.is_empty() || !item.dependents.is_empty() || item.foreground || !item.real);
                }
            }
        }
    }
}
