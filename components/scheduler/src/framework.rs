//! The seams of the scheduler: what a plugin may say, and when it is asked.
//!
//! A cycle: every [`Plugin::prepare`] looks at the world once; [`Plugin::filter`] judges each node; [`Plugin::score`]
//! ranks what is left; then [`Plugin::reserve`] and [`Plugin::permit`] for the chosen node, and [`Bind`]. All but binding
//! are synchronous and see one unchanging world.

use std::any::Any;

use futures::future::BoxFuture;

use crate::world::{NodeInfo, PodInfo, World};

/// What `prepare` worked out, handed back to the same plugin.
pub type State = Option<Box<dyn Any + Send + Sync>>;

/// Why a node, or every node, will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub plugin: &'static str,
    pub reasons: Vec<String>,
    /// Evicting pods from the node would not help.
    pub final_: bool,
}

impl Refusal {
    pub fn new(plugin: &'static str, reason: impl Into<String>) -> Self {
        Self { plugin, reasons: vec![reason.into()], final_: false }
    }

    pub fn unresolvable(plugin: &'static str, reason: impl Into<String>) -> Self {
        Self { plugin, reasons: vec![reason.into()], final_: true }
    }
}

/// What a preparation found.
pub enum Prepared {
    /// The plugin has nothing to say about this pod.
    Skip,
    Use(State),
    /// No node will do.
    Reject(Refusal),
}

/// Something that happened and may let a waiting pod be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    NodeAdded,
    NodeChanged,
    /// A pod on a node went, ended, or shrank.
    PodLeft,
    /// A pod came to a node, or its labels changed.
    PodCame,
    NamespaceChanged,
    VolumesChanged,
    /// The waiting pod itself changed.
    PodChanged,
}

/// One concern of placement. Every method has a default that has no opinion.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    fn prepare(&self, _world: &World, _pod: &PodInfo) -> Prepared {
        Prepared::Use(None)
    }

    fn filter(
        &self,
        _world: &World,
        _state: &State,
        _pod: &PodInfo,
        _node: &NodeInfo,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// How much the sum of scores counts this plugin; 0: it does not score.
    fn weight(&self) -> i64 {
        0
    }

    /// Looks at the nodes that passed, before they are scored.
    fn prepare_score(&self, _world: &World, _pod: &PodInfo, _nodes: &[&NodeInfo]) -> Prepared {
        Prepared::Use(None)
    }

    fn score(&self, _world: &World, _state: &State, _pod: &PodInfo, _node: &NodeInfo) -> i64 {
        0
    }

    /// Brings the scores of all nodes into 0..=100.
    fn normalize(&self, _state: &State, _scores: &mut [i64]) {}

    /// Takes what the plugin itself keeps account of.
    fn reserve(&self, _pod: &PodInfo, _node: &str) -> Result<(), Refusal> {
        Ok(())
    }

    fn unreserve(&self, _pod: &PodInfo, _node: &str) {}

    /// May hold the pod back before it is bound.
    fn permit<'a>(&'a self, _pod: &'a PodInfo, _node: &'a str) -> Option<BoxFuture<'a, Result<(), Refusal>>> {
        None
    }

    /// Whether `happening` may change this plugin's refusal.
    fn cured_by(&self, happening: Happening) -> bool;
}

/// Makes a placement known.
pub trait Bind: Send + Sync {
    fn bind<'a>(&'a self, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, Result<(), kube::Error>>;
}

pub const MAX_SCORE: i64 = 100;

/// Scales to 0..=100 by the largest; `reverse` turns the order round.
pub fn normalize_by_max(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        if max == 0 {
            *score = if reverse { MAX_SCORE } else { 0 };
            continue;
        }
        *score = *score * MAX_SCORE / max;
        if reverse {
            *score = MAX_SCORE - *score;
        }
    }
}
