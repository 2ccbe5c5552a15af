//! Query options, with upstream's conversions and complaints.

use super::info::percent_decode;
use crate::status::ApiError;
use serde_json::Value;

/// Decoded query pairs, in order.
pub fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((percent_decode(&key.replace('+', " "))?, percent_decode(&value.replace('+', " "))?))
        })
        .collect()
}

/// Upstream's string to bool conversion: only `false` and `0` are false.
pub fn truthy(value: &str) -> bool {
    !(value.eq_ignore_ascii_case("false") || value == "0")
}

/// Access to the pairs of one request.
#[derive(Clone, Debug, Default)]
pub struct Query(pub Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Self {
        Self(query.map(pairs).unwrap_or_default())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Like [`get`](Self::get), an empty value counting as absent.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|v| !v.is_empty())
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(truthy)
    }

    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(truthy)
    }

    pub fn integer(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.text(key) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

/// How precisely a read must match the version it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    Unset,
    Exact,
    NotOlderThan,
}

/// `ListOptions`, for list, watch and deletecollection.
#[derive(Clone, Debug)]
pub struct ListOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// As sent; empty and "0" mean different things.
    pub resource_version: Option<u64>,
    pub resource_version_match: VersionMatch,
    pub limit: i64,
    pub continue_token: Option<String>,
    pub timeout_seconds: Option<i64>,
    pub allow_bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    pub fn read(query: &Query, watch: bool) -> Result<Self, ApiError> {
        let resource_version = match query.text("resourceVersion") {
            None => None,
            Some(text) if watch => Some(resource_version(text)?),
            Some(text) => Some(
                resource_version(text)
                    .map_err(|e| ApiError::bad_request(format!("invalid resource version: {}", e.message)))?,
            ),
        };
        let options = Self {
            label_selector: query.text("labelSelector").map(str::to_owned),
            field_selector: query.text("fieldSelector").map(str::to_owned),
            resource_version,
            resource_version_match: match query.text("resourceVersionMatch") {
                None => VersionMatch::Unset,
                Some("Exact") => VersionMatch::Exact,
                Some("NotOlderThan") => VersionMatch::NotOlderThan,
                Some(other) => {
                    return Err(invalid(format!(
                        "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \
                         \"NotOlderThan\", \"\""
                    )));
                }
            },
            limit: query.integer("limit")?.unwrap_or(0),
            continue_token: query.text("continue").map(str::to_owned),
            timeout_seconds: query.integer("timeoutSeconds")?,
            allow_bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
        };
        options.check(watch)?;
        Ok(options)
    }

    /// Upstream's `ValidateListOptions`.
    fn check(&self, watch: bool) -> Result<(), ApiError> {
        let with = self.resource_version_match;
        if watch {
            if self.send_initial_events.is_some() && with != VersionMatch::NotOlderThan {
                return Err(invalid(
                    "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to \
                     NotOlderThan",
                ));
            }
            if with != VersionMatch::Unset && self.send_initial_events.is_none() {
                return Err(invalid(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless \
                     sendInitialEvents is provided",
                ));
            }
            return Ok(());
        }
        if self.send_initial_events.is_some() {
            return Err(invalid("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"));
        }
        match with {
            VersionMatch::Unset => {}
            _ if self.resource_version.is_none() => {
                return Err(invalid(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is \
                     provided",
                ));
            }
            _ if self.continue_token.is_some() => {
                return Err(invalid(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            VersionMatch::Exact if self.resource_version == Some(0) => {
                return Err(invalid(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for \
                     resourceVersion \"0\"",
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    let message = message.into();
    ApiError::invalid_options("ListOptions.meta.k8s.io", &message)
}

/// A resource version in a request.
pub fn resource_version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        // Upstream's storage refuses it with a bare error, which has no code of its own.
        let why = format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        );
        ApiError::generic(500, "", why)
    })
}

/// What to do with unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// `CreateOptions`, `UpdateOptions` and `PatchOptions` in one.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    pub force: Option<bool>,
}

impl WriteOptions {
    pub fn read(query: &Query, kind: &str) -> Result<Self, ApiError> {
        let mut dry_run = false;
        for value in query.all("dryRun") {
            match value {
                "All" => dry_run = true,
                "" => {}
                other => {
                    return Err(ApiError::invalid_options(
                        &format!("{kind}.meta.k8s.io"),
                        &format!("dryRun: Unsupported value: [{other:?}]: supported values: \"All\""),
                    ));
                }
            }
        }
        let field_validation = match query.text("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                return Err(ApiError::invalid_options(
                    &format!("{kind}.meta.k8s.io"),
                    &format!(
                        "fieldValidation: Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \
                         \"Strict\", \"Warn\""
                    ),
                ));
            }
        };
        let field_manager = query.text("fieldManager").unwrap_or_default().to_owned();
        if field_manager.len() > 128 {
            return Err(ApiError::invalid_options(
                &format!("{kind}.meta.k8s.io"),
                "fieldManager: Too long: may not be more than 128 bytes",
            ));
        }
        Ok(Self { dry_run, field_manager, field_validation, force: query.optional_flag("force") })
    }

    /// As admission plugins and webhooks see them.
    pub fn to_value(&self, kind: &str) -> Value {
        let mut v = serde_json::json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            v["dryRun"] = serde_json::json!(["All"]);
        }
        if !self.field_manager.is_empty() {
            v["fieldManager"] = self.field_manager.as_str().into();
        }
        v
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub ignore_store_read_error: bool,
    /// The request names a collection and no object.
    pub of_collection: bool,
    /// As sent, for admission.
    pub value: Value,
}

impl DeleteOptions {
    pub fn read(body: Option<&Value>, query: &Query) -> Result<Self, ApiError> {
        let refuse = |text: String| ApiError::invalid_options("DeleteOptions.meta.k8s.io", &text);
        let mut value = match body {
            Some(v) => v.clone(),
            None => {
                let mut v = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
                if let Some(grace) = query.integer("gracePeriodSeconds")? {
                    v["gracePeriodSeconds"] = grace.into();
                }
                if let Some(policy) = query.text("propagationPolicy") {
                    v["propagationPolicy"] = policy.into();
                }
                if let Some(orphan) = query.optional_flag("orphanDependents") {
                    v["orphanDependents"] = orphan.into();
                }
                v
            }
        };
        if value.get("dryRun").is_none() {
            let sent: Vec<&str> = query.all("dryRun").filter(|v| !v.is_empty()).collect();
            if !sent.is_empty() {
                value["dryRun"] = sent.into();
            }
        }
        let mut out = Self::default();
        for item in value["dryRun"].as_array().into_iter().flatten() {
            if item != "All" {
                return Err(refuse(format!("dryRun: Unsupported value: {item}: supported values: \"All\"")));
            }
            out.dry_run = true;
        }
        out.grace_period_seconds = value["gracePeriodSeconds"].as_i64();
        let orphan = value["orphanDependents"].as_bool();
        let policy = value["propagationPolicy"].as_str();
        if orphan.is_some() && policy.is_some() {
            return Err(refuse(
                "propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set".into(),
            ));
        }
        out.propagation = match policy {
            None => orphan.map(|o| if o { Propagation::Orphan } else { Propagation::Background }),
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                return Err(refuse(format!(
                    "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \
                     \"Foreground\", \"Orphan\", \"nil\""
                )));
            }
        };
        out.uid = value["preconditions"]["uid"].as_str().map(str::to_owned);
        out.resource_version = value["preconditions"]["resourceVersion"].as_str().map(str::to_owned);
        out.ignore_store_read_error =
            value["ignoreStoreReadErrorWithClusterBreakingPotential"].as_bool().unwrap_or(false);
        out.value = value;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_flags() {
        let q = Query::parse(Some("limit=x&watch=true&a=%2Fb+c&dryRun=All"));
        assert!(q.flag("watch"));
        assert_eq!(q.get("a"), Some("/b c"));
        let e = ListOptions::read(&q, false).unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (400, "strconv.ParseInt: parsing \"x\": invalid syntax"));
        assert!(WriteOptions::read(&q, "CreateOptions").unwrap().dry_run);
    }

    #[test]
    fn initial_events_need_a_match() {
        let q = Query::parse(Some("watch=1&sendInitialEvents=true"));
        assert_eq!(ListOptions::read(&q, true).unwrap_err().code, 422);
        let q = Query::parse(Some("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"));
        assert!(ListOptions::read(&q, true).is_ok());
    }
}
