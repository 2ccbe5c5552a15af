//! Pods that wait for a node: ready to try, backing off, waiting for something to happen, or gated. No timers of its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cycle::Plugins;
use crate::framework::Happening;
use crate::world::PodInfo;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod is tried again after this even if nothing happened that should help.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug)]
enum Place {
    Active,
    /// Active at this time.
    Backoff(Instant),
    /// Until something happens that cures these plugins' refusals.
    Waiting {
        plugins: BTreeSet<&'static str>,
        until: Instant,
    },
    Gated,
    InFlight,
}

#[derive(Debug)]
struct Item {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    sequence: u64,
    /// When the last attempt ended.
    tried: Option<Instant>,
}

type Rank = (Reverse<i32>, u64, String);

#[derive(Debug, Default)]
pub struct Queue {
    items: HashMap<String, Item>,
    active: BTreeSet<Rank>,
    timed: BTreeMap<(Instant, String), ()>,
    sequence: u64,
}

fn rank(item: &Item) -> Rank {
    (Reverse(item.pod.priority), item.sequence, item.pod.uid.clone())
}

fn is_gated(pod: &PodInfo) -> bool {
    pod.pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty())
}

impl Queue {
    /// A pod that is new here. One that is known is updated.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        if self.items.contains_key(&pod.uid) {
            self.update(pod, &Vec::new());
            return;
        }
        self.sequence += 1;
        let uid = pod.uid.clone();
        let item = Item { pod, place: Place::Gated, attempts: 0, sequence: self.sequence, tried: None };
        let gated = is_gated(&item.pod);
        self.items.insert(uid.clone(), item);
        if !gated {
            self.activate(&uid);
        }
    }

    /// The pod changed; a change of more than its status may cure a refusal.
    pub fn update(&mut self, pod: Arc<PodInfo>, plugins: &Plugins) {
        let uid = pod.uid.clone();
        let Some(item) = self.items.get_mut(&uid) else { return self.add(pod) };
        let changed = item.pod.pod.spec != pod.pod.spec || item.pod.labels() != pod.labels();
        if matches!(item.place, Place::Active) {
            self.active.remove(&rank(item));
            item.pod = pod;
            self.active.insert(rank(item));
            return;
        }
        item.pod = pod;
        match item.place {
            Place::Gated if !is_gated(&item.pod) => self.activate(&uid),
            Place::Waiting { .. } if changed => self.wake(&uid, Happening::PodChanged, plugins),
            _ => {}
        }
    }

    pub fn remove(&mut self, uid: &str) -> bool {
        self.take(uid).is_some()
    }

    /// Takes a pod out of every index. Who puts it back says where.
    fn take(&mut self, uid: &str) -> Option<Item> {
        let item = self.items.remove(uid)?;
        match item.place {
            Place::Active => drop(self.active.remove(&rank(&item))),
            Place::Backoff(at) | Place::Waiting { until: at, .. } => {
                self.timed.remove(&(at, uid.to_owned()));
            }
            Place::Gated | Place::InFlight => {}
        }
        Some(item)
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.items.contains_key(uid)
    }

    pub fn is_gated(&self, uid: &str) -> bool {
        self.items.get(uid).is_some_and(|i| matches!(i.place, Place::Gated))
    }

    fn activate(&mut self, uid: &str) {
        let Some(mut item) = self.take(uid) else { return };
        item.place = Place::Active;
        self.active.insert(rank(&item));
        self.items.insert(uid.to_owned(), item);
    }

    /// Moves what is due; says when the next is.
    pub fn promote(&mut self, now: Instant) -> Option<Instant> {
        while let Some(due) = self.timed.first_entry() {
            if due.key().0 > now {
                return Some(due.key().0);
            }
            let ((_, uid), ()) = due.remove_entry();
            self.activate(&uid);
        }
        None
    }

    /// The most important pod, the longest waiting among equals. It stays known until removed or failed.
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, _, uid) = self.active.pop_first()?;
        let item = self.items.get_mut(&uid)?;
        item.place = Place::InFlight;
        item.attempts += 1;
        Some(item.pod.clone())
    }

    fn backoff(item: &Item) -> Duration {
        let doublings = item.attempts.saturating_sub(1).min(10);
        FIRST_BACKOFF.saturating_mul(1 << doublings).min(LAST_BACKOFF)
    }

    /// The attempt failed for reasons that these plugins gave; without plugins it was an error, and is tried again.
    pub fn failed(&mut self, uid: &str, plugins: BTreeSet<&'static str>, now: Instant) {
        let Some(mut item) = self.take(uid) else { return };
        item.tried = Some(now);
        if is_gated(&item.pod) {
            item.place = Place::Gated;
        } else if plugins.is_empty() {
            let at = now + Self::backoff(&item);
            self.timed.insert((at, uid.to_owned()), ());
            item.place = Place::Backoff(at);
        } else {
            let until = now + PATIENCE;
            self.timed.insert((until, uid.to_owned()), ());
            item.place = Place::Waiting { plugins, until };
        }
        self.items.insert(uid.to_owned(), item);
    }

    /// Wakes the pods that it may help. Returns whether any is ready now or later.
    pub fn happened(&mut self, happening: Happening, plugins: &Plugins) -> bool {
        let curable: Vec<&str> = plugins.iter().filter(|p| p.cured_by(happening)).map(|p| p.name()).collect();
        let nodes = matches!(happening, Happening::NodeAdded);
        let woken: Vec<String> = self
            .items
            .values()
            .filter(|i| match &i.place {
                Place::Waiting { plugins, .. } => {
                    plugins.iter().any(|p| curable.contains(p)) || (nodes && plugins.contains(NO_NODES))
                }
                _ => false,
            })
            .map(|i| i.pod.uid.clone())
            .collect();
        for uid in &woken {
            self.rouse(uid);
        }
        !woken.is_empty()
    }

    fn wake(&mut self, uid: &str, happening: Happening, plugins: &Plugins) {
        let curable = |names: &BTreeSet<&'static str>| {
            plugins.is_empty() || plugins.iter().any(|p| names.contains(p.name()) && p.cured_by(happening))
        };
        if let Some(Place::Waiting { plugins: names, .. }) = self.items.get(uid).map(|i| &i.place)
            && curable(names)
        {
            self.rouse(uid);
        }
    }

    /// To the active ones, or to the end of its back-off.
    fn rouse(&mut self, uid: &str) {
        let Some(mut item) = self.take(uid) else { return };
        let due = item.tried.map(|t| t + Self::backoff(&item));
        let now = Instant::now();
        match due.filter(|at| *at > now) {
            Some(at) => {
                self.timed.insert((at, uid.to_owned()), ());
                item.place = Place::Backoff(at);
                self.items.insert(uid.to_owned(), item);
            }
            None => {
                item.place = Place::Active;
                self.active.insert(rank(&item));
                self.items.insert(uid.to_owned(), item);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.items.len()
    }

    /// The indices hold what the places say, and nothing else: else `promote` would never end.
    #[cfg(test)]
    fn check(&self) {
        let count = |of: fn(&Place) -> bool| self.items.values().filter(|i| of(&i.place)).count();
        assert_eq!(self.active.len(), count(|p| matches!(p, Place::Active)));
        assert_eq!(self.timed.len(), count(|p| matches!(p, Place::Backoff(_) | Place::Waiting { .. })));
    }
}

/// The name under which a pod waits when there was no node at all.
pub const NO_NODES: &str = "NoNodes";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins;
    use crate::testing::{PodSpecs, pod};
    use proptest::prelude::*;

    fn of(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(pod(name, PodSpecs { priority, ..Default::default() }))
    }

    #[tokio::test(start_paused = true)]
    async fn importance_then_age() {
        let mut q = Queue::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 5), ("d", 1)] {
            q.add(of(name, priority));
        }
        let order: Vec<String> = std::iter::from_fn(|| q.pop()).map(|p| p.uid.clone()).collect();
        assert_eq!(order, ["b", "c", "d", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_pod_waits_for_what_may_cure_it() {
        let plugins = plugins::all();
        let mut q = Queue::default();
        q.add(of("a", 0));
        q.pop().unwrap();
        q.failed("a", BTreeSet::from(["NodeResourcesFit"]), Instant::now());
        assert!(!q.happened(Happening::PodCame, &plugins));
        assert!(q.pop().is_none());
        assert!(q.happened(Happening::PodLeft, &plugins));
        assert!(q.pop().is_none(), "it backs off first");
        tokio::time::advance(Duration::from_millis(1001)).await;
        assert_eq!(q.promote(Instant::now()), None);
        assert!(q.pop().is_some());
        q.failed("a", BTreeSet::from(["NodeResourcesFit"]), Instant::now());
        tokio::time::advance(Duration::from_secs(3)).await;
        q.happened(Happening::NodeAdded, &plugins);
        assert!(q.pop().is_some(), "its back-off is over already");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_tried_again_by_itself() {
        let mut q = Queue::default();
        q.add(of("a", 0));
        q.pop().unwrap();
        q.failed("a", BTreeSet::new(), Instant::now());
        let at = q.promote(Instant::now()).unwrap();
        assert_eq!(at - Instant::now(), Duration::from_secs(1));
    }

    proptest! {
        /// A pod is in exactly one place: popped pods are those that were added and not removed, each once.
        #[test]
        fn no_pod_is_lost(ops in prop::collection::vec((0u8..8, 0u8..7), 0..100)) {
            let rt = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            rt.block_on(async {
                let plugins = plugins::all();
                let mut q = Queue::default();
                let mut known: BTreeSet<String> = BTreeSet::new();
                for (id, op) in ops {
                    let name = id.to_string();
                    match op {
                        0 => { q.add(of(&name, i32::from(id % 3))); known.insert(name); }
                        1 => { assert_eq!(q.remove(&name), known.remove(&name)); }
                        2 => { if let Some(p) = q.pop() { q.failed(&p.uid, BTreeSet::from(["NodePorts"]), Instant::now()); } }
                        3 => { if let Some(p) = q.pop() { q.failed(&p.uid, BTreeSet::new(), Instant::now()); } }
                        // A binding that failed: the pod comes back without having been popped.
                        4 => { q.add(of(&name, i32::from(id % 3))); known.insert(name.clone()); q.failed(&name, BTreeSet::new(), Instant::now()); }
                        5 => { q.promote(Instant::now()); if let Some(p) = q.pop() { q.remove(&p.uid); known.remove(&p.uid); } }
                        _ => { q.happened(Happening::PodLeft, &plugins); tokio::time::advance(Duration::from_secs(1)).await; }
                    }
                    assert_eq!(q.len(), known.len());
                    q.check();
                }
                tokio::time::advance(Duration::from_secs(400)).await;
                q.promote(Instant::now());
                let popped: BTreeSet<String> = std::iter::from_fn(|| q.pop()).map(|p| p.uid.clone()).collect();
                assert_eq!(popped, known);
            });
        }
    }
}
