//! Kinds that are asked, not stored: reviews, and `componentstatuses`.

use crate::ApiServer;
use crate::authentication::review::{self as authentication, token_review};
use crate::authorization::review::{self as authorization, Kind, ReviewError};
use crate::chain::Call;
use crate::encode;
use crate::http::options::FieldValidation;
use crate::http::{Body, negotiate};
use crate::registry::meta;
use crate::resolve::Resource;
use crate::schemas::{self, Expected};
use crate::status::ApiError;
use crate::verbs;
use http::Response;
use machinery::field::FieldErrors;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn handle(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
) -> Result<Response<Body>, ApiError> {
    if resource.kind == "ComponentStatus" {
        return component_statuses(server, call, resource).await;
    }
    let accept = verbs::accept(call, resource, false)?;
    if resource.kind == "Binding" {
        return crate::subresources::binding::create(server, call, namespace, "").await;
    }
    let encoding = negotiate::input(&call.parts.headers, resource.protobuf)?;
    let bytes = verbs::read_body(call).await?;
    let mut warnings = Vec::new();
    let expected = Expected::of(resource);
    let object = schemas::decode(&expected, encoding, &bytes, FieldValidation::Warn, &mut warnings)?;
    call.warnings.extend(warnings);
    crate::audit::request_object(&object);
    let authorizer = &*server.config.authorizer;
    let refuse = |e: ReviewError| match e {
        ReviewError::Invalid(errors) => {
            ApiError::invalid(&resource.group, &resource.kind, meta::name(&object), &FieldErrors(errors))
        }
        ReviewError::BadRequest(why) => ApiError::bad_request(why),
    };
    let kind = match resource.kind.as_str() {
        "SubjectAccessReview" => Some(Kind::Subject),
        "LocalSubjectAccessReview" => Some(Kind::LocalSubject),
        "SelfSubjectAccessReview" => Some(Kind::SelfSubject),
        _ => None,
    };
    if let Some(kind) = kind {
        let asked = authorization::access_review(authorizer, kind, &call.user, namespace, &object).await;
        return encode::other(accept, 201, &asked.map_err(refuse)?, resource.shape());
    }
    let answer: Value = match resource.kind.as_str() {
        "SelfSubjectRulesReview" => {
            authorization::rules_review(authorizer, &call.user, &object).await.map_err(refuse)?
        }
        "SelfSubjectReview" => authentication::self_subject_review(&call.user, &object),
        "TokenReview" => {
            let tokens = server
                .config
                .bearer
                .as_ref()
                .ok_or_else(|| ApiError::unavailable("token review is not configured"))?;
            token_review(tokens, &object).await.map_err(ApiError::bad_request)?
        }
        _ => return Err(ApiError::method_unknown()),
    };
    encode::other(accept, 201, &answer, resource.shape())
}

/// Upstream's deprecated health list: the store alone, since this server cannot ask the other parts.
async fn component_statuses(
    server: &ApiServer,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let store = server.storage.store().health().await;
    let status = |name: &str, error: Option<String>| {
        let condition = match &error {
            None => json!({"type": "Healthy", "status": "True", "message": "ok"}),
            Some(error) => json!({"type": "Healthy", "status": "False", "error": error}),
        };
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
    };
    let all = vec![status("etcd-0", store.err().map(|e| e.to_string()))];
    let accept = verbs::accept(call, resource, true)?;
    let include = crate::table::IncludeObject::read(call.query.text("includeObject"))?;
    if call.info.name.is_empty() {
        return encode::values(resource, accept, include, all);
    }
    let found = all.into_iter().find(|s| meta::name(s) == call.info.name);
    let found = found.ok_or_else(|| ApiError::not_found("", &resource.plural, &call.info.name))?;
    let json = serde_json::to_vec(&found).map_err(ApiError::internal)?.into();
    encode::object(resource, accept, include, 200, &json)
}
