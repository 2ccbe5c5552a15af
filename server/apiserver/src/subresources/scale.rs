//! `scale`: the replica count of a workload as an `autoscaling/v1` Scale. Where the count, the observed count and
//! the selector are is data: fixed paths for built-in kinds, the definition's for custom ones.

use crate::ApiServer;
use crate::chain::Call;
use crate::encode;
use crate::http::options::WriteOptions;
use crate::http::{Body, negotiate};
use crate::registry::patch::Patch;
use crate::registry::update::{Mode, Wanted};
use crate::registry::{Target, manager, meta};
use crate::resolve::Resource;
use crate::schemas::{self, Expected};
use crate::status::ApiError;
use crate::verbs;
use http::Response;
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::labels;
use serde_json::{Value, json};
use std::sync::Arc;

/// JSON pointers into the scaled object.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub spec: String,
    pub status: String,
    pub selector: Option<String>,
}

fn paths(resource: &Resource) -> Paths {
    if let Some(paths) = resource.custom.as_ref().and_then(|c| c.scale()) {
        return paths;
    }
    Paths {
        spec: "/spec/replicas".into(),
        status: "/status/replicas".into(),
        selector: Some("/spec/selector".into()),
    }
}

/// The object seen as a Scale.
fn view(resource: &Resource, paths: &Paths, object: &Value) -> Value {
    let m = &object["metadata"];
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !m[field].is_null() {
            metadata[field] = m[field].clone();
        }
    }
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = json!({});
    if number(&paths.spec) != 0 {
        spec["replicas"] = number(&paths.spec).into();
    }
    let mut out = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": spec,
        "status": {"replicas": number(&paths.status)},
    });
    let selector = paths.selector.as_ref().and_then(|p| object.pointer(p));
    let text = match selector {
        Some(Value::String(text)) => text.clone(),
        Some(map) if resource.plural == "replicationcontrollers" => {
            labels::Selector::from_map(map.as_object()).to_string()
        }
        Some(selector) => {
            labels::Selector::from_object(Some(selector)).map(|s| s.to_string()).unwrap_or_default()
        }
        None => String::new(),
    };
    if !text.is_empty() {
        out["status"]["selector"] = text.into();
    }
    out
}

pub(super) async fn handle(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let expected = Expected::builtin("autoscaling", "v1", "Scale");
    let accept = negotiate::negotiate(&call.parts.headers, false, true)?;
    let paths = paths(resource);
    if call.info.verb == "get" {
        let found = server.current(resource, namespace, name).await?;
        let found = found.ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, name))?;
        return encode::other(accept, 200, &view(resource, &paths, &found.value), expected.shape);
    }
    let kind = if call.info.verb == "patch" { "PatchOptions" } else { "UpdateOptions" };
    let options = WriteOptions::read(&call.query, kind)?;
    let bytes = verbs::read_body(call).await?;
    let mut warnings = std::mem::take(&mut call.warnings);
    let validation = options.field_validation;
    let wanted = if call.info.verb == "patch" {
        crate::audit::request_patch(&bytes);
        let patch = Patch::read(&negotiate::content_type(&call.parts.headers), &bytes, true)?;
        verbs::check_patch_options(&options, patch.is_apply())?;
        Err(patch)
    } else {
        let encoding = negotiate::input(&call.parts.headers, true)?;
        let scale = schemas::decode(&expected, encoding, &bytes, validation, &mut warnings)?;
        crate::audit::request_object(&scale);
        Ok(scale)
    };
    let target = Target {
        resource,
        subresource: "scale",
        namespace,
        name,
        user: &call.user,
        options: &options,
        manager: manager(&options.field_manager, crate::chain::user_agent(&call.parts.headers)),
    };
    let change = Box::new(|old: &Value| {
        let now = view(resource, &paths, old);
        let scale = match &wanted {
            Ok(scale) => scale.clone(),
            Err(Patch::Apply(config)) => {
                let mut merged = now;
                machinery::patch::merge_patch::apply(&mut merged, config);
                merged
            }
            Err(patch) => patch.apply(now, expected.shape, "Scale", "autoscaling", name)?,
        };
        let pinned = match &wanted {
            Ok(scale) => !meta::text(scale, "resourceVersion").is_empty(),
            Err(patch) => patch.names_version(),
        };
        let object = scaled(old, &paths, &scale, name)?;
        Ok(Wanted { object, managed: false, pinned })
    });
    let mode = Mode { as_main: true, ..Mode::default() };
    let stored = server.update(&target, change, mode, &mut warnings).await;
    call.warnings = warnings;
    encode::other(accept, 200, &view(resource, &paths, &stored?.value), expected.shape)
}

/// The object with the count the Scale asks for, under the Scale's preconditions.
fn scaled(old: &Value, paths: &Paths, scale: &Value, name: &str) -> Result<Value, ApiError> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    let given = meta::name(scale);
    if !given.is_empty() && given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    if replicas < 0 {
        let errors = FieldErrors(vec![FieldError::invalid(
            &Path::new("spec.replicas"),
            replicas,
            "must be greater than or equal to 0",
        )]);
        return Err(ApiError::invalid("autoscaling", "Scale", name, &errors));
    }
    let mut new = old.clone();
    set(&mut new, &paths.spec, replicas.into());
    let version = meta::text(scale, "resourceVersion");
    if !version.is_empty() {
        meta::set(&mut new, "resourceVersion", version);
    }
    let uid = meta::uid(scale);
    if !uid.is_empty() {
        meta::set(&mut new, "uid", uid);
    }
    Ok(new)
}

/// Sets the value at a pointer, making the objects on the way.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for part in pointer.trim_start_matches('/').split('/') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_changes_one_number() {
        let paths = Paths { spec: "/spec/size".into(), status: "/status/size".into(), selector: None };
        let old = json!({"metadata": {"name": "a", "resourceVersion": "3"}, "spec": {"other": 1}});
        let scale = json!({"metadata": {"name": "a"}, "spec": {"replicas": 4}});
        let new = scaled(&old, &paths, &scale, "a").unwrap();
        assert_eq!(new["spec"], json!({"other": 1, "size": 4}));
        let bad = json!({"spec": {"replicas": -1}});
        assert_eq!(scaled(&old, &paths, &bad, "a").unwrap_err().code, 422);
    }
}
