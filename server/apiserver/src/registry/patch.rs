//! Patch: four languages, one loop.

use super::update::{Change, Wanted};
use super::{Target, meta};
use crate::convert;
use crate::http::options::FieldValidation;
use crate::schemas::{self, Expected};
use crate::status::ApiError;
use machinery::codec;
use machinery::field::{FieldErrors, Path};
use machinery::patch::{json_patch, merge_patch, strategic};
use machinery::schema::{Schema, TypeId};
use parking_lot::Mutex;
use serde_json::Value;

/// A patch as it was sent.
#[derive(Clone, Debug)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    /// The configuration to apply, as sent.
    Apply(Value),
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

impl Patch {
    /// Reads the body by its content type. Custom kinds take no strategic merge patch.
    pub fn read(content_type: &str, body: &[u8], strategic: bool) -> Result<Self, ApiError> {
        let json = || -> Result<Value, ApiError> {
            serde_json::from_slice(body).map_err(|e| {
                let why = codec::json::syntax_error(&e, body);
                ApiError::bad_request(format!("error decoding patch: {why}"))
            })
        };
        match content_type {
            JSON => Ok(Self::Json(json()?)),
            MERGE => Ok(Self::Merge(json()?)),
            STRATEGIC if strategic => Ok(Self::Strategic(json()?)),
            APPLY => codec::yaml::decode(body)
                .map(Self::Apply)
                .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}"))),
            _ => {
                // Upstream's router answers, before its handlers.
                Err(ApiError::unsupported_media_type("415: Unsupported Media Type").with_details())
            }
        }
    }

    pub fn is_apply(&self) -> bool {
        matches!(self, Self::Apply(_))
    }

    /// The client pinned the version it patches.
    pub fn names_version(&self) -> bool {
        match self {
            Self::Merge(v) | Self::Strategic(v) | Self::Apply(v) => {
                v["metadata"]["resourceVersion"].as_str().is_some_and(|s| !s.is_empty())
            }
            Self::Json(v) => v.as_array().into_iter().flatten().any(|op| {
                op["path"] == "/metadata/resourceVersion" && (op["op"] == "replace" || op["op"] == "add")
            }),
        }
    }

    /// Applies anything but an apply to an object of the given shape.
    pub fn apply(
        &self,
        object: Value,
        shape: Option<(&Schema, TypeId)>,
        kind: &str,
        group: &str,
        name: &str,
    ) -> Result<Value, ApiError> {
        match self {
            Self::Json(patch) => {
                let mut object = object;
                json_patch::apply(&mut object, patch).map_err(|e| match e {
                    json_patch::Error::Malformed(why) => {
                        ApiError::bad_request(format!("error decoding patch: {why}"))
                    }
                    json_patch::Error::TooManyOperations(_) => ApiError::too_large(e.to_string()),
                    // Upstream does not say which operation failed; the log does.
                    json_patch::Error::DoesNotApply(why) => {
                        tracing::debug!(group, kind, name, why, "JSON patch does not apply");
                        let message = "the server rejected our request due to an error in our request";
                        ApiError::generic(422, "Invalid", message).with_details()
                    }
                })?;
                Ok(object)
            }
            Self::Merge(patch) => {
                if !patch.is_object() {
                    return Err(ApiError::bad_request(
                        "error decoding patch: a merge patch must be an object",
                    ));
                }
                let mut object = object;
                merge_patch::apply(&mut object, patch);
                Ok(object)
            }
            Self::Strategic(patch) => {
                let (schema, root) =
                    shape.ok_or_else(|| ApiError::internal("no schema for a strategic merge patch"))?;
                strategic::apply(object, patch.clone(), schema, root).map_err(|e| {
                    let error = ApiError::bad_request(e.to_string());
                    // Upstream knows some of these for the client's fault; the others it passes on as its own.
                    match e {
                        strategic::Error::NoMergeKey(..) | strategic::Error::NoKeyDeclared(_) => {
                            error.with_code(500, "")
                        }
                        _ => error,
                    }
                })
            }
            Self::Apply(_) => Err(ApiError::internal("an apply is no plain patch")),
        }
    }
}

/// The change a patch makes to a stored object. Warnings are of the last attempt.
pub fn change<'a>(
    target: &'a Target<'a>,
    patch: &'a Patch,
    validation: FieldValidation,
    warnings: &'a Mutex<Vec<String>>,
) -> Change<'a> {
    let resource = target.resource;
    let pinned = patch.names_version();
    Box::new(move |old| {
        if let Patch::Apply(config) = patch {
            let config = prepare_apply(target, config.clone())?;
            check_version(target, &config, old)?;
            let mut object = schemas::manage_apply(
                resource,
                Some(old),
                config,
                &target.manager,
                target.subresource,
                target.options.force.unwrap_or(false),
                target.name,
            )?;
            meta::carry(&mut object, old, "resourceVersion");
            return Ok(Wanted { object, managed: true, pinned });
        }
        let before = || convert::from_storage(resource, old.clone());
        let apply =
            |before| patch.apply(before, resource.shape(), &resource.kind, &resource.group, target.name);
        let patched = apply(before())?;
        let given = &patched["metadata"]["name"];
        if meta::name(&patched).is_empty() && (given.is_null() || given.is_string()) {
            return Err(nameless(target.name));
        }
        let mut found = Vec::new();
        // Built-in kinds are stored as decoding left them.
        let known = (resource.custom.is_none() && resource.is_storage_version()).then_some(old);
        let checked = schemas::check(&Expected::of(resource), patched, known, validation, &mut found)
            .map_err(|e| unreadable(patch, apply(before()).unwrap_or_default(), &e))?;
        *warnings.lock() = found;
        Ok(Wanted { object: convert::to_storage(resource, checked), managed: false, pinned })
    })
}

/// A patch that took the name away.
fn nameless(name: &str) -> ApiError {
    let why = "was undeterminable: name must be provided";
    ApiError::bad_request(format!("the name of the object ({name} based on URL) {why}"))
}

/// A patch whose outcome is no object of its kind: upstream blames the patch, and shows what became of the object.
fn unreadable(patch: &Patch, patched: Value, error: &ApiError) -> ApiError {
    let undecodable = error.code == 422 && error.message.contains(" cannot be handled as a ");
    if error.code != 400 && !undecodable {
        return error.clone();
    }
    let why =
        error.message.split_once(" cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
    let why = why.map_or(error.message.as_str(), |(_, why)| why);
    let converted;
    let why = match patch {
        Patch::Strategic(_) => {
            converted = conversion(why);
            converted.as_str()
        }
        _ => why,
    };
    let shown = match patch {
        Patch::Strategic(patch) => go_map(patch),
        _ => patched.to_string(),
    };
    let mut errors = FieldErrors::default();
    errors.invalid(&Path::new("patch"), shown, why);
    ApiError::invalid("", "", "", &errors)
}

/// Outcomes of strategic merges are converted, not decoded: what does not fit is told otherwise.
fn conversion(why: &str) -> String {
    if why.starts_with("illegal base64") {
        return format!("error decoding from json: {why}");
    }
    let told = why.strip_prefix("json: cannot unmarshal ").and_then(|rest| {
        let (found, rest) = rest.split_once(" into ")?;
        let (_, wanted) = rest.rsplit_once(" of type ")?;
        if found == "string" && matches!(wanted, "int32" | "int64" | "bool" | "float64") {
            return Some(format!("unrecognized type: {wanted}"));
        }
        let found = match found {
            "number" => "int64",
            "string" => "string",
            "bool" => "bool",
            _ => return None,
        };
        let scalar = !wanted.starts_with(['[', '*', 'm']);
        scalar.then(|| format!("cannot convert {found} to {wanted}"))
    });
    told.unwrap_or_else(|| why.to_owned())
}

/// A value as Go prints a map: `map[a:1 b:[x y]]`.
fn go_map(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by(|a, b| a.0.cmp(b.0));
            let members = members.iter().map(|(k, v)| format!("{k}:{}", go_map(v)));
            format!("map[{}]", members.collect::<Vec<_>>().join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(go_map).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}

fn check_version(target: &Target<'_>, config: &Value, old: &Value) -> Result<(), ApiError> {
    let asked = meta::text(config, "resourceVersion");
    if !asked.is_empty() && asked != meta::text(old, "resourceVersion") {
        return Err(ApiError::modified(&target.resource.group, &target.resource.plural, target.name));
    }
    Ok(())
}

/// An applied configuration, checked but with nothing added: what it does not say it does not own. Fields that the kind
/// does not know are refused by the apply itself whatever `fieldValidation` says, and in its words, as upstream does.
pub fn prepare_apply(target: &Target<'_>, mut config: Value) -> Result<Value, ApiError> {
    let resource = target.resource;
    if !config.is_object() {
        return Err(ApiError::bad_request("error decoding YAML: the configuration must be an object"));
    }
    let (api_version, kind) = machinery::meta::type_meta(&config);
    if resource.custom.is_none() && (api_version != resource.api_version() || kind != resource.kind) {
        let slash = if api_version.contains('/') { "" } else { "/" };
        return Err(ApiError::bad_request(format!("invalid object type: {slash}{api_version}, Kind={kind}")));
    }
    // What built-in kinds cannot read is found when all is merged, after who owns what.
    if resource.custom.is_some() {
        let expected = Expected::of(resource);
        schemas::check(&expected, config.clone(), None, FieldValidation::Ignore, &mut Vec::new())
            .map_err(|e| if e.code == 422 { e.with_code(500, "InternalError") } else { e })?;
    }
    let name = meta::name(&config);
    if name.is_empty() {
        // It may leave the name out; it may not say that there is none. What is no text is refused as such, later.
        if config["metadata"].get("name").is_some_and(|n| n.is_null() || n.is_string()) {
            return Err(nameless(target.name));
        }
    } else if name != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    if !resource.namespaced || !meta::namespace(&config).is_empty() {
        super::create::place(resource.namespaced, target.namespace, &mut config)?;
    }
    Ok(config)
}
