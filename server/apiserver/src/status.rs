//! The one place where an error becomes a `metav1.Status`, with upstream's codes, reasons, messages and details.

use http::StatusCode;
use machinery::field::FieldErrors;
use serde_json::{Map, Value, json};

/// Everything a request can fail with.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// A `Status` that somebody else made, sent as it is.
    pub made: Option<Box<Value>>,
    /// `Warning` headers of the answer.
    pub warnings: Vec<String>,
}

/// `metav1.StatusDetails`.
#[derive(Clone, Debug, Default)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource, or for validation errors the kind; upstream mixes the two in this field.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
    /// `metadata.continue` of the `Status`: where an expired list may go on.
    pub continue_token: String,
}

#[derive(Clone, Debug)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// `resource.group`, or the bare resource in the core group: how upstream prints a `GroupResource`.
pub fn group_resource(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, made: None, warnings: Vec::new() }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.group = group.to_owned();
        details.kind = kind.to_owned();
        details.name = name.to_owned();
        self
    }

    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        self.details.get_or_insert_default().causes.push(Cause {
            reason: reason.to_owned(),
            message: message.into(),
            field: field.to_owned(),
        });
        self
    }

    pub fn with_code(mut self, code: u16, reason: &'static str) -> Self {
        self.code = code;
        self.reason = reason;
        self
    }

    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", group_resource(group, resource)))
            .about(group, resource, name)
    }

    /// Outside every group version that is served: upstream's router answers before any API does, in plain text.
    pub fn page_not_found() -> Self {
        Self::new(404, Self::PLAIN, "404 page not found\n")
    }

    /// The reason of an error that is sent as its bare message.
    pub const PLAIN: &str = "";

    /// No such path below a group version that is served.
    pub fn no_such_path() -> Self {
        let mut e = Self::new(404, "NotFound", "the server could not find the requested resource");
        e.details = Some(Box::default());
        e
    }

    /// As [`Self::already_exists`], of one that is on its way out.
    pub fn being_deleted(group: &str, resource: &str, name: &str) -> Self {
        let mut e = Self::already_exists(group, resource, name);
        e.message = format!("object is being deleted: {}", e.message);
        e
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", group_resource(group, resource)),
        )
        .about(group, resource, name)
    }

    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", group_resource(group, resource)),
        )
        .about(group, resource, name)
    }

    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn invalid(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let mut e =
            Self::new(422, "Invalid", errors.invalid_message(group, kind, name)).about(group, kind, name);
        if let Some(details) = &mut e.details {
            details.causes = errors
                .0
                .iter()
                .map(|e| Cause {
                    reason: e.kind.reason().to_owned(),
                    message: e.body(),
                    field: e.path.clone(),
                })
                .collect();
        }
        e
    }

    /// Any other code and reason.
    pub fn generic(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, reason, message)
    }

    /// Names what the error is about.
    pub fn on(self, group: &str, kind: &str, name: &str) -> Self {
        self.about(group, kind, name)
    }

    /// With `details`, though there is nothing to say in them.
    pub fn with_details(mut self) -> Self {
        self.details.get_or_insert_default();
        self
    }

    /// Invalid query or body options (`ListOptions`, `CreateOptions`, ...).
    pub fn invalid_options(kind: &str, error: &str) -> Self {
        let (kind_only, group) = kind.split_once('.').unwrap_or((kind, ""));
        Self::new(422, "Invalid", format!("{kind} \"\" is invalid: {error}")).about(group, kind_only, "")
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let subject = group_resource(group, resource);
        let message = match (subject.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{subject} is forbidden: {why}"),
            (false, false) => format!("{subject} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    pub fn method_not_allowed(group: &str, resource: &str, action: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!("{action} is not supported on resources of kind {:?}", group_resource(group, resource)),
        )
        .about(group, resource, "")
    }

    /// The path exists but not for this HTTP method.
    pub fn method_unknown() -> Self {
        let mut e = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        e.details = Some(Box::default());
        e
    }

    /// The version asked for has left the watch window.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: {}", message.into()))
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        // Upstream's router answers this, with all that any of its writers can do.
        let streams = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
        let protobuf = accepted.iter().any(|a| a.contains("protobuf"));
        let streams =
            streams.into_iter().filter(|s| !accepted.contains(s) && (protobuf || s.contains("json")));
        let all: Vec<&str> = accepted.iter().copied().chain(streams).collect();
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", all.join(", "));
        Self::new(406, "NotAcceptable", message).with_details()
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut e = Self::new(429, "TooManyRequests", message);
        e.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        e
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        let text = message.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {text}")).with_cause("", text, "")
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after_seconds: u32) -> Self {
        let mut e = Self::new(
            500,
            "ServerTimeout",
            format!(
                "The {operation} operation against {} could not be completed at this time, please try again.",
                group_resource(group, resource)
            ),
        )
        .about(group, resource, operation);
        if let Some(d) = &mut e.details {
            d.retry_after_seconds = retry_after_seconds;
        }
        e
    }

    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut e = Self::new(504, "Timeout", format!("Timeout: {}", message.into()));
        e.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        e
    }

    /// The read asked for a version from the future; clients retry it.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let mut e =
            Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {current}"))
                .with_cause("ResourceVersionTooLarge", "Too large resource version", "");
        if let Some(d) = &mut e.details {
            d.retry_after_seconds = 1;
        }
        e
    }

    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// The `metav1.Status` object.
    pub fn to_status(&self) -> Value {
        if let Some(made) = &self.made {
            return (**made).clone();
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(d) = &self.details {
            let mut details = Map::new();
            put(&mut details, "name", &d.name);
            put(&mut details, "group", &d.group);
            put(&mut details, "kind", &d.kind);
            put(&mut details, "uid", &d.uid);
            if !d.causes.is_empty() {
                let causes = d.causes.iter().map(|c| {
                    let mut cause = Map::new();
                    put(&mut cause, "reason", &c.reason);
                    put(&mut cause, "message", &c.message);
                    put(&mut cause, "field", &c.field);
                    Value::Object(cause)
                });
                details.insert("causes".into(), causes.collect());
            }
            if d.retry_after_seconds > 0 {
                details.insert("retryAfterSeconds".into(), d.retry_after_seconds.into());
            }
            if !d.continue_token.is_empty() {
                status["metadata"]["continue"] = d.continue_token.as_str().into();
            }
            status["details"] = Value::Object(details);
        }
        status
    }
}

/// `Status` of a successful delete that has no object to return.
pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Value {
    let mut details = Map::new();
    put(&mut details, "name", name);
    put(&mut details, "group", group);
    put(&mut details, "kind", resource);
    put(&mut details, "uid", uid);
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    })
}

impl From<store::StoreError> for ApiError {
    fn from(error: store::StoreError) -> Self {
        match error {
            store::StoreError::TooLarge { size, limit } => {
                Self::too_large(format!("etcdserver: request is too large ({size} bytes, limit {limit})"))
            }
            store::StoreError::Compacted(_) => {
                Self::expired("The resourceVersion for the provided watch is too old.")
            }
            store::StoreError::Unavailable(why) => {
                Self::unavailable(format!("the store is unavailable: {why}"))
            }
            other => Self::internal(other),
        }
    }
}

fn put(map: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        map.insert(key.to_owned(), text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_upstreams() {
        let e = ApiError::not_found("apps", "deployments", "web");
        assert_eq!(e.message, "deployments.apps \"web\" not found");
        assert_eq!(e.to_status()["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
        let e = ApiError::modified("", "configmaps", "c");
        assert_eq!(
            e.message,
            "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your \
             changes to the latest version and try again"
        );
        let e = ApiError::forbidden("", "pods", "", "User \"x\" cannot list resource");
        assert_eq!(e.message, "pods is forbidden: User \"x\" cannot list resource");
    }
}
