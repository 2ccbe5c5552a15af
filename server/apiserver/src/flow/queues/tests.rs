//! Seats add up, whatever comes and goes; and nobody starves.

use super::*;
use proptest::prelude::*;

fn start(set: &mut QueueSet, now: Instant, hash: u64, work: Work) -> Start {
    set.arrive(now, hash, work, Details::default)
}

proptest! {
    #[test]
    fn hands_hold_distinct_cards(hash: u64, deck in 1usize..600, size in 1usize..=MAX_HAND) {
        let size = size.min(deck);
        let mut hand = vec![0; size];
        deal(hash, deck, &mut hand);
        let distinct: std::collections::BTreeSet<_> = hand.iter().collect();
        prop_assert_eq!(distinct.len(), size);
        prop_assert!(hand.iter().all(|card| *card < deck));
    }

    /// Whatever comes and goes: seats add up, the limit holds, and in the end nothing is left.
    #[test]
    fn seats_are_never_lost(steps in prop::collection::vec((0u8..4, any::<u64>(), 1u32..4, 0u64..20), 1..120)) {
        let mut now = Instant::now();
        let mut set = QueueSet::new(Mode::Queue { queues: 8, hand: 3, length: 2 }, 5, now);
        let mut running: Vec<(Place, Work)> = Vec::new();
        let mut queued: Vec<(u64, Place, Work, oneshot::Receiver<()>)> = Vec::new();
        for (what, hash, seats, millis) in steps {
            now += Duration::from_millis(millis);
            match what {
                0 | 1 => {
                    let linger = Duration::from_millis(if what == 0 { 0 } else { 5 });
                    let work = Work { initial: 1, last: seats, linger };
                    match start(&mut set, now, hash, work) {
                        Start::Run(place) => running.push((place, work)),
                        Start::Wait(id, place, woken) => queued.push((id, place, work, woken)),
                        Start::Refuse(why) => prop_assert_eq!(why, "queue-full"),
                    }
                }
                2 if !running.is_empty() => {
                    let (place, work) = running.swap_remove(hash as usize % running.len());
                    set.finish(now, place, work, Duration::from_millis(millis));
                }
                _ if !queued.is_empty() => {
                    let (id, place, work, _woken) = queued.swap_remove(hash as usize % queued.len());
                    if !set.forget(now, place, id) {
                        running.push((place, work));
                    }
                }
                _ => {}
            }
            queued.retain_mut(|(_, place, work, woken)| {
                let granted = woken.try_recv().is_ok();
                if granted {
                    running.push((*place, *work));
                }
                !granted
            });
            prop_assert!(set.seats <= 5, "{} seats", set.seats);
            prop_assert_eq!(set.executing as usize, running.len());
            prop_assert_eq!(set.waiting as usize, queued.len());
            prop_assert_eq!(set.busy as usize, set.queues.iter().filter(|q| q.busy()).count());
            prop_assert_eq!(set.seats, set.queues.iter().map(|q| q.seats).sum::<u32>());
        }
        for (id, place, work, _woken) in queued {
            if !set.forget(now, place, id) {
                running.push((place, work));
            }
        }
        // Forgetting may have woken others that were forgotten in turn; what runs now ends.
        for (place, work) in running {
            set.finish(now, place, work, Duration::ZERO);
        }
        set.sync(now + Duration::from_secs(1));
        prop_assert!(set.idle());
        prop_assert_eq!((set.seats, set.waiting_seats, set.busy), (0, 0, 0));
    }
}

#[test]
fn a_heavy_flow_does_not_starve_a_light_one() {
    let now = Instant::now();
    let mut set = QueueSet::new(Mode::Queue { queues: 64, hand: 6, length: 50 }, 1, now);
    let Start::Run(first) = start(&mut set, now, 1, Work::ONE) else { panic!("the first runs") };
    let mut heavy = Vec::new();
    for _ in 0..40 {
        let Start::Wait(.., woken) = start(&mut set, now, 1, Work::ONE) else { panic!("the rest wait") };
        heavy.push(woken);
    }
    let Start::Wait(.., mut light) = start(&mut set, now, 999_999_999, Work::ONE) else { panic!("it waits") };
    // One after the other finishes; the light flow is served long before the heavy one is through.
    let (mut now, mut place, mut served) = (now, first, 0);
    while light.try_recv().is_err() {
        now += Duration::from_millis(3);
        set.finish(now, place, Work::ONE, Duration::from_millis(3));
        place = set.queues.iter().position(|q| q.executing > 0).map(|i| i as u32);
        served += 1;
        assert!(served < 12, "the light flow starves");
    }
}

#[test]
fn wider_than_the_level_runs_alone_and_full_queues_refuse() {
    let now = Instant::now();
    let mut set = QueueSet::new(Mode::Queue { queues: 1, hand: 1, length: 1 }, 2, now);
    let wide = Work { initial: 9, ..Work::ONE };
    let Start::Run(place) = start(&mut set, now, 0, wide) else { panic!("alone, it may run") };
    let Start::Wait(_, _, mut woken) = start(&mut set, now, 0, Work::ONE) else { panic!("no room") };
    assert!(matches!(start(&mut set, now, 0, Work::ONE), Start::Refuse("queue-full")));
    set.finish(now, place, wide, Duration::from_millis(1));
    assert!(woken.try_recv().is_ok());
    let mut set = QueueSet::new(Mode::Reject, 1, now);
    assert!(matches!(start(&mut set, now, 0, Work::ONE), Start::Run(None)));
    assert!(matches!(start(&mut set, now, 0, Work::ONE), Start::Refuse("concurrency-limit")));
    let mut set = QueueSet::new(Mode::Exempt, 0, now);
    for _ in 0..100 {
        assert!(matches!(start(&mut set, now, 0, Work::ONE), Start::Run(None)));
    }
}
