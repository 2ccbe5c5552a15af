//! From objects to the match table and the levels' limits; and, every few seconds, who lends seats to whom.

use super::alloc::{Class, divide};
use super::level::{Level, Limits, Series};
use super::spec::{CATCH_ALL, EXEMPT, FlowSchema, PriorityLevel};
use super::table::{Schema, Table};
use super::{FlowControl, Mode};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What outlives a change of configuration.
#[derive(Default)]
pub(super) struct State {
    pub levels: HashMap<String, Held>,
    pub series: HashMap<(String, String), Arc<Series>>,
    nominal_sum: u32,
    /// The proportion of the last division; for its metric.
    pub fair: f64,
}

pub(super) struct Held {
    pub level: Arc<Level>,
    pub spec: PriorityLevel,
    /// No longer wanted; goes when it is idle.
    pub leaving: bool,
}

/// A flow schema and whether the level it names is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub schema: String,
    pub level: String,
    pub found: bool,
}

fn mandatory() -> (Vec<PriorityLevel>, Vec<FlowSchema>) {
    let (levels, schemas) = crate::bootstrap::flow_objects();
    let keep = |name: &str| name == EXEMPT || name == CATCH_ALL;
    (
        levels.iter().filter_map(PriorityLevel::read).filter(|l| keep(&l.metadata.name)).collect(),
        schemas.iter().filter_map(FlowSchema::read).filter(|s| keep(&s.metadata.name)).collect(),
    )
}

impl FlowControl {
    /// Takes over a new set of objects. Requests in flight and in queues are not disturbed.
    pub(super) fn configure(&self, levels: &[PriorityLevel], schemas: &[FlowSchema]) -> Vec<Found> {
        let (own_levels, own_schemas) = mandatory();
        let mut wanted: Vec<PriorityLevel> = levels.to_vec();
        for own in own_levels {
            if !wanted.iter().any(|l| l.metadata.name == own.metadata.name) {
                wanted.push(own);
            }
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        for held in state.levels.values_mut() {
            held.leaving = true;
        }
        for spec in wanted {
            let Some(mode) = spec.mode() else { continue };
            match state.levels.get_mut(&spec.metadata.name) {
                Some(held) => {
                    held.leaving = false;
                    held.spec = spec;
                }
                None => {
                    let level = Arc::new(Level::new(&spec.metadata.name, mode, Limits::default()));
                    let name = spec.metadata.name.clone();
                    state.levels.insert(name, Held { level, spec, leaving: false });
                }
            }
        }
        state.levels.retain(|_, held| !held.leaving || !held.level.queues.lock().idle());
        self.set_limits(state);
        borrow(state, Instant::now());

        let mut all: Vec<&FlowSchema> = schemas.iter().collect();
        all.extend(
            own_schemas.iter().filter(|own| !schemas.iter().any(|s| s.metadata.name == own.metadata.name)),
        );
        all.sort_by(|a, b| {
            (a.spec.matching_precedence, &a.metadata.name)
                .cmp(&(b.spec.matching_precedence, &b.metadata.name))
        });
        let mut table = Table::default();
        let mut found = Vec::new();
        for schema in all {
            let named = &schema.spec.priority_level_configuration.name;
            let held = state.levels.get(named).filter(|held| !held.leaving);
            if !schema.metadata.uid.is_empty() {
                found.push(Found {
                    schema: schema.metadata.name.clone(),
                    level: named.clone(),
                    found: held.is_some(),
                });
            }
            let Some(held) = held else { continue };
            let key = (named.clone(), schema.metadata.name.clone());
            let series = state
                .series
                .entry(key)
                .or_insert_with(|| Arc::new(Series::new(named, &schema.metadata.name)))
                .clone();
            let level_uid = &held.spec.metadata.uid;
            table.schemas.push(Arc::new(Schema::new(schema, held.level.clone(), level_uid, series)));
        }
        self.table.store(Arc::new(table));
        found
    }

    /// Nominal limits from shares, and what may be lent and borrowed.
    fn set_limits(&self, state: &mut State) {
        let shares: f64 = state.levels.values().map(|held| f64::from(held.spec.shares())).sum();
        let total = f64::from(self.total);
        state.nominal_sum = 0;
        for held in state.levels.values() {
            let Some(mode) = held.spec.mode() else { continue };
            let part = if shares > 0.0 { f64::from(held.spec.shares()) / shares } else { 0.0 };
            let nominal = (total * part).ceil();
            let percent = |p: u32| (nominal * f64::from(p) / 100.0).round() as u32;
            let lendable = percent(held.spec.lendable());
            let borrowable = held.spec.borrowing().map_or(self.total, percent);
            let nominal = nominal as u32;
            state.nominal_sum += nominal;
            let widest = match mode {
                // No wider than a hand's part, nor than 15 %.
                Mode::Queue { hand, .. } => {
                    let hand = u32::try_from(hand).unwrap_or(u32::MAX).max(1);
                    ((f64::from(nominal) * 0.15).ceil() as u32).min(nominal / hand).max(1)
                }
                _ => 0,
            };
            let mut limits = held.level.limits.lock();
            let fresh = limits.most == 0;
            (limits.nominal, limits.least, limits.most) = (nominal, nominal - lendable, nominal + borrowable);
            limits.widest = widest;
            if fresh {
                limits.current = nominal - lendable / 2;
            }
            let current = limits.current;
            drop(limits);
            held.level.queues.lock().configure(mode, current);
        }
    }

    /// Looks at the demand since the last look and moves seats to where they are wanted. Drops levels that nobody
    /// wants and that have become idle; `true` when there were such.
    pub(super) fn adjust(&self, now: Instant) {
        let mut state = self.state.lock();
        let before = state.levels.len();
        state.levels.retain(|_, held| !held.leaving || !held.level.queues.lock().idle());
        if state.levels.len() != before {
            self.set_limits(&mut state);
        }
        borrow(&mut state, now);
    }
}

/// One adjustment over all levels. Exempt levels take what they need first; the others divide the rest.
fn borrow(state: &mut State, now: Instant) {
    let mut remaining = i64::from(state.nominal_sum);
    let mut others: Vec<(Arc<Level>, Mode, Limits, u32)> = Vec::new();
    for held in state.levels.values() {
        let Some(mode) = held.spec.mode() else { continue };
        let seen = {
            let mut queues = held.level.queues.lock();
            queues.sync(now);
            queues.demand.reset()
        };
        let mut limits = held.level.limits.lock();
        limits.demand.update(seen);
        if mode == Mode::Exempt {
            limits.current = limits.least.max(limits.demand.peak);
            limits.demand.target = f64::from(limits.current);
            remaining -= i64::from(limits.current);
        } else {
            let least = limits.least.max(limits.nominal.min(limits.demand.peak));
            limits.demand.target = f64::from(least).max(limits.demand.smoothed);
            others.push((held.level.clone(), mode, *limits, least));
        }
    }
    let floor: i64 = others.iter().map(|(_, _, l, _)| i64::from(l.least)).sum();
    let wanted: i64 = others.iter().map(|(_, _, _, least)| i64::from(*least)).sum();
    state.fair = 0.0;
    let parts: Vec<u32> = if remaining <= floor {
        others.iter().map(|(_, _, l, _)| l.least).collect()
    } else if remaining <= wanted {
        let fraction = (remaining - floor) as f64 / (wanted - floor) as f64;
        others
            .iter()
            .map(|(_, _, l, least)| l.least + (f64::from(least - l.least) * fraction).round() as u32)
            .collect()
    } else {
        let class = |(_, _, l, least): &(Arc<Level>, Mode, Limits, u32)| Class {
            target: l.demand.target,
            least: f64::from(*least),
            most: f64::from(l.most),
        };
        let classes: Vec<Class> = others.iter().map(class).collect();
        match divide(f64::from(state.nominal_sum), &classes) {
            Some((parts, fair)) => {
                state.fair = fair;
                parts.iter().map(|part| part.round() as u32).collect()
            }
            None => others.iter().map(|(_, _, l, _)| l.current).collect(),
        }
    };
    for ((level, mode, ..), current) in others.iter().zip(parts) {
        level.limits.lock().current = current;
        level.queues.lock().configure(*mode, current);
    }
}

/// The condition a flow schema's status should hold.
pub(super) fn dangling(found: &Found) -> serde_json::Value {
    let about =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {:?}", found.level);
    if found.found {
        json!({"type": "Dangling", "status": "False", "reason": "Found", "message": format!("{about} and it exists")})
    } else {
        json!({"type": "Dangling", "status": "True", "reason": "NotFound", "message": format!("{about} but there is no such object")})
    }
}
