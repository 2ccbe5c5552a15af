//! `serviceaccounts/token`.

use crate::ApiServer;
use crate::admission::{Operation, Request};
use crate::chain::Call;
use crate::encode;
use crate::http::options::WriteOptions;
use crate::http::{Body, negotiate};
use crate::schemas::{self, Expected};
use crate::status::ApiError;
use crate::tokens::RequestError;
use crate::verbs;
use http::Response;
use machinery::field::FieldErrors;

pub(super) async fn create(
    server: &ApiServer,
    call: &mut Call,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let tokens = server
        .config
        .tokens
        .clone()
        .ok_or_else(|| ApiError::unavailable("the server issues no service account tokens"))?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let encoding = negotiate::input(&call.parts.headers, true)?;
    let accept = negotiate::negotiate(&call.parts.headers, false, true)?;
    let bytes = verbs::read_body(call).await?;
    let expected = Expected::builtin("authentication.k8s.io", "v1", "TokenRequest");
    let mut request =
        schemas::decode(&expected, encoding, &bytes, options.field_validation, &mut call.warnings)?;
    crate::audit::request_object(&request);
    if let Some(shape) = expected.shape {
        schemas::default_shape(shape, &mut request);
    }
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = 3600.into();
    }
    // The account may have been made a moment ago.
    server.storage.cache().fresh(crate::storage::PATIENCE).await?;
    let asked = options.to_value("CreateOptions");
    let admission = Request {
        operation: Operation::Create,
        group: "",
        version: "v1",
        kind: "TokenRequest",
        resource: "serviceaccounts",
        subresource: "token",
        namespace,
        name,
        old: None,
        options: &asked,
        user: &call.user,
        dry_run: options.dry_run,
        versions: None,
        notes: Default::default(),
    };
    server.admit(&admission, &mut request).await?;
    server.admit_validating(&admission, Some(&request)).await?;
    let answer = tokens.create(namespace, name, &request).map_err(|e| match e {
        RequestError::Invalid(errors) => {
            ApiError::invalid("authentication.k8s.io", "TokenRequest", name, &FieldErrors(errors))
        }
        RequestError::BadRequest(why) => ApiError::bad_request(why),
        RequestError::NotFound { resource, name } => ApiError::not_found("", resource, &name),
        RequestError::Conflict { ref resource, ref name, ref message } => {
            ApiError::conflict("", resource, name, message)
        }
        RequestError::Internal(_) => ApiError::internal(e),
    })?;
    encode::other(accept, 201, &answer, expected.shape)
}
