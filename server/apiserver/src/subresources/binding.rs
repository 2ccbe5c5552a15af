//! `pods/binding` and `bindings`: the scheduler's decision.

use crate::ApiServer;
use crate::chain::Call;
use crate::encode;
use crate::http::options::WriteOptions;
use crate::http::{Body, negotiate};
use crate::registry::update::{Mode, Wanted};
use crate::registry::{Target, manager, meta};
use crate::schemas::{self, Expected};
use crate::status::ApiError;
use crate::verbs;
use http::Response;
use machinery::field::{FieldError, FieldErrors, Path};
use serde_json::{Value, json};

/// `name` is empty for the `bindings` collection, whose body names the pod.
pub(crate) async fn create(
    server: &ApiServer,
    call: &mut Call,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let encoding = negotiate::input(&call.parts.headers, true)?;
    let accept = negotiate::negotiate(&call.parts.headers, false, true)?;
    let bytes = verbs::read_body(call).await?;
    let expected = Expected::builtin("", "v1", "Binding");
    let binding = schemas::decode(&expected, encoding, &bytes, options.field_validation, &mut call.warnings)?;
    crate::audit::request_object(&binding);
    let given = meta::name(&binding);
    if !name.is_empty() && !given.is_empty() && given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let pod = if name.is_empty() { given.to_owned() } else { name.to_owned() };
    let target = &binding["target"];
    let mut errors = FieldErrors::default();
    let kind = target["kind"].as_str().unwrap_or_default();
    if !kind.is_empty() && kind != "Node" {
        errors.0.push(FieldError::not_supported(&Path::new("target.kind"), kind, &["Node", "<empty>"]));
    }
    let node = target["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        errors.0.push(FieldError::required(&Path::new("target.name"), ""));
    }
    if !errors.0.is_empty() {
        return Err(ApiError::invalid("", "Binding", &pod, &errors));
    }
    let index = server.index.load();
    let pods = index.find("", "v1", "pods").cloned().ok_or_else(ApiError::no_such_path)?;
    drop(index);
    let at = Target {
        resource: &pods,
        subresource: "binding",
        namespace,
        name: &pod,
        user: &call.user,
        options: &options,
        manager: manager(&options.field_manager, crate::chain::user_agent(&call.parts.headers)),
    };
    let change = Box::new(|old: &Value| bind(old, &binding, &pod, &node).map(Wanted::plain));
    let mode = Mode { connect_as_create: true, trusted: true, as_main: false };
    let mut warnings = Vec::new();
    server.update(&at, change, mode, &mut warnings).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    encode::other(accept, 201, &status, schemas::status_shape())
}

/// Upstream's `setPodHostAndAnnotations`, with its refusals.
fn bind(old: &Value, binding: &Value, pod: &str, node: &str) -> Result<Value, ApiError> {
    let conflict = |why: String| ApiError::conflict("", "pods/binding", pod, &why);
    let uid = meta::uid(binding);
    if !uid.is_empty() && uid != meta::uid(old) {
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(old)
        )));
    }
    if meta::deleting(old) {
        return Err(conflict(format!("pod {pod} is being deleted, cannot be assigned to a host")));
    }
    let assigned = old["spec"]["nodeName"].as_str().unwrap_or_default();
    if !assigned.is_empty() {
        return Err(conflict(format!("pod {pod} is already assigned to node {assigned:?}")));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return Err(conflict(format!("pod {pod} has non-empty .spec.schedulingGates")));
    }
    let mut new = old.clone();
    new["spec"]["nodeName"] = node.into();
    if let Some(annotations) = binding["metadata"]["annotations"].as_object().filter(|a| !a.is_empty()) {
        if !new["metadata"]["annotations"].is_object() {
            new["metadata"]["annotations"] = json!({});
        }
        if let Some(all) = new["metadata"]["annotations"].as_object_mut() {
            all.extend(annotations.clone());
        }
    }
    scheduled(&mut new);
    Ok(new)
}

/// The PodScheduled condition turns true.
fn scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": meta::now(),
        "observedGeneration": pod["metadata"]["generation"],
    });
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let Some(all) = pod["status"]["conditions"].as_array_mut() else { return };
    match all.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(c) if c["status"] == "True" => {}
        Some(c) => *c = condition,
        None => all.push(condition),
    }
}
