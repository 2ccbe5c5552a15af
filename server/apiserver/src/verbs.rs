//! Resource requests: find the resource, decode, call the registry, encode.

use crate::ApiServer;
use crate::chain::{Call, user_agent};
use crate::encode;
use crate::http::body;
use crate::http::options::{DeleteOptions, FieldValidation, ListOptions, VersionMatch, WriteOptions};
use crate::http::{Body, Negotiated, negotiate, respond};
use crate::registry::delete::Deleted;
use crate::registry::patch::{self, Patch};
use crate::registry::update::{Mode, Wanted, create_on_update};
use crate::registry::{Stored, Target, manager, meta};
use crate::resolve::Resource;
use crate::schemas::{self, Expected};
use crate::status::ApiError;
use crate::table::IncludeObject;
use crate::{aggregation, audit, convert, crd, subresources, virtuals};
use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;

/// Answers a request for a resource; the caller is already authorized.
pub(crate) async fn handle(server: &ApiServer, mut call: Call) -> Result<Response<Body>, ApiError> {
    let info = &call.info;
    let index = server.index.load();
    if call.parts.method == http::Method::HEAD {
        return Err(ApiError::method_unknown());
    }
    let Some(resource) = index.find(&info.group, &info.version, &info.resource).cloned() else {
        if let Some(extension) = index.extension(&info.group, &info.version).cloned() {
            return aggregation::proxy::forward(server, &mut call, &extension).await;
        }
        // A group's path is the group's, whatever version is asked for; only strangers get the router's answer.
        let served = index.group(&info.group).is_some();
        return Err(if served { ApiError::no_such_path() } else { ApiError::page_not_found() });
    };
    drop(index);
    let namespaced = resource.namespaced;
    if namespaced && info.namespace.is_empty() && !matches!(info.verb, "list" | "watch") {
        // The path of a list over all namespaces is there, for lists.
        let path = info.name.is_empty() && info.subresource.is_empty();
        return Err(if path { ApiError::method_unknown() } else { ApiError::no_such_path() });
    }
    if !namespaced && !info.namespace.is_empty() && resource.plural != "namespaces" {
        return Err(ApiError::no_such_path());
    }
    if let Some(warning) = resource.custom.as_ref().and_then(|c| c.warning.clone()) {
        call.warnings.push(warning);
    }
    call.warnings.extend(crate::deprecations::warning(&resource));
    let info = &call.info;
    // A namespace is addressed within itself but lives in no namespace.
    let namespace = if namespaced { info.namespace.clone() } else { String::new() };
    let response = if !info.subresource.is_empty() {
        if resource.subresource(&info.subresource).is_none() {
            return Err(ApiError::no_such_path());
        }
        subresources::handle(server, &mut call, &resource, &namespace).await
    } else if !resource.verbs.contains(&info.verb) {
        Err(ApiError::method_unknown())
    } else if resource.ephemeral {
        virtuals::handle(server, &mut call, &resource, &namespace).await
    } else {
        main(server, &mut call, &resource, &namespace).await
    };
    match response {
        Ok(mut response) => {
            if !call.warnings.is_empty() {
                respond::warn(&mut response, &call.warnings);
            }
            Ok(response)
        }
        Err(mut error) => {
            call.warnings.append(&mut error.warnings);
            error.warnings = call.warnings;
            Err(error)
        }
    }
}

async fn main(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
) -> Result<Response<Body>, ApiError> {
    let name = call.info.name.clone();
    match call.info.verb {
        "get" => get(server, call, resource, namespace, &name).await,
        "list" => list(server, call, resource, namespace).await,
        "watch" => watch(server, call, resource, namespace, &name).await,
        "create" => create(server, call, resource, namespace).await,
        "update" => update(server, call, resource, namespace, &name, "", Mode::default()).await,
        "patch" => apply_patch(server, call, resource, namespace, &name, "").await,
        "delete" => delete(server, call, resource, namespace, &name).await,
        "deletecollection" => delete_collection(server, call, resource, namespace).await,
        _ => Err(ApiError::method_unknown()),
    }
}

pub(crate) fn accept(call: &Call, resource: &Resource, transforms: bool) -> Result<Negotiated, ApiError> {
    let mut accept = negotiate::negotiate(&call.parts.headers, transforms, resource.protobuf)?;
    accept.pretty = match call.query.get("pretty") {
        Some(value) => crate::http::options::truthy(value) && !value.is_empty(),
        None => {
            let agent = user_agent(&call.parts.headers);
            agent.starts_with("curl") || agent.starts_with("Wget") || agent.starts_with("Mozilla/5.0")
        }
    };
    Ok(accept)
}

fn include(call: &Call) -> Result<IncludeObject, ApiError> {
    IncludeObject::read(call.query.text("includeObject"))
}

pub(crate) async fn read_body(call: &mut Call) -> Result<Bytes, ApiError> {
    let body = call.body.get_mut().take();
    match body {
        Some(body) => body::read(body).await,
        None => Ok(Bytes::new()),
    }
}

pub(crate) fn target<'a>(
    call: &'a Call,
    resource: &'a Arc<Resource>,
    namespace: &'a str,
    name: &'a str,
    subresource: &'a str,
    options: &'a WriteOptions,
) -> Target<'a> {
    Target {
        resource,
        subresource,
        namespace,
        name,
        user: &call.user,
        options,
        manager: manager(&options.field_manager, user_agent(&call.parts.headers)),
    }
}

pub(crate) fn stored_reply(
    call: &Call,
    resource: &Resource,
    code: u16,
    stored: &Stored,
) -> Result<Response<Body>, ApiError> {
    encode::object(resource, accept(call, resource, true)?, include(call)?, code, &stored.json)
}

pub(crate) async fn get(
    server: &ApiServer,
    call: &Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let accept = accept(call, resource, true)?;
    let entry = match call.query.text("resourceVersion") {
        None => server.storage.get(resource, namespace, name).await?,
        Some(text) => {
            let revision = crate::http::options::resource_version(text)?;
            if revision > 0 {
                server.storage.cache().wait_for(revision, crate::storage::PATIENCE).await?;
            }
            resource.cache.get(namespace, name)
        }
    };
    let entry = entry.ok_or_else(|| ApiError::not_found(&resource.group, &resource.plural, name))?;
    crd::prepare(server, resource, [&entry]).await?;
    encode::entry(resource, accept, include(call)?, &entry)
}

async fn list(
    server: &ApiServer,
    call: &Call,
    resource: &Arc<Resource>,
    namespace: &str,
) -> Result<Response<Body>, ApiError> {
    let accept = accept(call, resource, true)?;
    let include = include(call)?;
    let options = ListOptions::read(&call.query, false)?;
    let page = server.list(resource, namespace, &options).await?;
    crd::prepare(server, resource, &page.items).await?;
    encode::list(resource, accept, include, &page)
}

async fn watch(
    server: &ApiServer,
    call: &Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let accept = accept(call, resource, true)?;
    let options = ListOptions::read(&call.query, true)?;
    server.watch(resource, namespace, name, &options, accept, include(call)?).await
}

async fn create(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
) -> Result<Response<Body>, ApiError> {
    if !call.info.name.is_empty() {
        return Err(ApiError::method_unknown());
    }
    accept(call, resource, true)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let object = decode(call, resource, options.field_validation).await?;
    let mut warnings = std::mem::take(&mut call.warnings);
    let stored = {
        let target = target(call, resource, namespace, "", "", &options);
        server.create(&target, object, false, &mut warnings).await
    };
    call.warnings = warnings;
    stored_reply(call, resource, 201, &stored?)
}

/// The body as an object of this resource, in the storage version.
async fn decode(
    call: &mut Call,
    resource: &Arc<Resource>,
    validation: FieldValidation,
) -> Result<Value, ApiError> {
    let encoding = negotiate::input(&call.parts.headers, resource.protobuf)?;
    let bytes = read_body(call).await?;
    let value = schemas::decode(&Expected::of(resource), encoding, &bytes, validation, &mut call.warnings)?;
    audit::request_object(&value);
    Ok(convert::to_storage(resource, value))
}

pub(crate) async fn update(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
    subresource: &str,
    mode: Mode,
) -> Result<Response<Body>, ApiError> {
    if name.is_empty() {
        return Err(ApiError::method_unknown());
    }
    accept(call, resource, true)?;
    let options = WriteOptions::read(&call.query, "UpdateOptions")?;
    let object = decode(call, resource, options.field_validation).await?;
    if meta::name(&object).is_empty() {
        let why = "was undeterminable: name must be provided";
        return Err(ApiError::bad_request(format!("the name of the object ({name} based on URL) {why}")));
    }
    let pinned = !matches!(meta::text(&object, "resourceVersion"), "" | "0");
    let mut warnings = std::mem::take(&mut call.warnings);
    let result = {
        let target = target(call, resource, namespace, name, subresource, &options);
        let may_create = subresource.is_empty() && !pinned && create_on_update(resource);
        if may_create && server.storage.get(resource, namespace, name).await?.is_none() {
            server.create(&target, object, false, &mut warnings).await.map(|s| (s, 201))
        } else {
            let change =
                Box::new(move |_: &Value| Ok(Wanted { object: object.clone(), managed: false, pinned }));
            server.update(&target, change, mode, &mut warnings).await.map(|s| (s, 200))
        }
    };
    call.warnings = warnings;
    let (stored, code) = result?;
    stored_reply(call, resource, code, &stored)
}

pub(crate) async fn apply_patch(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> Result<Response<Body>, ApiError> {
    if name.is_empty() {
        return Err(ApiError::method_unknown());
    }
    accept(call, resource, true)?;
    let options = WriteOptions::read(&call.query, "PatchOptions")?;
    let content_type = negotiate::content_type(&call.parts.headers);
    let bytes = read_body(call).await?;
    audit::request_patch(&bytes);
    let patch = Patch::read(&content_type, &bytes, resource.custom.is_none())?;
    check_patch_options(&options, patch.is_apply())?;
    if patch.is_apply()
        && options.field_validation != FieldValidation::Ignore
        && let Some(twice) = machinery::codec::yaml::duplicate_key(&bytes)
    {
        if options.field_validation == FieldValidation::Strict {
            return Err(ApiError::bad_request(format!("error strict decoding YAML: {twice}")));
        }
        call.warnings.push(twice);
    }
    let found = Mutex::new(Vec::new());
    let mut warnings = std::mem::take(&mut call.warnings);
    let validation = options.field_validation;
    let result = {
        let target = target(call, resource, namespace, name, subresource, &options);
        let mut outcome = server
            .update(
                &target,
                patch::change(&target, &patch, validation, &found),
                Mode::default(),
                &mut warnings,
            )
            .await
            .map(|s| (s, 200));
        // An apply to nothing creates it.
        if let (Patch::Apply(config), Err(e)) = (&patch, &outcome)
            && e.is_not_found()
            && subresource.is_empty()
        {
            let config = patch::prepare_apply(&target, config.clone())?;
            if !meta::uid(&config).is_empty() || !meta::text(&config, "resourceVersion").is_empty() {
                let (uid, version) = (meta::uid(&config), meta::text(&config, "resourceVersion"));
                let (what, said) = if uid.is_empty() { ("resourceVersion", version) } else { ("uid", uid) };
                let why = format!(
                    "{what} mismatch: the provided object specified {what} {said}, and no existing object was found"
                );
                return Err(ApiError::conflict(&resource.group, &resource.plural, name, &why));
            }
            let force = options.force.unwrap_or(false);
            let mut object = schemas::manage_apply(resource, None, config, &target.manager, "", force, name)?;
            meta::set(&mut object, "name", name);
            outcome = match server.create(&target, object, true, &mut warnings).await {
                Err(e) if e.reason == "AlreadyExists" => server
                    .update(
                        &target,
                        patch::change(&target, &patch, validation, &found),
                        Mode::default(),
                        &mut warnings,
                    )
                    .await
                    .map(|s| (s, 200)),
                other => other.map(|s| (s, 201)),
            };
        }
        outcome
    };
    warnings.extend(found.into_inner());
    call.warnings = warnings;
    let (stored, code) = result?;
    stored_reply(call, resource, code, &stored)
}

/// Upstream's `ValidatePatchOptions`.
pub(crate) fn check_patch_options(options: &WriteOptions, apply: bool) -> Result<(), ApiError> {
    let refuse = |text: &str| Err(ApiError::invalid_options("PatchOptions.meta.k8s.io", text));
    if apply && options.field_manager.is_empty() {
        return refuse("fieldManager: Required value: is required for apply patch");
    }
    if !apply && options.force.is_some() {
        return refuse("force: Forbidden: may not be specified for non-apply patch");
    }
    Ok(())
}

pub(crate) async fn delete_options(call: &mut Call, protobuf: bool) -> Result<DeleteOptions, ApiError> {
    let bytes = read_body(call).await?;
    if bytes.is_empty() {
        return DeleteOptions::read(None, &call.query);
    }
    let encoding = negotiate::input(&call.parts.headers, protobuf)?;

    // Clients write it under the version they speak to, or under `v1`.
    let mut value = {
        let (schema, root) = schemas::meta_shape("DeleteOptions")
            .ok_or_else(|| ApiError::internal("DeleteOptions are not in the schema"))?;
        crate::schemas::decode_any(schema, root, encoding, &bytes)?
    };
    if value["kind"].as_str().is_some_and(|k| !k.is_empty() && k != "DeleteOptions") {
        return Err(ApiError::bad_request(format!(
            "decoded object cannot be converted to DeleteOptions: kind {}",
            value["kind"]
        )));
    }
    audit::request_object(&value);
    value["kind"] = "DeleteOptions".into();
    DeleteOptions::read(Some(&value), &call.query)
}

fn delete_reply(call: &Call, resource: &Resource, deleted: Deleted) -> Result<Response<Body>, ApiError> {
    let accept = accept(call, resource, true)?;
    if deleted.is_object {
        let json = serde_json::to_vec(&deleted.value).map_err(ApiError::internal)?.into();
        encode::object(resource, accept, include(call)?, deleted.code, &json)
    } else {
        encode::other(accept, deleted.code, &deleted.value, schemas::status_shape())
    }
}

async fn delete(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    accept(call, resource, true)?;
    let options = delete_options(call, true).await?;
    let write = WriteOptions::read(&call.query, "DeleteOptions")?;
    let target = target(call, resource, namespace, name, "", &write);
    let mut deleted = server.delete(&target, &options).await?;
    drop(target);
    call.warnings.append(&mut deleted.warnings);
    delete_reply(call, resource, deleted)
}

async fn delete_collection(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
) -> Result<Response<Body>, ApiError> {
    let accept = accept(call, resource, true)?;
    let mut list = ListOptions::read(&call.query, false)?;
    if list.resource_version_match == VersionMatch::Unset {
        list.resource_version = None;
    }
    let mut options = delete_options(call, true).await?;
    options.of_collection = true;
    let write = WriteOptions::read(&call.query, "DeleteOptions")?;
    let mut warnings = Vec::new();
    let page = server.list(resource, namespace, &list).await?;
    for entry in &page.items {
        let target = target(call, resource, &entry.namespace, &entry.name, "", &write);
        match server.delete(&target, &options).await {
            Ok(deleted) => warnings.extend(deleted.warnings),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    call.warnings.append(&mut warnings);
    crd::prepare(server, resource, &page.items).await?;
    encode::list(resource, accept, include(call)?, &page)
}
