//! The books there are, and what happened to them.

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::broadcast;

/// One change: its kind as watches name it, and the book afterwards.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: &'static str,
    pub book: Value,
}

pub struct Shelf {
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct State {
    revision: u64,
    books: BTreeMap<(String, String), Value>,
}

impl Default for Shelf {
    fn default() -> Self {
        Self { state: Mutex::default(), events: broadcast::Sender::new(1024) }
    }
}

impl Shelf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Value> {
        self.state().books.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The books of one namespace, or of all, and the revision they are of.
    pub fn list(&self, namespace: &str) -> (Vec<Value>, u64) {
        let state = self.state();
        let all = state.books.iter().filter(|((ns, _), _)| namespace.is_empty() || ns == namespace);
        (all.map(|(_, book)| book.clone()).collect(), state.revision)
    }

    /// What there is, and what comes after it, without a gap.
    pub fn follow(&self, namespace: &str) -> (Vec<Value>, broadcast::Receiver<Event>) {
        let state = self.state();
        let receiver = self.events.subscribe();
        let all = state.books.iter().filter(|((ns, _), _)| namespace.is_empty() || ns == namespace);
        (all.map(|(_, book)| book.clone()).collect(), receiver)
    }

    /// Stores a book under a new revision; `None` if `new` and there is one of that name.
    pub fn put(&self, namespace: &str, name: &str, mut book: Value, new: bool) -> Option<Value> {
        let mut state = self.state();
        let key = (namespace.to_owned(), name.to_owned());
        let known = state.books.contains_key(&key);
        if new && known {
            return None;
        }
        state.revision += 1;
        book["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.books.insert(key, book.clone());
        let kind = if known { "MODIFIED" } else { "ADDED" };
        let _ = self.events.send(Event { kind, book: book.clone() });
        Some(book)
    }

    pub fn remove(&self, namespace: &str, name: &str) -> Option<Value> {
        let mut state = self.state();
        let mut book = state.books.remove(&(namespace.to_owned(), name.to_owned()))?;
        state.revision += 1;
        book["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let _ = self.events.send(Event { kind: "DELETED", book: book.clone() });
        Some(book)
    }
}
