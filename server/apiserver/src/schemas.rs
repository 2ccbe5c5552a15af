//! The registry's words for machinery: decode, default, fill, apply, and track field owners, by resource.

use crate::convert;
use crate::http::Encoding;
use crate::http::options::FieldValidation;
use crate::registry::meta;
use crate::resolve::Resource;
use crate::status::ApiError;
use kinds::{self, Strategy};
use machinery::apply::{self, ApplyError};
use machinery::codec::{self, DecodeError, Strictness};
use machinery::field::{FieldErrors, Path};
use machinery::names;
use machinery::schema::{self, Schema, TypeId};
use serde_json::{Map, Value};
use std::ops::Deref;
use std::sync::Arc;

/// A schema: the built-in one, or a custom resource's own.
#[derive(Clone)]
pub enum SchemaRef {
    Builtin(&'static Schema),
    Custom(Arc<Schema>),
}

impl Deref for SchemaRef {
    type Target = Schema;
    fn deref(&self) -> &Schema {
        match self {
            Self::Builtin(schema) => schema,
            Self::Custom(schema) => schema,
        }
    }
}

/// The type of a built-in kind.
pub fn builtin(group: &str, version: &str, kind: &str) -> Option<(SchemaRef, TypeId)> {
    let table = schema::builtin();
    Some((SchemaRef::Builtin(&table.schema), table.kind(group, version, kind)?))
}

fn static_shape(group: &str, version: &str, kind: &str) -> Option<(&'static Schema, TypeId)> {
    let table = schema::builtin();
    Some((&table.schema, table.kind(group, version, kind)?))
}

pub fn status_shape() -> Option<(&'static Schema, TypeId)> {
    static_shape("", "v1", "Status")
}

pub fn meta_shape(kind: &str) -> Option<(&'static Schema, TypeId)> {
    static_shape("meta.k8s.io", "v1", kind)
}

pub fn kind_shape(group: &str, version: &str, kind: &str) -> Option<(&'static Schema, TypeId)> {
    static_shape(group, version, kind)
}

pub fn list_shape(resource: &Resource) -> Option<(&'static Schema, TypeId)> {
    if resource.custom.is_some() {
        return None;
    }
    static_shape(&resource.group, &resource.version, &resource.list_kind)
}

/// The strategy of a built-in kind.
/// The strategy of requests in `group` for a kind stored elsewhere: its own where it has one.
pub fn strategy_of(group: &str, storage: (&str, &str), kind: &str) -> Arc<dyn Strategy> {
    let group = if kinds::find(group, kind).is_some() { group } else { storage.0 };
    kinds::strategy(group, storage.1, kind)
}

pub fn strategy(group: &str, version: &str, kind: &str) -> Arc<dyn Strategy> {
    kinds::strategy(group, version, kind)
}

fn strictness(validation: FieldValidation) -> Strictness {
    match validation {
        FieldValidation::Ignore => Strictness::Ignore,
        FieldValidation::Warn => Strictness::Warn,
        FieldValidation::Strict => Strictness::Strict,
    }
}

/// What a body is to be read as.
pub struct Expected<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub shape: Option<(&'a Schema, TypeId)>,
}

impl<'a> Expected<'a> {
    pub fn of(resource: &'a Resource) -> Self {
        Self {
            group: &resource.group,
            version: &resource.version,
            kind: &resource.kind,
            shape: resource.shape(),
        }
    }

    pub fn builtin(group: &'a str, version: &'a str, kind: &'a str) -> Self {
        Self { group, version, kind, shape: kind_shape(group, version, kind) }
    }

    fn refuse(&self, kind: &str, version: &str, why: &str) -> ApiError {
        let kind = if kind.is_empty() { self.kind } else { kind };
        let version = version.rsplit('/').next().unwrap_or_default();
        let version = if version.is_empty() { self.version } else { version };
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {why}",
            self.kind
        ))
    }
}

/// The beginning of a body, for the message that refuses it: as text when it looks like JSON, else in hexadecimal.
fn summary(body: &[u8]) -> String {
    const LONGEST: usize = 30;
    let start = &body[..body.len().min(LONGEST)];
    let more = if body.len() > LONGEST { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => start.iter().map(|b| format!("{b:02x}")).collect::<String>() + more,
    }
}

/// Decodes a body as the kind expected, in that kind's own version. Unknown and duplicate fields are dropped,
/// warned of or refused.
pub fn decode(
    expected: &Expected<'_>,
    encoding: Encoding,
    bytes: &[u8],
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let unreadable = |why: String| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {why} \
             ({})",
            expected.kind,
            summary(bytes)
        ))
    };
    let Some((schema, root)) = expected.shape else {
        let value = match encoding {
            Encoding::Yaml => codec::yaml::decode(bytes).map_err(|e| unreadable(e.to_string()))?,
            _ => serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?,
        };
        return check_kind(expected, value);
    };
    let mode = strictness(validation);
    let decoded = match encoding {
        Encoding::Json => codec::decode(bytes, schema, root, mode),
        Encoding::Yaml => codec::yaml::decode_as(bytes, schema, root, mode),
        Encoding::Protobuf => {
            let value =
                codec::protobuf::decode(bytes, schema, root).map_err(|e| unreadable(e.to_string()))?;
            return check_kind(expected, value);
        }
    };
    let decoded = decoded.map_err(|e| match e {
        DecodeError::Syntax(why) => unreadable(why),
        DecodeError::Type(why) => {
            let (version, kind) = sniff(encoding, bytes);
            expected.refuse(&kind, &version, &why)
        }
    })?;
    let value = check_kind(expected, decoded.value)?;
    complain(expected, decoded.strict_errors, validation, warnings)?;
    Ok(value)
}

/// Decodes a body by a schema alone, whatever version it says it is.
pub fn decode_any(
    schema: &Schema,
    root: TypeId,
    encoding: Encoding,
    bytes: &[u8],
) -> Result<Value, ApiError> {
    let decoded: Result<Value, String> = match encoding {
        Encoding::Json => {
            codec::decode(bytes, schema, root, Strictness::Ignore).map(|d| d.value).map_err(|e| e.to_string())
        }
        Encoding::Yaml => codec::yaml::decode(bytes)
            .and_then(|v| codec::decode_value(v, schema, root, Strictness::Ignore))
            .map(|d| d.value)
            .map_err(|e| e.to_string()),
        Encoding::Protobuf => codec::protobuf::decode(bytes, schema, root).map_err(|e| e.to_string()),
    };
    decoded.map_err(|e| ApiError::bad_request(format!("couldn't decode the body: {e}")))
}

/// Checks a value that was computed (a patch's result) as [`decode`] checks a body. `old`: what it was computed from,
/// where that is known to be as decoding leaves it.
pub fn check(
    expected: &Expected<'_>,
    value: Value,
    old: Option<&Value>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let Some((schema, root)) = expected.shape else { return check_kind(expected, value) };
    let mode = strictness(validation);
    let decoded = match old {
        Some(old) => codec::decode_changed(value, old, schema, root, mode),
        None => codec::decode_value(value, schema, root, mode),
    };
    let decoded = decoded.map_err(|e| expected.refuse("", "", &e.to_string()).with_code(422, "Invalid"))?;
    let value = check_kind(expected, decoded.value)?;
    complain(expected, decoded.strict_errors, validation, warnings)?;
    Ok(value)
}

fn complain(
    expected: &Expected<'_>,
    errors: Vec<String>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => warnings.extend(errors),
        FieldValidation::Strict if errors.is_empty() => {}
        FieldValidation::Strict => {
            return Err(expected.refuse("", "", &format!("strict decoding error: {}", errors.join(", "))));
        }
    }
    Ok(())
}

/// Kind and version as far as a body that does not decode tells them.
fn sniff(encoding: Encoding, bytes: &[u8]) -> (String, String) {
    let value = match encoding {
        Encoding::Json => serde_json::from_slice(bytes).unwrap_or_default(),
        Encoding::Yaml => codec::yaml::decode(bytes).unwrap_or_default(),
        Encoding::Protobuf => Value::Null,
    };
    let get = |k: &str| value[k].as_str().unwrap_or_default().to_owned();
    (get("apiVersion"), get("kind"))
}

/// Fills absent `apiVersion` and `kind`, and refuses others than the expected ones.
fn check_kind(expected: &Expected<'_>, mut value: Value) -> Result<Value, ApiError> {
    let wanted = crate::resolve::join(expected.group, expected.version);
    if !value.is_object() {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: \
             json: cannot unmarshal into Go value of type struct",
            expected.kind
        )));
    }
    let version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    // Built-in kinds are told apart before their versions are.
    let own = builtin(expected.group, expected.version, expected.kind).is_some();
    if own && !(version.is_empty() && kind.is_empty()) {
        let (version, kind) = (
            if version.is_empty() { wanted.as_str() } else { version.as_str() },
            if kind.is_empty() { expected.kind } else { kind.as_str() },
        );
        let (group, short) = version.split_once('/').unwrap_or(("", version));
        if kind != expected.kind || builtin(group, short, kind).is_none() {
            return Err(expected.refuse(kind, version, &unrelated(kind, version, expected)));
        }
    }
    if version.is_empty() {
        value["apiVersion"] = wanted.clone().into();
    } else if version != wanted {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    if kind.is_empty() {
        value["kind"] = expected.kind.into();
    } else if kind != expected.kind {
        return Err(expected.refuse(
            &kind,
            &version,
            &format!("converting ({kind}) to ({}): unknown conversion", expected.kind),
        ));
    }
    if !value["metadata"].is_object() {
        value["metadata"] = Value::Object(Map::new());
    }
    Ok(value)
}

/// The storage version's type; defaults and field owners are told by it.
fn stored_shape(resource: &Resource) -> Option<(&Schema, TypeId)> {
    if resource.is_storage_version() {
        return resource.shape();
    }
    kind_shape(&resource.storage.0, &resource.storage.1, &resource.kind)
}

/// Static defaults of the schema.
pub fn default(resource: &Resource, object: &mut Value) {
    if let Some((schema, root)) = stored_shape(resource) {
        schema::defaults::apply(schema, root, object);
    }
}

/// Takes away what the kind does not know. Clients' objects are decoded without it; this is for those that were changed
/// afterwards.
pub fn prune(resource: &Resource, object: &mut Value) -> Result<(), ApiError> {
    let Some((schema, root)) = stored_shape(resource) else { return Ok(()) };
    let decoded = codec::decode_value(object.take(), schema, root, Strictness::Ignore);
    *object = decoded.map_err(|e| ApiError::internal(format!("admission left no valid object: {e}")))?.value;
    Ok(())
}

/// Static defaults of any kind.
pub fn default_shape((schema, root): (&Schema, TypeId), object: &mut Value) {
    schema::defaults::apply(schema, root, object);
}

/// Adds what upstream writes for fields that were never set.
pub fn fill(resource: &Resource, object: Value) -> Value {
    let Some((schema, root)) = resource.shape() else { return object };
    match codec::decode_value(object.clone(), schema, root, Strictness::Ignore) {
        Ok(decoded) => decoded.value,
        Err(_) => object,
    }
}

/// What only the schema can check: custom resources.
pub fn validate(
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
) -> FieldErrors {
    match &resource.custom {
        Some(custom) => custom.validate(object, old, warnings),
        None => FieldErrors::default(),
    }
}

/// Structures in errors, as upstream shows them.
pub fn show(resource: &Resource, errors: &mut FieldErrors) {
    if let (Some((schema, root)), None) = (stored_shape(resource), &resource.custom) {
        machinery::schema::shown::show(schema, root, errors);
    }
}

/// What storing will make of the object.
pub fn settle(resource: &Resource, object: &mut Value) {
    if let Some((schema, root)) =
        stored_shape(resource).filter(|_| resource.protobuf && resource.custom.is_none())
    {
        machinery::schema::settle::settle(schema, root, object);
    }
}

/// `metadata` on create. Built-in kinds check their own in their strategy, where names have kind-specific forms.
pub fn validate_metadata(resource: &Resource, object: &Value) -> FieldErrors {
    let mut errors = FieldErrors::default();
    if resource.custom.is_none() && resource.group != crate::crd::controller::GROUP {
        bare_finalizers(object, &mut errors);
    }
    if resource.custom.is_none() && kinds::validates_metadata(&resource.storage.0, &resource.kind) {
        return errors;
    }
    let path = Path::new("metadata");
    // RBAC's names hold colons.
    let rbac = resource.custom.is_none() && resource.group == "rbac.authorization.k8s.io";
    let name = if rbac { names::path_segment } else { names::name_is_subdomain };
    errors.0.extend(machinery::meta::validate(object, resource.namespaced, name, &path).0);
    errors
}

/// Upstream's own kinds take finalizers without a domain only of these names.
fn bare_finalizers(object: &Value, errors: &mut FieldErrors) {
    let list = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    for (at, name) in list.enumerate().filter_map(|(at, f)| Some((at, f.as_str()?))) {
        if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&Path::new("metadata").child("finalizers").index(at), name, why);
        }
    }
}

/// Why a body of another kind is refused: nobody knows it, or it is not what this path holds.
fn unrelated(kind: &str, version: &str, expected: &Expected<'_>) -> String {
    let (group, short) = version.split_once('/').unwrap_or(("", version));
    if builtin(group, short, kind).is_none() {
        return format!("no kind {kind:?} is registered for version {version:?} in scheme \"ironclad\"");
    }
    let group = expected.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
    format!("converting ({short}.{kind}) to ({group}.{}): unknown conversion", expected.kind)
}

pub fn validate_metadata_update(resource: &Resource, object: &Value, old: &Value) -> FieldErrors {
    if resource.custom.is_none() && kinds::validates_metadata(&resource.storage.0, &resource.kind) {
        return FieldErrors::default();
    }
    // The precondition was checked already; an absent version is no error here.
    let path = Path::new("metadata");
    let mut errors = machinery::meta::validate_update(object, old, &path);
    errors.0.retain(|e| e.path != "metadata.resourceVersion");
    errors
}

const STATUS: &[&[&str]] = &[&["status"]];
const SPEC_AND_STATUS: &[&[&str]] = &[&["spec"], &["status"]];
const ALL_BUT_STATUS: &[&[&str]] = &[&["spec"], &["metadata"]];

/// Runs `with` on the field-management context of a write; `None` for kinds without a schema.
fn context<T>(
    resource: &Resource,
    manager: &str,
    subresource: &str,
    force: bool,
    with: impl FnOnce(&apply::Context<'_>) -> T,
) -> Option<T> {
    let shaped = convert::is_reshaped(resource);
    let (schema, root) = if shaped { resource.shape()? } else { stored_shape(resource)? };
    let signing = resource.plural == "certificatesigningrequests" && resource.group == "certificates.k8s.io";
    let reset = match subresource {
        "" if signing => SPEC_AND_STATUS,
        "" if resource.subresource("status").is_some() => STATUS,
        "status" => ALL_BUT_STATUS,
        _ => &[],
    };
    let api_version = match resource.custom {
        Some(_) => resource.storage_api_version(),
        None => resource.api_version(),
    };
    let now = meta::now();
    let convert = |object: &Value, version: &str| {
        let object = convert::reshape(&resource.kind, object, &api_version, version)?;
        let (group, version) = machinery::meta::split_api_version(version);
        let (schema, root) = kind_shape(group, version, &resource.kind)?;
        Some((object, schema, root))
    };
    Some(with(&apply::Context {
        schema,
        root,
        manager,
        api_version: &api_version,
        subresource,
        now: &now,
        force,
        reset,
        builtin: resource.custom.is_none(),
        others: if shaped { Some(&convert) } else { None },
    }))
}

/// Records what a write that is no apply changed.
pub fn manage_update(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: &str,
) {
    if resource.is_storage_version() || !convert::is_reshaped(resource) {
        context(resource, manager, subresource, false, |ctx| apply::update(old, new, ctx));
        return;
    }
    // Owners are told in the words of the request's version.
    let old = old.map(|old| convert::from_storage(resource, old.clone()));
    let mut form = convert::from_storage(resource, new.clone());
    context(resource, manager, subresource, false, |ctx| apply::update(old.as_ref(), &mut form, ctx));
    let fields = machinery::meta::take(&mut form, "managedFields");
    meta::set(new, "managedFields", fields.unwrap_or_default());
}

/// Merges a server-side apply into the live object. Both in the storage version.
pub fn manage_apply(
    resource: &Resource,
    live: Option<&Value>,
    patch: Value,
    manager: &str,
    subresource: &str,
    force: bool,
    name: &str,
) -> Result<Value, ApiError> {
    let stored = resource.is_storage_version();
    let form = live.filter(|_| !stored).map(|live| convert::from_storage(resource, live.clone()));
    let live = if stored { live } else { form.as_ref() };
    let applied = context(resource, manager, subresource, force, |ctx| apply::apply(live, &patch, ctx))
        .ok_or_else(|| ApiError::internal("no schema to apply with"))?;
    applied
        .map_err(|e| match &e {
            ApplyError::Conflicts(conflicts) => {
                let mut out = ApiError::bad_request(e.to_string()).with_code(409, "Conflict");
                for conflict in conflicts {
                    out = out.with_cause(
                        "FieldManagerConflict",
                        format!("conflict with {}", conflict.manager),
                        &apply::show_path(&conflict.path),
                    );
                }
                out
            }
            ApplyError::BadRequest(why) => ApiError::bad_request(why.clone()),
            ApplyError::Invalid(why) => ApiError::bad_request(why.clone()).with_code(500, ""),
        })
        .inspect_err(|e| tracing::debug!(name, error = %e, "apply refused"))
        .and_then(|applied| {
            // What was applied was merged as it was sent; it is stored as decoding leaves it, like all else.
            let known = live.filter(|_| stored && resource.custom.is_none());
            check(&Expected::of(resource), applied, known, FieldValidation::Ignore, &mut Vec::new()).map_err(
                |e| match e.code {
                    _ if resource.custom.is_none() => unconvertible(resource, &patch, &e),
                    422 => e.with_code(500, "InternalError"),
                    _ => e,
                },
            )
        })
        .map(|applied| convert::to_storage(resource, applied))
}

/// What was applied fits the schema and yet cannot be read.
fn unconvertible(resource: &Resource, patch: &Value, error: &ApiError) -> ApiError {
    let Some((_, why)) =
        error.message.split_once(" cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "))
    else {
        return error.clone();
    };
    let kind = format!("{}/{}, Kind={}", resource.group, resource.version, resource.kind);
    let (namespace, name) = (machinery::meta::namespace(patch), machinery::meta::name(patch));
    let decoding = if why.starts_with("illegal base64") { "error decoding from json: " } else { "" };
    let message = format!(
        "failed to convert new object ({namespace}/{name}; {kind}) to proper version: unable to convert unstructured \
         object to {kind}: {decoding}{why}"
    );
    ApiError::bad_request(message).with_code(500, "")
}

/// `managedFields` that differ in nothing but their times.
pub fn managed_fields_equal_but_time(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return a == b };
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
            let keys = |m: &Map<String, Value>| m.keys().filter(|k| *k != "time").count();
            keys(a) == keys(b) && a.iter().filter(|(k, _)| *k != "time").all(|(k, v)| b.get(k) == Some(v))
        })
}
