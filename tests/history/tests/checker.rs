//! The checker can fail: true histories pass, and every lie put into one is found.

use history::linear::{self, Ask, Operation, State, Told};
use history::watch::{self, Change, Listed, Story, Watched};
use proptest::prelude::*;

fn operation(ask: Ask, told: Told, begun: u64, ended: u64) -> Operation {
    Operation { ask, told, begun, ended }
}

#[test]
fn a_plain_history_holds() {
    let history = [
        operation(Ask::Create { value: 1 }, Told::Done { version: 10 }, 0, 1),
        operation(Ask::Read, Told::Saw { value: 1, version: 10 }, 2, 3),
        operation(Ask::Swap { value: 2, from: 10 }, Told::Done { version: 11 }, 4, 5),
        operation(Ask::Swap { value: 3, from: 10 }, Told::Conflict, 6, 7),
        operation(Ask::Create { value: 4 }, Told::Exists, 6, 7),
        operation(Ask::Delete, Told::Deleted, 8, 9),
        operation(Ask::Read, Told::Missing, 10, 11),
    ];
    assert_eq!(linear::check(&history), Ok(()));
}

#[test]
fn a_lost_write_is_found() {
    let history = [
        operation(Ask::Create { value: 1 }, Told::Done { version: 10 }, 0, 1),
        operation(Ask::Read, Told::Missing, 2, 3),
    ];
    assert!(linear::check(&history).is_err());
    let history = [
        operation(Ask::Create { value: 1 }, Told::Done { version: 10 }, 0, 1),
        operation(Ask::Put { value: 2 }, Told::Done { version: 11 }, 2, 3),
        operation(Ask::Read, Told::Saw { value: 1, version: 10 }, 4, 5),
    ];
    assert!(linear::check(&history).is_err(), "a stale read");
}

#[test]
fn two_winners_of_one_swap_are_found() {
    let history = [
        operation(Ask::Create { value: 1 }, Told::Done { version: 10 }, 0, 1),
        operation(Ask::Swap { value: 2, from: 10 }, Told::Done { version: 11 }, 2, 9),
        operation(Ask::Swap { value: 3, from: 10 }, Told::Done { version: 12 }, 2, 9),
    ];
    assert!(linear::check(&history).is_err());
}

#[test]
fn a_resurrection_is_found() {
    let history = [
        operation(Ask::Create { value: 1 }, Told::Done { version: 10 }, 0, 1),
        operation(Ask::Delete, Told::Deleted, 2, 3),
        operation(Ask::Read, Told::Saw { value: 1, version: 10 }, 4, 5),
    ];
    assert!(linear::check(&history).is_err());
}

#[test]
fn an_unknown_outcome_may_be_either_and_late() {
    let write = operation(Ask::Put { value: 2 }, Told::Unknown, 2, 3);
    let first = operation(Ask::Create { value: 1 }, Told::Done { version: 10 }, 0, 1);
    let old = operation(Ask::Read, Told::Saw { value: 1, version: 10 }, 4, 5);
    let new = operation(Ask::Read, Told::Saw { value: 2, version: 11 }, 6, 7);
    assert_eq!(linear::check(&[first, write, old]), Ok(()));
    assert_eq!(linear::check(&[first, write, old, new]), Ok(()));
    // But once seen, it is not unseen.
    let back = operation(Ask::Read, Told::Saw { value: 1, version: 10 }, 8, 9);
    assert!(linear::check(&[first, write, new, back]).is_err());
    // And not before it was asked for.
    let early = operation(Ask::Read, Told::Saw { value: 2, version: 11 }, 1, 1);
    assert!(linear::check(&[first, early, write]).is_err());
}

/// A history that a true store makes: each operation takes effect at one instant between its beginning and its end.
fn truthful(seed: &[(u8, u8, u8, bool)]) -> Vec<Operation> {
    let (mut state, mut version, mut history) = (State::Absent, 0, Vec::new());
    let mut past: Vec<u64> = vec![1];
    for (index, (kind, before, after, silent)) in seed.iter().enumerate() {
        let (instant, value) = (index as u64 * 100, index as u64 + 1);
        let from = past[usize::from(*before) % past.len()];
        let ask = match kind % 6 {
            0 => Ask::Create { value },
            1 => Ask::Swap { value, from },
            2 => Ask::Put { value },
            3 => Ask::Delete,
            _ => Ask::Read,
        };
        let at = match state {
            State::Absent => None,
            State::Present { value, version } => Some((value, version.unwrap_or(0))),
        };
        version += 1;
        let told = match (ask, at) {
            (Ask::Create { .. }, None) | (Ask::Put { .. }, Some(_)) => Told::Done { version },
            (Ask::Create { .. }, Some(_)) => Told::Exists,
            (Ask::Swap { from, .. }, Some((_, at))) if at == from => Told::Done { version },
            (Ask::Swap { .. }, Some(_)) => Told::Conflict,
            (Ask::Delete, Some(_)) => Told::Deleted,
            (Ask::Read, Some((value, version))) => Told::Saw { value, version },
            (_, None) => Told::Missing,
        };
        match (ask, told) {
            (
                Ask::Create { value } | Ask::Swap { value, .. } | Ask::Put { value },
                Told::Done { version },
            ) => {
                state = State::Present { value, version: Some(version) };
                past.push(version);
            }
            (Ask::Delete, Told::Deleted) => state = State::Absent,
            _ => {}
        }
        let told = if *silent && ask != Ask::Read { Told::Unknown } else { told };
        let begun = instant.saturating_sub(u64::from(*before) * 2);
        history.push(operation(ask, told, begun, instant + u64::from(*after) * 2));
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_a_true_store_does_holds(seed in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>(), prop::bool::weighted(0.1)), 0..60)) {
        prop_assert_eq!(linear::check(&truthful(&seed)), Ok(()));
    }

    #[test]
    fn a_read_of_what_was_never_written_is_found(seed in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>(), Just(false)), 5..40), at in any::<prop::sample::Index>()) {
        let mut history = truthful(&seed);
        let at = at.index(history.len());
        history[at].ask = Ask::Read;
        history[at].told = Told::Saw { value: 100_000, version: 100_000 };
        prop_assert!(linear::check(&history).is_err());
    }

    /// One watcher of many loses an event, sees one twice, or sees two in the wrong order.
    #[test]
    fn broken_watches_are_found(length in 3_u64..40, at in any::<prop::sample::Index>(), lie in 0..4) {
        let changes: Vec<Change> = (1..=length).map(|v| change(&format!("k{}", v % 3), v, (v % 5 != 0).then_some(v))).collect();
        let whole = Watched { from: 0, events: changes.clone(), until: length };
        let mut story = Story { watched: vec![whole.clone(), whole], ..Story::default() };
        prop_assert_eq!(watch::check(&story), Vec::<String>::new());
        let events = &mut story.watched[1].events;
        let at = at.index(events.len() - 1);
        match lie {
            0 => drop(events.remove(at)),
            1 => events.insert(at, changes[at].clone()),
            2 => events.swap(at, at + 1),
            _ => events[at].value = Some(100_000),
        }
        prop_assert!(!watch::check(&story).is_empty());
    }
}

fn change(key: &str, version: u64, value: Option<u64>) -> Change {
    Change { key: key.into(), version, value }
}

#[test]
fn missed_events_of_acknowledged_writes_are_found() {
    let written = vec![change("a", 5, Some(1)), change("a", 7, Some(2))];
    let watched = vec![Watched { from: 4, events: vec![change("a", 7, Some(2))], until: 7 }];
    assert_eq!(watch::check(&Story { written, watched, ..Story::default() }).len(), 1);
}

#[test]
fn torn_lists_are_found() {
    let written = vec![change("a", 5, Some(1)), change("b", 6, Some(2)), change("a", 7, Some(3))];
    let watched = vec![Watched { from: 0, events: written.clone(), until: 9 }];
    let story = |at: u64, floor: u64, items: Vec<Change>| Story {
        written: written.clone(),
        watched: watched.clone(),
        listed: vec![Listed { at, floor, items }],
        ..Story::default()
    };
    let good = story(6, 6, vec![change("a", 5, Some(1)), change("b", 6, Some(2))]);
    assert_eq!(watch::check(&good), Vec::<String>::new());
    for bad in [
        story(7, 0, vec![change("a", 5, Some(1)), change("b", 6, Some(2))]),
        story(6, 0, vec![change("a", 7, Some(3)), change("b", 6, Some(2))]),
        story(6, 0, vec![change("a", 5, Some(1))]),
        story(6, 7, vec![change("a", 5, Some(1)), change("b", 6, Some(2))]),
    ] {
        assert_eq!(watch::check(&bad).len(), 1, "{:?}", bad.listed);
    }
}

#[test]
fn refused_writes_that_happened_are_found() {
    let story =
        Story { written: vec![change("a", 5, Some(1))], refused: vec![("a".into(), 1)], ..Story::default() };
    assert_eq!(watch::check(&story).len(), 1);
}
