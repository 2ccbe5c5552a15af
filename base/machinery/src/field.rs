//! Field paths and field errors, as upstream's `field.Path` and `field.ErrorList` word them.
//!
//! A [`Path`] lives on the stack and costs nothing until an error renders it, so validation can build one for
//! every field it looks at.

use serde_json::{Value, json};
use std::fmt;

/// Where a validation stands: a linked list of segments, each borrowing its parent.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Root,
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The object itself; renders as nothing.
    pub const fn root() -> Self {
        Path { parent: None, segment: Segment::Root }
    }

    /// A path that starts at the field `name` (dots are kept as they are).
    pub const fn new(name: &'a str) -> Self {
        Path { parent: None, segment: Segment::Child(name) }
    }

    /// The member `name` of this; `name` may hold dots to name a deeper member at once.
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Child(name) }
    }

    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// A map's key: `labels[app]`.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut segments = Vec::new();
        let mut at = Some(self);
        while let Some(path) = at {
            segments.push(path.segment);
            at = path.parent;
        }
        let mut first = true;
        for segment in segments.iter().rev() {
            match segment {
                Segment::Root => continue,
                Segment::Child("") => continue,
                Segment::Child(name) if first => f.write_str(name)?,
                Segment::Child(name) => write!(f, ".{name}")?,
                Segment::Index(i) => write!(f, "[{i}]")?,
                Segment::Key(k) => write!(f, "[{k}]")?,
            }
            first = false;
        }
        Ok(())
    }
}

/// The errors of one validation, in the order they were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(pub Vec<FieldError>);

#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: ErrorKind,
    /// As `spec.containers[0].name`.
    pub path: String,
    pub bad_value: Value,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TooFew,
    Internal,
    TypeInvalid,
    TooShort,
    /// Invalid, where the value is too large to be shown.
    InvalidUnshown,
}

impl ErrorKind {
    /// The words a message starts with.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid | Self::InvalidUnshown => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
            Self::TooShort => "Too short",
        }
    }

    /// `reason` of a `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid | Self::InvalidUnshown => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::TooShort => "FieldValueTooShort",
        }
    }
}

/// A Go-quoted string (`%q`), as every upstream message shows strings.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl FieldError {
    fn at(kind: ErrorKind, path: &Path<'_>, bad_value: Value, detail: String) -> Self {
        FieldError { kind, path: path.to_string(), bad_value, detail }
    }

    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::at(ErrorKind::Required, path, Value::Null, detail.into())
    }

    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::at(ErrorKind::Invalid, path, value.into(), detail.into())
    }

    pub fn type_invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::at(ErrorKind::TypeInvalid, path, value.into(), detail.into())
    }

    pub fn not_found(path: &Path<'_>, value: impl Into<Value>) -> Self {
        Self::at(ErrorKind::NotFound, path, value.into(), String::new())
    }

    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> Self {
        Self::at(ErrorKind::Duplicate, path, value.into(), String::new())
    }

    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::at(ErrorKind::Forbidden, path, Value::Null, detail.into())
    }

    /// `supported` in the order upstream lists it (its enum validations sort).
    pub fn not_supported(path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut detail = String::new();
        if !supported.is_empty() {
            detail.push_str("supported values: ");
            for (i, s) in supported.iter().enumerate() {
                if i > 0 {
                    detail.push_str(", ");
                }
                detail.push_str(&quote(s));
            }
        }
        Self::at(ErrorKind::NotSupported, path, value.into(), detail)
    }

    /// Longer than `max` bytes.
    pub fn too_long(path: &Path<'_>, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::at(ErrorKind::TooLong, path, Value::Null, format!("may not be more than {max} {unit}"))
    }

    pub fn too_many(path: &Path<'_>, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::at(ErrorKind::TooMany, path, json!(actual), format!("must have at most {max} {unit}"))
    }

    pub fn internal(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::at(ErrorKind::Internal, path, Value::Null, detail.into())
    }

    /// The message without its path: `Invalid value: "x": must be ...`.
    pub fn body(&self) -> String {
        let mut out = String::from(self.kind.words());
        match self.kind {
            ErrorKind::Required
            | ErrorKind::Forbidden
            | ErrorKind::TooLong
            | ErrorKind::TooShort
            | ErrorKind::InvalidUnshown
            | ErrorKind::Internal => {}
            _ => {
                out.push_str(": ");
                match &self.bad_value {
                    Value::String(s) => out.push_str(&quote(s)),
                    other => show(other, &mut out),
                }
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

/// Members that Go's structs have in another order than the alphabet's, in theirs; all others come after.
const IN_ORDER: &[&str] = &[
    "matchLabels",
    "matchExpressions",
    "Type",
    "LocalhostProfile",
    "RollingUpdate",
    "MaxUnavailable",
    "MaxSurge",
    "Group",
    "Resource",
    "Namespace",
    "Name",
    "Protocol",
    "AppProtocol",
    "Port",
    "TargetPort",
    "NodePort",
    "NodeID",
    "TopologyKeys",
    "Driver",
    "Pool",
    "Device",
    "ShareID",
    "Key",
    "Value",
    "Effect",
    "TimeAdded",
];

/// A value as messages show it: JSON, with members where upstream's structs have them.
fn show(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by_key(|(k, _)| IN_ORDER.iter().position(|o| o == k).unwrap_or(IN_ORDER.len()));
            out.push('{');
            for (i, (key, member)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                show(member, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                show(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Upstream renders an empty path as `<nil>`.
        let path = if self.path.is_empty() { "<nil>" } else { &self.path };
        write!(f, "{path}: {}", self.body())
    }
}

impl From<FieldError> for FieldErrors {
    fn from(error: FieldError) -> Self {
        FieldErrors(vec![error])
    }
}

impl FieldErrors {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub fn extend(&mut self, other: FieldErrors) {
        self.0.extend(other.0);
    }

    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldError::required(path, detail));
    }

    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(FieldError::invalid(path, value, detail));
    }

    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        self.push(FieldError::not_supported(path, value, supported));
    }

    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldError::forbidden(path, detail));
    }

    /// Forbidden, for what became of `old`; the registry shows how it differs from `new`, by a line more.
    pub fn forbidden_change(&mut self, path: &Path<'_>, detail: impl Into<String>, old: &Value, new: &Value) {
        let mut error = FieldError::forbidden(path, detail);
        error.bad_value = json!([old, new]);
        self.push(error);
    }

    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::duplicate(path, value));
    }

    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::not_found(path, value));
    }

    /// One `Invalid` for each message of a name check.
    pub fn invalid_each(&mut self, path: &Path<'_>, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, value, message);
        }
    }

    /// Upstream's aggregate: one message bare, several deduplicated as `[a, b]`, none as `None`.
    pub fn aggregate(&self) -> Option<String> {
        let mut seen: Vec<String> = Vec::with_capacity(self.0.len());
        for error in &self.0 {
            let message = error.to_string();
            if !seen.contains(&message) {
                seen.push(message);
            }
        }
        match seen.len() {
            0 => None,
            1 => seen.pop(),
            _ => Some(format!("[{}]", seen.join(", "))),
        }
    }

    /// `Status.details.causes`.
    pub fn causes(&self) -> Value {
        let cause = |e: &FieldError| json!({"reason": e.kind.reason(), "message": e.body(), "field": e.path});
        Value::Array(self.0.iter().map(cause).collect())
    }

    /// The message of the 422 answer: `Pod "x" is invalid: spec.containers: Required value`. `kind` carries its
    /// group: `Deployment.apps`.
    pub fn invalid_message(&self, group: &str, kind: &str, name: &str) -> String {
        let dot = if group.is_empty() { "" } else { "." };
        let head = format!("{kind}{dot}{group} {} is invalid", quote(name));
        match self.aggregate() {
            Some(rest) => format!("{head}: {rest}"),
            None => head,
        }
    }

    /// The whole `Status` of the 422 answer.
    pub fn to_status(&self, group: &str, kind: &str, name: &str) -> Value {
        let mut details = json!({"causes": self.causes()});
        for (member, text) in [("group", group), ("kind", kind), ("name", name)] {
            if !text.is_empty() {
                details[member] = Value::from(text);
            }
        }
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.invalid_message(group, kind, name),
            "reason": "Invalid", "details": details, "code": 422,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_upstreams() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        let mut errors = FieldErrors::new();
        errors.required(&first.child("name"), "");
        assert_eq!(
            errors.invalid_message("", "Pod", "x"),
            "Pod \"x\" is invalid: spec.containers[0].name: Required value"
        );
        errors.not_supported(&spec.child("restartPolicy"), "x", &["Always", "Never"]);
        errors.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        errors.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        errors.push(FieldError::too_long(&spec.child("a").key("b/c"), 10));
        errors.push(FieldError::too_many(&spec, 4, 1));
        assert_eq!(
            errors.aggregate().unwrap(),
            "[spec.containers[0].name: Required value, spec.restartPolicy: Unsupported value: \"x\": supported values: \
             \"Always\", \"Never\", spec.replicas: Invalid value: -1: must be greater than or equal to 0, spec.a[b/c]: Too \
             long: may not be more than 10 bytes, spec: Too many: 4: must have at most 1 item]"
        );
        let status = errors.to_status("apps", "Deployment", "d");
        assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueRequired");
        assert_eq!(status["details"]["causes"][1]["field"], "spec.restartPolicy");
        assert!(status["message"].as_str().unwrap().starts_with("Deployment.apps \"d\" is invalid: ["));
    }
}
