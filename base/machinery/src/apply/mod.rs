//! Server-side apply and the tracking of field owners.
//!
//! [`apply`] merges a configuration into the live object as structured-merge-diff does; [`update`] records what
//! any other write changed. Both are pure: time and identity come in with the [`Context`].
//!
//! Invariants: applying the same configuration again changes nothing, owners and times included; an update that
//! changes nothing costs one walk over the two objects and decodes no field set.

mod compare;
pub mod fields_v1;
mod managers;
mod merge;
mod set;
mod skeleton;
mod typed;

pub use set::{Node, PathElement, Set, show_path};

use crate::meta;
use crate::schema::{Schema, Shape, TypeId};
use managers::{Entry, Operation};
use serde_json::{Value, json};
use std::fmt;
use typed::Kind;

/// The annotation `kubectl apply` keeps its last configuration in.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who writes what, when.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub schema: &'a Schema,
    /// The type of the whole object in `schema`.
    pub root: TypeId,
    /// `fieldManager`; empty counts as `unknown`.
    pub manager: &'a str,
    /// Of the request: `apps/v1`.
    pub api_version: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// RFC 3339, whole seconds, UTC.
    pub now: &'a str,
    /// Take fields from their owners (apply only).
    pub force: bool,
    /// Paths this (sub)resource never writes, as `&["status"]`; they are never owned.
    pub reset: &'a [&'a [&'a str]],
    /// Built-in kinds start from upstream's empty Go value, custom ones from nothing.
    pub builtin: bool,
    /// How objects look in the other versions of their kind, where they look different.
    pub others: Option<Convert<'a>>,
}

/// An object of the request's version in another, with the schema that goes with it.
pub type Convert<'a> = &'a dyn Fn(&Value, &str) -> Option<(Value, &'static Schema, TypeId)>;

/// What a write changed, in every version that owners are recorded in.
struct Changes<'c> {
    main: compare::Diff,
    others: Vec<(String, compare::Diff)>,
    objects: (&'c Value, &'c Value),
    ctx: &'c Context<'c>,
}

impl<'c> Changes<'c> {
    fn new(main: compare::Diff, old: &'c Value, new: &'c Value, ctx: &'c Context<'c>) -> Self {
        Self { main, others: Vec::new(), objects: (old, new), ctx }
    }

    /// The change as owners of `version` see it.
    fn of(&mut self, version: &str) -> &compare::Diff {
        let ctx = self.ctx;
        let Some(convert) = ctx.others.filter(|_| version != ctx.api_version) else { return &self.main };
        let at = match self.others.iter().position(|(v, _)| v == version) {
            Some(at) => at,
            None => {
                let (old, new) = self.objects;
                let (Some((old, ..)), Some((new, schema, root))) =
                    (convert(old, version), convert(new, version))
                else {
                    return &self.main;
                };
                let mut diff = diff_without_owners(&old, &new, &Context { schema, root, ..*ctx });
                ctx.without_reset(&mut diff.changed);
                ctx.without_reset(&mut diff.removed);
                self.others.push((version.to_owned(), diff));
                self.others.len() - 1
            }
        };
        &self.others[at].1
    }

    /// Takes from every owner what it has lost.
    fn take_from(&mut self, entries: &mut [Entry]) {
        for entry in entries {
            let diff = self.of(&entry.api_version);
            fields_v1::subtract(&mut entry.fields, &diff.changed);
            fields_v1::subtract(&mut entry.fields, &diff.removed);
        }
    }
}

/// One field another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner as messages show it, quotes included.
    pub manager: String,
    pub path: Vec<PathElement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError {
    /// 409, reason `Conflict`.
    Conflicts(Vec<Conflict>),
    /// 400.
    BadRequest(String),
    /// 500 upstream: the configuration does not fit the schema.
    Invalid(String),
}

impl ApplyError {
    /// `Status.details.causes` of a conflict.
    pub fn causes(&self) -> Value {
        match self {
            Self::Conflicts(conflicts) => conflicts
                .iter()
                .map(|c| {
                    json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", c.manager),
                        "field": show_path(&c.path)})
                })
                .collect(),
            _ => json!([]),
        }
    }
}

impl std::error::Error for ApplyError {}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflicts(conflicts) => match conflicts.as_slice() {
                [one] => {
                    write!(
                        f,
                        "Apply failed with 1 conflict: conflict with {}: {}",
                        one.manager,
                        show_path(&one.path)
                    )
                }
                many => {
                    write!(f, "Apply failed with {} conflicts: ", many.len())?;
                    let mut lines = Vec::new();
                    let mut last = None;
                    for conflict in many {
                        if last != Some(&conflict.manager) {
                            lines.push(format!("conflicts with {}:", conflict.manager));
                            last = Some(&conflict.manager);
                        }
                        lines.push(format!("- {}", show_path(&conflict.path)));
                    }
                    f.write_str(&lines.join("\n"))
                }
            },
            Self::BadRequest(message) | Self::Invalid(message) => f.write_str(message),
        }
    }
}

impl<'a> Context<'a> {
    fn root_kind(&self) -> Kind<'a> {
        Kind::Struct(self.schema.get(self.root))
    }

    fn manager_name(&self) -> &'a str {
        if self.manager.is_empty() { "unknown" } else { self.manager }
    }

    /// Leaves out what this (sub)resource resets and therefore never owns.
    fn without_reset(&self, set: &mut Set) {
        self.reset.iter().for_each(|path| set.forget(path, true));
    }
}

/// Takes out what no manager is ever recorded for.
fn strip_unowned(set: &mut Set) {
    const METADATA: [&str; 9] = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    for field in METADATA {
        set.forget(&["metadata", field], false);
    }
    for field in ["apiVersion", "kind", "metadata"] {
        set.forget(&[field], false);
    }
}

/// Removes `metadata.managedFields` and returns it.
pub fn strip(object: &mut Value) -> Option<Value> {
    meta::take(object, "managedFields")
}

/// Records in `new` what this write changed against `old` (`None`: it is created). The entries `new` came with
/// win over `old`'s on the main resource, as upstream lets clients edit them; an empty list resets all.
pub fn update(old: Option<&Value>, new: &mut Value, ctx: &Context<'_>) {
    let mut sent = match strip(new) {
        Some(Value::Array(sent)) => Some(sent),
        _ => None,
    };
    let live = old.map_or(&[] as &[Value], meta::managed_fields);
    let mut entries = None;
    let mut reset = false;
    if ctx.subresource.is_empty()
        && let Some(sent) = &mut sent
    {
        if managers::is_reset(sent) {
            reset = true;
        } else if sent.as_slice() != live {
            entries = managers::decode(std::mem::take(sent)).ok();
        }
    }
    if reset {
        return;
    }
    let edited = entries.is_some();
    // Objects that never were tracked stay untracked until they are applied.
    if !edited && live.is_empty() && old.is_some() {
        return;
    }
    let empty;
    let before = match old {
        Some(old) => old,
        None => {
            empty = blank(ctx);
            &empty
        }
    };
    let mut diff = diff_without_owners(before, new, ctx);
    ctx.without_reset(&mut diff.changed);
    ctx.without_reset(&mut diff.removed);
    // Mostly the client sent what there is: then its copy is ours to use.
    let known = || sent.filter(|sent| sent.as_slice() == live).unwrap_or_else(|| live.to_vec());
    if diff.is_empty() && !edited {
        if !live.is_empty() {
            meta::set(new, "managedFields", Value::Array(known()));
        }
        return;
    }
    let mut entries = match entries {
        Some(entries) => entries,
        None => managers::decode(known()).unwrap_or_default(),
    };
    record(&mut entries, Changes::new(diff, before, new, ctx));
    managers::cap(&mut entries);
    managers::write(new, entries);
}

/// Books a difference: others lose what changed, the writer gains it.
fn record(entries: &mut Vec<Entry>, mut changes: Changes<'_>) {
    let ctx = changes.ctx;
    changes.take_from(entries);
    entries.retain(|e| !e.fields.is_empty());
    let mut gained = changes.main.changed;
    strip_unowned(&mut gained);
    if gained.is_empty() {
        return;
    }
    let manager = ctx.manager_name();
    let own = |e: &Entry| e.is(Operation::Update, manager, ctx.api_version, ctx.subresource);
    let at = match entries.iter().position(own) {
        Some(at) => at,
        None => {
            entries.push(Entry {
                manager: manager.into(),
                operation: Operation::Update,
                api_version: ctx.api_version.into(),
                subresource: ctx.subresource.into(),
                time: None,
                fields: serde_json::Map::new(),
            });
            entries.len() - 1
        }
    };
    fields_v1::add(&mut entries[at].fields, &gained);
    entries[at].time = Some(ctx.now.into());
}

/// The difference of two objects, their `managedFields` aside.
fn diff_without_owners(old: &Value, new: &Value, ctx: &Context<'_>) -> compare::Diff {
    let mut diff = compare::diff(ctx.schema, ctx.root_kind(), old, new);
    // `managedFields` is an atomic list; drop whatever the walk said of it.
    diff.changed.forget(&["metadata", "managedFields"], true);
    diff.removed.forget(&["metadata", "managedFields"], true);
    diff
}

/// What an object is before anyone set anything.
fn blank(ctx: &Context<'_>) -> Value {
    if ctx.builtin { skeleton::skeleton(ctx.schema, ctx.root) } else { json!({}) }
}

/// The live object with a configuration merged into it and no owner recorded, as mutating policies do. Parts that
/// merge only as a whole may not be named: much would be lost by accident.
pub fn overlay(schema: &Schema, root: TypeId, live: &Value, configuration: &Value) -> Result<Value, String> {
    let shape = Shape::Struct(root);
    let kind = typed::kind(schema, &shape);
    let mut atomics = Vec::new();
    find_atomics(schema, kind, configuration, &mut String::new(), &mut atomics);
    if !atomics.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        ));
    }
    Ok(merge::merge(schema, kind, Some(live), Some(configuration)).unwrap_or_default())
}

fn find_atomics(
    schema: &Schema,
    of: typed::Kind<'_>,
    value: &Value,
    path: &mut String,
    found: &mut Vec<String>,
) {
    let length = path.len();
    match (typed::resolve(of, value), value) {
        (typed::Kind::Leaf, Value::Object(_) | Value::Array(_)) => found.push(path.clone()),
        (typed::Kind::List(list), Value::Array(items)) => {
            let kind = typed::kind(schema, &list.item);
            for (i, item) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                find_atomics(schema, kind, item, path, found);
                path.truncate(length);
            }
        }
        (of, Value::Object(members)) => {
            for (name, member) in members {
                path.push('.');
                path.push_str(name);
                let (below, _) = typed::member(schema, of, name);
                find_atomics(schema, below, member, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// Merges `applied` into `live` (`None`: it is created) and answers the object to store, owners recorded.
pub fn apply(live: Option<&Value>, applied: &Value, ctx: &Context<'_>) -> Result<Value, ApplyError> {
    let version = applied.get("apiVersion").and_then(Value::as_str).unwrap_or("");
    if version != ctx.api_version {
        return Err(ApplyError::BadRequest(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            ctx.api_version
        )));
    }
    if applied.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".into()));
    }
    check(applied, ctx)?;
    match attempt(live, applied, ctx) {
        Err(ApplyError::Conflicts(conflicts)) if ctx.manager == "kubectl" => {
            // Fields kubectl set by client-side apply, and nobody touched since, are kubectl's own.
            let Some(allowed) = live.and_then(|l| last_applied_set(l, ctx)) else {
                return Err(ApplyError::Conflicts(conflicts));
            };
            let rest: Vec<Conflict> = conflicts.into_iter().filter(|c| !allowed.has(&c.path)).collect();
            if rest.is_empty() {
                return attempt(live, applied, &Context { force: true, ..*ctx });
            }
            Err(ApplyError::Conflicts(rest))
        }
        other => other,
    }
}

fn check(applied: &Value, ctx: &Context<'_>) -> Result<(), ApplyError> {
    let mut errors = Vec::new();
    typed::check(ctx.schema, &Shape::Struct(ctx.root), applied, &mut String::new(), &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    let (group, version) = meta::split_api_version(ctx.api_version);
    let (_, kind) = meta::type_meta(applied);
    let group = if group.is_empty() { String::from("/") } else { format!("{group}/") };
    let mut message = format!(
        "failed to create typed patch object ({}/{}; {group}{version}, Kind={kind}): ",
        meta::namespace(applied),
        meta::name(applied)
    );
    if errors.len() == 1 {
        message.push_str(&errors[0]);
    } else {
        message.push_str("errors:");
        for error in errors {
            message.push_str(&format!("\n  {error}"));
        }
    }
    Err(ApplyError::Invalid(message))
}

fn attempt(live: Option<&Value>, applied: &Value, ctx: &Context<'_>) -> Result<Value, ApplyError> {
    let (schema, root) = (ctx.schema, ctx.root_kind());
    let empty = json!({});
    let mut merged = merge::merge(schema, root, live, Some(applied)).unwrap_or_else(|| empty.clone());
    let owners = match strip(&mut merged) {
        Some(Value::Array(owners)) => owners,
        _ => Vec::new(),
    };
    let mut entries = managers::decode(owners)
        .map_err(|e| ApplyError::Invalid(format!("failed to decode managed fields: {e}")))?;
    if let Some(live) = live
        && entries.is_empty()
    {
        // Whatever was there before anyone applied has an owner too.
        let (blank, ctx) = (blank(ctx), Context { manager: "before-first-apply", ..*ctx });
        let diff = diff_without_owners(&blank, live, &ctx);
        record(&mut entries, Changes::new(diff, &blank, live, &ctx));
    }

    let manager = ctx.manager_name();
    let own = |e: &Entry| e.is(Operation::Apply, manager, ctx.api_version, ctx.subresource);
    let at = entries.iter().position(own);
    let before = at.map(|at| entries.remove(at));
    let last = match &before {
        Some(entry) => entry.set().map_err(ApplyError::Invalid)?,
        None => Set::default(),
    };
    let mut set = typed::field_set(schema, root, applied);
    ctx.without_reset(&mut set);
    let merged = prune(merged, &set, last, &entries, ctx)?;

    let mut diff = diff_without_owners(live.unwrap_or(&empty), &merged, ctx);
    ctx.without_reset(&mut diff.changed);
    ctx.without_reset(&mut diff.removed);
    let mut changes = Changes::new(diff, live.unwrap_or(&empty), &merged, ctx);
    if !ctx.force && !changes.main.changed.is_empty() {
        let conflicts = conflicts(&entries, &mut changes)?;
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    changes.take_from(&mut entries);
    let same = live.is_some_and(|live| same_but_owners(live, &merged));
    let time = if same { before.and_then(|e| e.time) } else { Some(ctx.now.to_string()) };
    strip_unowned(&mut set);
    if let Value::Object(fields) = fields_v1::encode(&set) {
        entries.push(Entry {
            manager: manager.into(),
            operation: Operation::Apply,
            api_version: ctx.api_version.into(),
            subresource: ctx.subresource.into(),
            time,
            fields,
        });
    }
    let mut out = merged;
    if ctx.manager == "kubectl" && meta::annotation(&out, LAST_APPLIED).is_some_and(|a| !a.is_empty()) {
        let mut config = applied.clone();
        if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.remove(LAST_APPLIED);
        }
        meta::set_annotation(&mut out, LAST_APPLIED, &format!("{config}\n"));
    }
    managers::write(&mut out, entries);
    Ok(out)
}

/// Whether `bare` is `object` without its `managedFields`.
fn same_but_owners(object: &Value, bare: &Value) -> bool {
    let (Some(a), Some(b)) = (object.as_object(), bare.as_object()) else { return object == bare };
    a.len() == b.len()
        && a.iter().zip(b).all(|((name, x), (other, y))| {
            name == other
                && match (name.as_str(), x, y) {
                    ("metadata", Value::Object(x), Value::Object(y)) => {
                        x.iter().filter(|(name, _)| *name != "managedFields").eq(y)
                    }
                    _ => x == y,
                }
        })
}

fn conflicts(entries: &[Entry], changes: &mut Changes<'_>) -> Result<Vec<Conflict>, ApplyError> {
    let mut out = Vec::new();
    for entry in entries {
        let set = entry.set().map_err(ApplyError::Invalid)?;
        let manager = entry.title();
        for path in set.intersection(&changes.of(&entry.api_version).changed).paths() {
            out.push(Conflict { manager: manager.clone(), path });
        }
    }
    out.sort_by(|a, b| a.manager.cmp(&b.manager));
    Ok(out)
}

/// Takes away what the applier named last time and names no more, unless somebody else owns it.
fn prune(
    merged: Value,
    set: &Set,
    mut last: Set,
    others: &[Entry],
    ctx: &Context<'_>,
) -> Result<Value, ApplyError> {
    let (schema, root) = (ctx.schema, ctx.root_kind());
    if last.clone().difference(set).is_empty() {
        return Ok(merged);
    }
    typed::ensure_fields(schema, root, &mut last);
    let empty = || json!({});
    let pruned = merge::remove(schema, root, &merged, &last).unwrap_or_else(empty);
    let mut managed = set.clone();
    for entry in others {
        managed = managed.union(entry.set().map_err(ApplyError::Invalid)?);
    }
    typed::ensure_fields(schema, root, &mut managed);
    let full = |value: &Value| {
        let mut set = typed::field_set(schema, root, value);
        typed::ensure_fields(schema, root, &mut set);
        set
    };
    let everything = full(&merged);
    // Give back what any manager owns ...
    let gone = everything.clone().difference(&full(&pruned).union(managed));
    let pruned = merge::remove(schema, root, &merged, &gone).unwrap_or_else(empty);
    // ... and what was below something removed but was never the applier's.
    let gone = everything.difference(&full(&pruned)).intersection(&last);
    Ok(merge::remove(schema, root, &merged, &gone).unwrap_or_else(empty))
}

/// The fields of the last-applied annotation that still have the value it says.
fn last_applied_set(live: &Value, ctx: &Context<'_>) -> Option<Set> {
    let text = meta::annotation(live, LAST_APPLIED).filter(|a| !a.is_empty())?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last.get("apiVersion").and_then(Value::as_str) != Some(ctx.api_version) {
        return None;
    }
    let set = typed::field_set(ctx.schema, ctx.root_kind(), &last);
    let diff = compare::diff(ctx.schema, ctx.root_kind(), &last, live);
    Some(set.difference(&diff.changed).difference(&diff.removed))
}

#[cfg(test)]
mod tests;
