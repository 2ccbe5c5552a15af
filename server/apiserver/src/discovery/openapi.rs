//! /openapi/v2 and /openapi/v3.

use crate::ApiServer;
use crate::http::Body;
use crate::resolve::Index;
use crate::status::ApiError;
use http::{HeaderMap, Response};

pub(super) fn answer(
    _server: &ApiServer,
    _index: &Index,
    _headers: &HeaderMap,
    _rest: &[&str],
) -> Result<Response<Body>, ApiError> {
    Err(ApiError::no_such_path())
}
