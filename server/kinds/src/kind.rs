//! A kind as a row: its names and the few functions in which it differs from every other.

use super::Strategy;
use super::support::{exactly, is_set, same};
use crate::user::UserInfo;
use machinery::field::{FieldErrors, Path};
use machinery::meta;
use machinery::names::{self, NameCheck};
use serde_json::{Map, Value};

type Default = fn(&mut Value);
type Update = fn(&mut Value, &Value, &str);
type Validate = fn(&Value, &mut FieldErrors);
type ValidateUpdate = fn(&Value, &Value, &str, &mut FieldErrors);
type Select = fn(&Value) -> Vec<(&'static str, String)>;
type Grace = fn(&Value, Option<i64>) -> Option<i64>;
type Attribute = fn(&mut Value, &UserInfo);
type Warn = fn(&Value, Option<&Value>) -> Vec<String>;

const META: Path<'static> = Path::new("metadata");

/// One built-in kind, in its storage version.
pub struct Kind {
    pub group: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    name: NameCheck,
    /// Has a status the main resource may not write.
    status: bool,
    /// A status sent with a create is kept.
    keeps_status: bool,
    /// Numbers that a fresh status states though they are zero.
    counts: &'static [&'static str],
    /// Checks of metadata on updates, besides the registry's.
    meta: Metadata,
    /// Errors of the change come before those of the whole.
    changes_first: bool,
    /// What an update of the main resource is checked for, in order; none: as `meta` and `changes_first` say.
    checks: &'static [Check],
    /// Every member that is there tells generations apart, the empty ones too.
    exact: bool,
    /// Members whose change counts as a new generation; none: generations are not counted.
    generation: &'static [&'static str],
    default: Option<Default>,
    create: Option<Default>,
    update: Option<Update>,
    validate: Option<Validate>,
    validate_new: Option<Validate>,
    validate_update: Option<ValidateUpdate>,
    select: Option<Select>,
    grace: Option<Grace>,
    warn: Option<Warn>,
    attribute: Option<Attribute>,
}

impl Kind {
    const fn new(group: &'static str, kind: &'static str, namespaced: bool) -> Self {
        Kind {
            group,
            kind,
            namespaced,
            name: names::name_is_subdomain,
            status: false,
            keeps_status: false,
            counts: &[],
            meta: Metadata::Update,
            changes_first: false,
            checks: &[],
            exact: false,
            generation: &[],
            default: None,
            create: None,
            update: None,
            validate: None,
            validate_new: None,
            validate_update: None,
            select: None,
            grace: None,
            warn: None,
            attribute: None,
        }
    }

    pub const fn namespaced(group: &'static str, kind: &'static str) -> Self {
        Self::new(group, kind, true)
    }

    pub const fn cluster(group: &'static str, kind: &'static str) -> Self {
        Self::new(group, kind, false)
    }

    /// How its objects may be named, where that is not a DNS subdomain.
    pub const fn named(mut self, check: NameCheck) -> Self {
        self.name = check;
        self
    }

    /// Writes to the main resource leave `status`, writes to `/status` leave the rest.
    pub const fn status(mut self) -> Self {
        self.status = true;
        self
    }

    /// [`status`](Self::status), and what a create says of it stays.
    pub const fn created_with_status(mut self) -> Self {
        self.status = true;
        self.keeps_status = true;
        self
    }

    /// [`status`](Self::status), and a new one counts these from zero.
    pub const fn status_counting(mut self, counts: &'static [&'static str]) -> Self {
        self.status = true;
        self.counts = counts;
        self
    }

    /// On updates, what is wrong with the change is told before what is wrong with the object.
    pub const fn changes_first(mut self) -> Self {
        self.changes_first = true;
        self
    }

    /// What updates of the main resource are checked for, where that is not what [`metadata`](Self::metadata) and
    /// [`changes_first`](Self::changes_first) say. A step that stands twice repeats its causes, as upstream does.
    pub const fn checks(mut self, checks: &'static [Check]) -> Self {
        self.checks = checks;
        self
    }

    pub const fn metadata(mut self, meta: Metadata) -> Self {
        self.meta = meta;
        self
    }

    /// Counts generations by changes of `spec`.
    pub const fn generation(self) -> Self {
        self.generation_by(&["spec"])
    }

    pub const fn generation_by(mut self, members: &'static [&'static str]) -> Self {
        self.generation = members;
        self
    }

    /// What is empty is something else than what is not there, as behind Go's pointers: a change between the two is a
    /// new generation.
    pub const fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    pub const fn default(mut self, f: Default) -> Self {
        self.default = Some(f);
        self
    }

    pub const fn on_create(mut self, f: Default) -> Self {
        self.create = Some(f);
        self
    }

    /// Runs after status was split off and before the generation is counted.
    pub const fn on_update(mut self, f: Update) -> Self {
        self.update = Some(f);
        self
    }

    /// Checks of the whole object, on create and on updates of the main resource.
    pub const fn validate(mut self, f: Validate) -> Self {
        self.validate = Some(f);
        self
    }

    /// Checks of a new object, after those of any.
    pub const fn validate_new(mut self, f: Validate) -> Self {
        self.validate_new = Some(f);
        self
    }

    /// Checks of a change, besides [`validate`](Self::validate).
    pub const fn validate_update(mut self, f: ValidateUpdate) -> Self {
        self.validate_update = Some(f);
        self
    }

    pub const fn select(mut self, f: Select) -> Self {
        self.select = Some(f);
        self
    }

    pub const fn grace(mut self, f: Grace) -> Self {
        self.grace = Some(f);
        self
    }

    pub const fn attribute(mut self, f: Attribute) -> Self {
        self.attribute = Some(f);
        self
    }

    pub const fn warn(mut self, f: Warn) -> Self {
        self.warn = Some(f);
        self
    }
}

fn set_generation(object: &mut Value, generation: i64) {
    meta::set(object, "generation", generation);
}

/// Puts `old`'s member in place of `object`'s, absent if it was.
pub(super) fn carry(object: &mut Value, old: &Value, member: &str) {
    let Some(map) = object.as_object_mut() else { return };
    match old.get(member) {
        Some(value) => {
            map.insert(member.to_string(), value.clone());
        }
        None => {
            map.remove(member);
        }
    }
}

/// Everything but `status` is the old object's; of the metadata, what the registry owns is left to it.
fn keep_only_status(object: &mut Value, old: &Value) {
    let members: Vec<String> = object
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, _)| k.clone())
        .chain(old.as_object().into_iter().flatten().map(|(k, _)| k.clone()))
        .filter(|k| !matches!(k.as_str(), "status" | "metadata" | "apiVersion" | "kind"))
        .collect();
    for member in members {
        carry(object, old, &member);
    }
}

fn carry_generation(object: &mut Value, old: &Value) {
    match meta::generation(old) {
        0 => drop(meta::take(object, "generation")),
        generation => set_generation(object, generation),
    }
}

/// What a kind's own validation says of metadata.
#[derive(Clone, Copy)]
pub enum Metadata {
    /// On updates, that it changed rightly.
    Update,
    /// On updates, as of a new object and that it changed rightly.
    Both,
    /// On updates, as of a new object.
    Whole,
    /// As [`Update`](Self::Update), with finalizers of any name.
    Generic,
    /// On updates, nothing.
    Plain,
}

/// One step in the validation of an update.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The metadata, as of a new object.
    Meta,
    /// The change of the metadata.
    MetaChange,
    /// The object, as a new one.
    Whole,
    /// What [`Kind::validate_update`] says.
    Change,
}

impl Metadata {
    /// The steps of an update of the main resource.
    fn checks(self, changes_first: bool) -> &'static [Check] {
        use Check::{Change, Meta, MetaChange, Whole};
        match (self, changes_first) {
            (Self::Update | Self::Generic, false) => &[MetaChange, Whole, Change],
            (Self::Update | Self::Generic, true) => &[MetaChange, Change, Whole],
            (Self::Both, false) => &[MetaChange, Meta, Whole, Change],
            (Self::Both, true) => &[MetaChange, Change, Meta, Whole],
            (Self::Whole, false) => &[Meta, Whole, Change],
            (Self::Whole, true) => &[Change, Meta, Whole],
            (Self::Plain, false) => &[Whole, Change],
            (Self::Plain, true) => &[Change, Whole],
        }
    }
}

impl Kind {
    /// The steps of an update of metadata whose change was found to be wrong in this.
    fn check_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: &str,
        change: &FieldErrors,
        errors: &mut FieldErrors,
    ) {
        let checks = match subresource {
            "" | "scale" if !self.checks.is_empty() => self.checks,
            "" | "scale" => self.meta.checks(self.changes_first),
            _ if matches!(self.meta, Metadata::Plain) => &[Check::Change],
            _ => &[Check::MetaChange, Check::Change],
        };
        for check in checks {
            match check {
                Check::Meta => errors.extend(self.validate_meta(object)),
                Check::MetaChange => {
                    errors.extend(change.clone());
                    if !matches!(self.meta, Metadata::Generic) {
                        meta::validate_known_finalizers(object, &META, errors);
                    }
                }
                Check::Whole => {
                    let Some(f) = self.validate else { continue };
                    let mut more = FieldErrors::new();
                    f(object, &mut more);
                    // What was stored already may stay as it is.
                    if !more.is_empty() {
                        let mut before = FieldErrors::new();
                        f(old, &mut before);
                        more.0.retain(|e| !before.0.contains(e) && !change.0.contains(e));
                        errors.extend(more);
                    }
                }
                Check::Change => {
                    if let Some(f) = self.validate_update {
                        f(object, old, subresource, errors);
                    }
                }
            }
        }
    }

    fn validate_meta(&self, object: &Value) -> FieldErrors {
        let mut errors = meta::validate(object, self.namespaced, self.name, &META);
        if !matches!(self.meta, Metadata::Generic | Metadata::Plain) {
            meta::validate_known_finalizers(object, &META, &mut errors);
        }
        errors
    }
}

/// What is wrong with a change of metadata. The registry checked the version against the store's; an absent one means
/// "whatever is there".
fn meta_change(object: &Value, old: &Value) -> FieldErrors {
    let mut errors = meta::validate_update(object, old, &META);
    errors.0.retain(|e| e.path != "metadata.resourceVersion");
    errors
}

impl Strategy for &'static Kind {
    fn default(&self, object: &mut Value) {
        if let Some(f) = self.default {
            f(object);
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if self.status && !self.keeps_status && object.is_object() {
            object["status"] =
                self.counts.iter().map(|n| ((*n).to_owned(), Value::from(0))).collect::<Map<_, _>>().into();
        }
        if self.generation.is_empty() {
            meta::take(object, "generation");
        } else {
            set_generation(object, 1);
        }
        if let Some(f) = self.create {
            f(object);
        }
    }

    fn attribute(&self, object: &mut Value, user: &UserInfo) {
        if let Some(f) = self.attribute {
            f(object, user);
        }
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if self.status && subresource.is_empty() {
            carry(object, old, "status");
        }
        if self.status && subresource == "status" {
            keep_only_status(object, old);
        }
        if let Some(f) = self.update {
            f(object, old, subresource);
        }
        // Being bound to a node is no wish of the owner's, so no new generation.
        if self.generation.is_empty() || subresource == "binding" {
            carry_generation(object, old);
            return;
        }
        let same = |m: &&str| match self.exact {
            true => object.get(m) == old.get(m),
            false => exactly(object.get(m), old.get(m)),
        };
        let changed = !self.generation.iter().all(same);
        // Going into deletion is a new generation too.
        let deleted = is_set(object.get("metadata"), "deletionTimestamp")
            && !is_set(old.get("metadata"), "deletionTimestamp");
        if changed || deleted {
            set_generation(object, meta::generation(old) + 1);
        } else {
            carry_generation(object, old);
        }
    }

    fn validate(&self, object: &Value) -> FieldErrors {
        let mut errors = self.validate_meta(object);
        for f in [self.validate, self.validate_new].into_iter().flatten() {
            f(object, &mut errors);
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, subresource: &str) -> FieldErrors {
        // The registry's own checks come first, of the metadata as such and of its change.
        let change = meta_change(object, old);
        let mut errors = meta::validate(object, self.namespaced, names::path_segment, &META);
        errors.extend(change.clone());
        self.check_update(object, old, subresource, &change, &mut errors);
        errors
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        self.warn.map_or_else(Vec::new, |f| f(object, old))
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        self.select.map_or_else(Vec::new, |f| f(object))
    }

    fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        self.grace.and_then(|f| f(object, requested))
    }
}

/// Kinds without a row: nothing is known of them but the habit of `spec` and `status`.
pub(super) struct Unlisted;

impl Strategy for Unlisted {
    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        match subresource {
            "" if old.get("status").is_some() => carry(object, old, "status"),
            "status" => keep_only_status(object, old),
            _ => {}
        }
        if meta::generation(old) > 0 && !same(object.get("spec"), old.get("spec")) {
            set_generation(object, meta::generation(old) + 1);
        } else {
            carry_generation(object, old);
        }
    }
}
