//! What watchers and lists must agree with: one sequence of versions, of which every watcher saw a run without gaps.
//!
//! The truth is put together from all that was told: acknowledged writes, events, items of lists. Every version of the
//! server belongs to one change of one key, so two tellers that disagree about a version have found a lie.

use std::collections::{BTreeMap, BTreeSet};

/// One change, as an event, an item of a list or an acknowledged write tells it. `value: None` is a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub version: u64,
    pub value: Option<u64>,
}

/// What one watcher saw, in its order, of everything after `from`. `until` is the newest version it is known to have
/// reached (its last event or bookmark).
#[derive(Clone, Debug, Default)]
pub struct Watched {
    pub from: u64,
    pub events: Vec<Change>,
    pub until: u64,
}

/// A list: its version, and each key's value and version. `floor` is the newest version that was acknowledged to anybody
/// before the list was asked for, which it must not be older than.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    pub at: u64,
    pub floor: u64,
    pub items: Vec<Change>,
}

/// All that was told of one server's keys.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Acknowledged creates and writes.
    pub written: Vec<Change>,
    pub watched: Vec<Watched>,
    pub listed: Vec<Listed>,
    /// Writes that were refused: nobody may ever see them.
    pub refused: Vec<(String, u64)>,
}

/// The version each value was written at, as far as anybody told.
pub fn versions(story: &Story) -> BTreeMap<(String, u64), u64> {
    let changes = truth(story, &mut Vec::new());
    let written = changes.into_iter().filter_map(|(version, (key, value))| Some(((key, value?), version)));
    written.collect()
}

/// All that is known of one key: its changes by version, with what each wrote.
pub fn changes(story: &Story, key: &str) -> Vec<(u64, Option<u64>)> {
    let all = truth(story, &mut Vec::new());
    all.into_iter().filter(|(_, (k, _))| k == key).map(|(version, (_, value))| (version, value)).collect()
}

/// Everything that is wrong; empty is a consistent story.
pub fn check(story: &Story) -> Vec<String> {
    let mut wrong = Vec::new();
    let truth = truth(story, &mut wrong);
    for (index, watched) in story.watched.iter().enumerate() {
        watcher(&format!("watcher {index}"), watched, &truth, &mut wrong);
    }
    let refused: BTreeSet<&(String, u64)> = story.refused.iter().collect();
    for (version, (key, value)) in &truth {
        if value.is_some_and(|value| refused.contains(&(key.clone(), value))) {
            wrong.push(format!("version {version} of {key} is a write that was refused"));
        }
    }
    for list in &story.listed {
        if list.at < list.floor {
            wrong.push(format!(
                "a list at {} was asked for after version {} was acknowledged",
                list.at, list.floor
            ));
        }
        snapshot(list, story, &truth, &mut wrong);
    }
    wrong
}

type Truth = BTreeMap<u64, (String, Option<u64>)>;

fn truth(story: &Story, wrong: &mut Vec<String>) -> Truth {
    let mut truth = Truth::new();
    let events = story.watched.iter().flat_map(|w| &w.events);
    let items = story.listed.iter().flat_map(|l| &l.items);
    for change in story.written.iter().chain(events).chain(items) {
        let told = (change.key.clone(), change.value);
        match truth.get(&change.version) {
            Some(other) if *other != told => {
                wrong.push(format!("version {} is both {other:?} and {told:?}", change.version));
            }
            Some(_) => {}
            None => drop(truth.insert(change.version, told)),
        }
    }
    truth
}

fn watcher(name: &str, watched: &Watched, truth: &Truth, wrong: &mut Vec<String>) {
    let mut last = watched.from;
    let mut seen = BTreeSet::new();
    for event in &watched.events {
        if event.version <= last {
            wrong.push(format!("{name}: {event:?} came after version {last}"));
        }
        last = last.max(event.version);
        seen.insert(event.version);
    }
    // Whatever anybody knows of between its beginning and its end, it must have seen.
    let until = watched.until.max(last);
    if until <= watched.from {
        return;
    }
    for (version, change) in truth.range(watched.from + 1..=until) {
        if !seen.contains(version) {
            wrong.push(format!(
                "{name}, from {} to {until}, missed version {version}: {change:?}",
                watched.from
            ));
        }
    }
}

/// A list at a version holds for each key its newest change at or before it, as far as anybody knows of one.
fn snapshot(list: &Listed, story: &Story, truth: &Truth, wrong: &mut Vec<String>) {
    let mut held: BTreeMap<&str, u64> = BTreeMap::new();
    for item in &list.items {
        if item.version > list.at {
            wrong.push(format!("a list at {} holds {item:?}", list.at));
        }
        if held.insert(&item.key, item.version).is_some() {
            wrong.push(format!("a list at {} holds {} twice", list.at, item.key));
        }
    }
    // Deletions are known from watchers only; where none looked, a key that is missing may have been deleted.
    let covered = |version: u64| {
        story
            .watched
            .iter()
            .any(|w| w.from < version && list.at <= w.until.max(w.events.last().map_or(0, |e| e.version)))
    };
    let mut newest: BTreeMap<&str, (u64, Option<u64>)> = BTreeMap::new();
    for (version, (key, value)) in truth.range(..=list.at) {
        newest.insert(key, (*version, *value));
    }
    for (key, (version, value)) in newest {
        match (held.get(key), value) {
            (Some(held), _) if *held < version => {
                wrong.push(format!("a list at {} holds {key} of {held}, not of {version}", list.at));
            }
            (None, Some(_)) if covered(version) => {
                wrong.push(format!("a list at {} misses {key} of {version}", list.at));
            }
            _ => {}
        }
    }
}
