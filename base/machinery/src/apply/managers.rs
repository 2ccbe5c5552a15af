//! `metadata.managedFields`: the entries, their identity, order and number.

use super::fields_v1;
use super::set::Set;
use serde_json::{Map, Value, json};

/// Most entries made by updates; older ones are folded into [`ANCIENT`].
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// One entry, its field set still encoded.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    /// RFC 3339 in UTC, as stored: sorts as text.
    pub time: Option<String>,
    pub fields: Map<String, Value>,
}

impl Entry {
    /// Appliers are one entry whatever their version, updaters one for each version.
    pub fn is(&self, operation: Operation, manager: &str, api_version: &str, subresource: &str) -> bool {
        self.operation == operation
            && self.manager == manager
            && self.subresource == subresource
            && (operation == Operation::Apply || self.api_version == api_version)
    }

    pub fn set(&self) -> Result<Set, String> {
        fields_v1::decode_members(&self.fields)
    }

    /// As messages name it: `"kubectl" with subresource "status" using apps/v1`.
    pub fn title(&self) -> String {
        let mut out = crate::field::quote(&self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {}", crate::field::quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }

    fn encode(self) -> Value {
        let mut out = Map::new();
        out.insert("manager".into(), self.manager.into());
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        out.insert("operation".into(), operation.into());
        out.insert("apiVersion".into(), self.api_version.into());
        if let Some(time) = self.time {
            out.insert("time".into(), time.into());
        }
        out.insert("fieldsType".into(), "FieldsV1".into());
        out.insert("fieldsV1".into(), Value::Object(self.fields));
        if !self.subresource.is_empty() {
            out.insert("subresource".into(), self.subresource.into());
        }
        Value::Object(out)
    }
}

fn decode_entry(index: usize, entry: Value) -> Result<Entry, String> {
    let Value::Object(mut entry) = entry else {
        return Err("operation must be `Apply` or `Update`".into());
    };
    let mut text = |n: &str| match entry.get_mut(n) {
        Some(Value::String(text)) => std::mem::take(text),
        _ => String::new(),
    };
    let operation = match text("operation").as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".into()),
    };
    let api_version = text("apiVersion");
    if api_version.is_empty() {
        return Err("apiVersion must not be empty".into());
    }
    match text("fieldsType").as_str() {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
        other => {
            return Err(format!(
                "invalid fieldsType {} in managed fields entry {index}",
                crate::field::quote(other)
            ));
        }
    }
    let (manager, subresource, time) = (text("manager"), text("subresource"), text("time"));
    let fields = match entry.get_mut("fieldsV1").map(Value::take) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err("error decoding set: expected map".into()),
    };
    let time = (!time.is_empty()).then_some(time);
    Ok(Entry { manager, operation, api_version, subresource, time, fields })
}

/// Reads the entries; the whole list is bad when one is.
pub(super) fn decode(entries: Vec<Value>) -> Result<Vec<Entry>, String> {
    let mut out: Vec<Entry> = Vec::with_capacity(entries.len());
    for (i, entry) in entries.into_iter().enumerate() {
        let entry = decode_entry(i, entry)?;
        out.retain(|e| !e.is(entry.operation, &entry.manager, &entry.api_version, &entry.subresource));
        out.push(entry);
    }
    Ok(out)
}

/// An explicit empty list, or one empty entry, asks to forget all owners.
pub(super) fn is_reset(entries: &[Value]) -> bool {
    match entries {
        [] => true,
        [only] => *only == json!({}),
        _ => false,
    }
}

/// Writes the entries into the object: sorted as upstream sorts, none without fields.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.fields.is_empty());
    if entries.is_empty() {
        crate::meta::take(object, "managedFields");
        return;
    }
    entries.sort_by(|a, b| {
        a.operation
            .cmp(&b.operation)
            .then_with(|| a.time.cmp(&b.time))
            .then_with(|| a.manager.cmp(&b.manager))
            .then_with(|| a.api_version.cmp(&b.api_version))
            .then_with(|| a.subresource.cmp(&b.subresource))
    });
    let encoded = entries.into_iter().map(Entry::encode).collect();
    crate::meta::set(object, "managedFields", Value::Array(encoded));
}

/// Folds the oldest updaters of each version into one entry until no more than ten are left.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let updaters = entries.iter().filter(|e| e.operation == Operation::Update).count();
    let mut excess = updaters.saturating_sub(MAX_UPDATERS);
    if excess == 0 {
        return;
    }
    entries.sort_by(|a, b| {
        a.operation
            .cmp(&b.operation)
            .then_with(|| a.time.cmp(&b.time))
            .then_with(|| a.manager.cmp(&b.manager))
    });
    let mut at = 0;
    while at < entries.len() && excess > 0 {
        if entries[at].operation == Operation::Apply {
            at += 1;
            continue;
        }
        let version = entries[at].api_version.clone();
        let same = |e: &Entry| e.operation == Operation::Update && e.api_version == version;
        // The first of a version waits for a second one to be folded with.
        let Some(next) = (at + 1..entries.len()).find(|i| same(&entries[*i])) else {
            at += 1;
            continue;
        };
        let folded = entries.remove(next);
        let bucket = &mut entries[at];
        bucket.manager = ANCIENT.into();
        bucket.subresource = String::new();
        bucket.time = folded.time.clone();
        if let Ok(set) = folded.set() {
            fields_v1::add(&mut bucket.fields, &set);
        }
        excess -= 1;
    }
}
