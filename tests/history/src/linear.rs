//! Linearizability of one key's history, after Wing and Gong with Lowe's memoisation: a depth-first search over the
//! orders that real time allows, which forgets no configuration (done operations, state) it has been in.
//!
//! A key's state is absent, or a value at a version. Versions are the server's: a write that was acknowledged says which
//! it made, so most orders are settled at once; only writes without an outcome are guesses.

use std::collections::HashSet;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Absent,
    /// A value and the version it was written at; the version of a write nobody was told of is not known.
    Present {
        value: u64,
        version: Option<u64>,
    },
}

/// What was asked for. Values are unique in a history, so that a read says whose write it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Create {
        value: u64,
    },
    /// Write if the key is still at this version.
    Swap {
        value: u64,
        from: u64,
    },
    /// Write whatever is there, if anything is (update without a version, patch).
    Put {
        value: u64,
    },
    Delete,
    Read,
}

/// What was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A write was done, at this version.
    Done { version: u64 },
    /// A deletion was done.
    Deleted,
    /// It was there already.
    Exists,
    /// It was not there.
    Missing,
    /// It was at another version.
    Conflict,
    /// A read's answer.
    Saw { value: u64, version: u64 },
    /// Nothing: the connection broke, or the server said it does not know. It may have happened, then or later.
    Unknown,
}

/// One operation: begun and ended at these instants of one clock. One without an outcome never ends.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub ask: Ask,
    pub told: Told,
    pub begun: u64,
    pub ended: u64,
}

/// The state after an operation in this state; `None` where what was told cannot be.
fn step(state: State, ask: Ask, told: Told) -> Option<State> {
    let write = |value: u64, version: Option<u64>| Some(State::Present { value, version });
    match (ask, told, state) {
        (_, Told::Unknown, _) => unknown(state, ask),
        (Ask::Create { value }, Told::Done { version }, State::Absent) => write(value, Some(version)),
        (Ask::Create { .. }, Told::Exists, State::Present { .. }) => Some(state),
        (Ask::Swap { value, from }, Told::Done { version }, State::Present { version: at, .. }) => {
            let fits = at.is_none_or(|at| at == from) && version > from;
            if fits { write(value, Some(version)) } else { None }
        }
        (Ask::Swap { from, .. }, Told::Conflict, State::Present { version, .. }) => {
            (version != Some(from)).then_some(state)
        }
        (Ask::Put { value }, Told::Done { version }, State::Present { version: at, .. }) => {
            if at.is_none_or(|at| version > at) { write(value, Some(version)) } else { None }
        }
        (Ask::Delete, Told::Deleted, State::Present { .. }) => Some(State::Absent),
        (Ask::Swap { .. } | Ask::Put { .. } | Ask::Delete | Ask::Read, Told::Missing, State::Absent) => {
            Some(state)
        }
        (Ask::Read, Told::Saw { value, version }, State::Present { value: has, version: at }) => {
            // The first look at a write nobody was told of settles its version.
            (has == value && at.is_none_or(|at| at == version))
                .then_some(State::Present { value, version: Some(version) })
        }
        _ => None,
    }
}

/// What an operation without an outcome does if it happens now; `None` where it changes nothing, which is the same as not
/// happening.
fn unknown(state: State, ask: Ask) -> Option<State> {
    match (ask, state) {
        (Ask::Create { value }, State::Absent) => Some(State::Present { value, version: None }),
        (Ask::Swap { value, from }, State::Present { version, .. }) if version.is_none_or(|v| v == from) => {
            Some(State::Present { value, version: None })
        }
        (Ask::Put { value }, State::Present { .. }) => Some(State::Present { value, version: None }),
        (Ask::Delete, State::Present { .. }) => Some(State::Absent),
        _ => None,
    }
}

/// Whether some order explains the history of a key that begins absent. The error names the operations that no order
/// got past.
pub fn check(operations: &[Operation]) -> Result<(), String> {
    let mut operations: Vec<Operation> = operations.to_vec();
    operations.sort_by_key(|o| (o.begun, o.ended));
    let count = operations.len();
    let sure = operations.iter().filter(|o| o.told != Told::Unknown).count();
    let mut search = Search { operations: &operations, seen: HashSet::new(), best: (0, Vec::new()) };
    let done = Done::new(count);
    if search.explains(done, sure) {
        return Ok(());
    }
    let (reached, stuck) = search.best;
    let what: Vec<String> = stuck.iter().map(|at| format!("{:?}", operations[*at])).collect();
    Err(format!(
        "no order explains more than {reached} of {sure} operations; none of these can follow:\n  {}",
        what.join("\n  ")
    ))
}

/// A set of operations, by bit.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn with(&self, at: usize) -> Self {
        let mut other = self.clone();
        other.0[at / 64] |= 1 << (at % 64);
        other
    }
}

struct Search<'a> {
    operations: &'a [Operation],
    seen: HashSet<(Done, State)>,
    best: (usize, Vec<usize>),
}

impl Search<'_> {
    /// Depth first, with a stack of its own: histories are long.
    fn explains(&mut self, start: Done, sure: usize) -> bool {
        let mut stack = vec![(start, State::Absent, 0_usize, 0_usize)];
        while let Some((done, state, first, told)) = stack.pop() {
            if told == sure {
                return true;
            }
            if !self.seen.insert((done.clone(), state)) {
                continue;
            }
            // Operations are in the order they began: all before `first` are done.
            let mut first = first;
            while first < self.operations.len() && done.has(first) {
                first += 1;
            }
            // What ends earliest among those left bounds what may come next.
            let left = || (first..self.operations.len()).filter(|at| !done.has(*at));
            let bound = self.horizon(&done, first);
            let mut candidates: Vec<usize> = Vec::new();
            for at in left() {
                if self.operations[at].begun > bound {
                    break;
                }
                candidates.push(at);
            }
            if told > self.best.0 || self.best.1.is_empty() {
                let stuck = candidates
                    .iter()
                    .copied()
                    .filter(|at| self.operations[*at].told != Told::Unknown)
                    .collect();
                self.best = (told, stuck);
            }
            // Guesses are pushed first, so that what was told is tried before them.
            candidates.sort_by_key(|at| {
                (self.operations[*at].told != Told::Unknown, std::cmp::Reverse(self.operations[*at].ended))
            });
            for at in candidates {
                let operation = &self.operations[at];
                if let Some(next) = step(state, operation.ask, operation.told) {
                    let told = told + usize::from(operation.told != Told::Unknown);
                    stack.push((done.with(at), next, first, told));
                }
            }
        }
        false
    }

    fn horizon(&self, done: &Done, first: usize) -> u64 {
        let mut bound = u64::MAX;
        for at in first..self.operations.len() {
            let operation = &self.operations[at];
            if operation.begun > bound {
                break;
            }
            if !done.has(at) && operation.told != Told::Unknown {
                bound = bound.min(operation.ended);
            }
        }
        bound
    }
}
