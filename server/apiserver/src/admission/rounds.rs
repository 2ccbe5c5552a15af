//! Reinvocation: mutating plugins run once more after a webhook or a policy changed the object, and of webhooks and
//! policies those that asked for it and did not see the change. Source: upstream's `reinvocation.go`.

use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Which round it is, and what was run in it.
#[derive(Debug, Default)]
pub struct Rounds {
    wanted: AtomicBool,
    second: AtomicBool,
    pub webhooks: Mutex<Runs>,
    pub policies: Mutex<Runs>,
}

impl Rounds {
    /// Somebody changed the object.
    pub fn want_another(&self) {
        self.wanted.store(true, Relaxed);
    }

    pub fn is_second(&self) -> bool {
        self.second.load(Relaxed)
    }

    /// Begins the second round, if it is wanted and was not yet.
    pub fn next(&self) -> bool {
        self.wanted.load(Relaxed) && !self.second.swap(true, Relaxed)
    }
}

/// Of one plugin: who ran and wants to see later changes.
#[derive(Debug, Default)]
pub struct Runs {
    /// The object as the plugin left it. Kept only while somebody may want to see changes.
    last: Option<Value>,
    ran: BTreeSet<String>,
    due: BTreeSet<String>,
}

impl Runs {
    pub fn begin(&mut self, second: bool, object: &Value) {
        if second && self.last.as_ref().is_some_and(|last| last != object) {
            self.changed();
        }
    }

    /// The object changed: whoever ran before is due.
    pub fn changed(&mut self) {
        self.due.append(&mut self.ran);
    }

    pub fn ran(&mut self, who: &str) {
        self.ran.insert(who.to_owned());
    }

    pub fn is_due(&self, who: &str) -> bool {
        self.due.contains(who)
    }

    pub fn end(&mut self, object: &Value) {
        self.last = (!self.ran.is_empty()).then(|| object.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_ran_before_a_change_is_due() {
        let mut runs = Runs::default();
        let object = json!({"a": 1});
        runs.begin(false, &object);
        runs.ran("one");
        runs.changed();
        runs.ran("two");
        runs.end(&object);
        assert!(runs.is_due("one") && !runs.is_due("two"));
        runs.begin(true, &object);
        assert!(!runs.is_due("two"), "nobody touched it in between");
        runs.begin(true, &json!({"a": 2}));
        assert!(runs.is_due("two"));
    }
}
