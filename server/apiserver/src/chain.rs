//! One request's way through the server: authenticate, audit, impersonate, authorize, dispatch.
//!
//! Every step is a function here; reading [`run`] top to bottom reads the order.

use crate::ApiServer;
use crate::authentication::impersonation::{self, ImpersonationError};
use crate::authentication::{Authenticator, UserInfo};
use crate::authorization::{Attributes, Decision};
use crate::http::options::Query;
use crate::http::{Body, RequestBody, RequestInfo, respond};
use crate::status::ApiError;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a request that is neither a watch nor a tunnel may take (upstream's `--request-timeout`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// One authenticated, authorized request.
pub struct Call {
    pub parts: Parts,
    /// Taken by whoever reads it.
    pub body: Mutex<Option<RequestBody>>,
    pub query: Query,
    pub info: RequestInfo,
    pub user: Arc<UserInfo>,
    /// `Warning` headers of the response.
    pub warnings: Vec<String>,
}

/// What the audit hook is told once a request has been answered.
pub struct AuditRecord<'a> {
    pub id: &'a str,
    pub user: &'a UserInfo,
    pub impersonated: Option<&'a UserInfo>,
    pub info: &'a RequestInfo,
    pub code: u16,
    pub duration: Duration,
    pub user_agent: &'a str,
}

/// Receives every finished request; must not block.
pub trait AuditSink: Send + Sync + 'static {
    fn record(&self, record: &AuditRecord<'_>);
}

/// Answers one request. Never fails: errors and panics become a `Status`.
pub(crate) async fn handle(server: ApiServer, request: Request<RequestBody>) -> Response<Body> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    let headers = parts.headers.clone();
    let id = audit_id(&headers);
    let head = parts.method == http::Method::HEAD;
    let info = RequestInfo::read(&parts.method, parts.uri.path(), &query.0);
    let (verb, long) = match &info {
        Ok(info) => (info.clone(), is_long_running(info, &query)),
        Err(_) => (RequestInfo::default(), false),
    };
    let guard = server.metrics.begin(&verb, long);
    let work = AssertUnwindSafe(async {
        let info = info?;
        run(&server, parts, body, query, info, &id, started, long).await
    })
    .catch_unwind();
    let outcome = if long {
        work.await
    } else {
        match tokio::time::timeout(REQUEST_TIMEOUT, work).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(Err(ApiError::timeout("request did not complete within the allotted timeout", 0))),
        }
    };
    let mut response = match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => respond::error(&headers, &e),
        Err(_) => {
            server.metrics.panicked();
            tracing::error!(path = %verb.path, "a request panicked");
            let e =
                ApiError::internal("This request caused apiserver to panic. Look in the logs for details.");
            respond::error(&headers, &e)
        }
    };
    if response.status() == http::StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"kubernetes-master\""));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static("audit-id"), value);
    }
    if !long {
        respond::compress(&headers, &mut response);
    }
    if head {
        *response.body_mut() = Body::empty();
    }
    guard.end(&server.metrics, &verb, response.status().as_u16(), started.elapsed());
    response
}

async fn run(
    server: &ApiServer,
    parts: Parts,
    body: RequestBody,
    query: Query,
    info: RequestInfo,
    id: &str,
    started: Instant,
    long: bool,
) -> Result<Response<Body>, ApiError> {
    let user = authenticate(server, &parts).await?;
    let impersonated = impersonate(server, &user, &parts.headers).await?;
    let acting = Arc::new(impersonated.clone().unwrap_or_else(|| user.clone()));
    authorize(server, &acting, &info, &query).await?;
    // Flow control: reads and writes that end soon share a bounded number of seats, in arrival order.
    let _seat = if long { None } else { server.seats.acquire().await.ok() };
    let audit = server.config.audit.clone();
    let agent = audit.as_ref().map(|_| user_agent(&parts.headers).to_owned());
    let kept = audit.as_ref().map(|_| info.clone());
    let call = Call { parts, body: Mutex::new(Some(body)), query, info, user: acting, warnings: Vec::new() };
    let answer = dispatch(server, call).await;
    if let (Some(audit), Some(info)) = (audit, kept) {
        let code = match &answer {
            Ok(r) => r.status().as_u16(),
            Err(e) => e.code,
        };
        audit.record(&AuditRecord {
            id,
            user: &user,
            impersonated: impersonated.as_ref(),
            info: &info,
            code,
            duration: started.elapsed(),
            user_agent: agent.as_deref().unwrap_or_default(),
        });
    }
    answer
}

fn dispatch(server: &ApiServer, call: Call) -> BoxFuture<'_, Result<Response<Body>, ApiError>> {
    if call.info.resource_request {
        Box::pin(crate::verbs::handle(server, call))
    } else {
        Box::pin(crate::discovery::handle(server, call))
    }
}

/// Watches, logs, tunnels and proxies: they may last, and take no seat.
fn is_long_running(info: &RequestInfo, query: &Query) -> bool {
    match info.subresource.as_str() {
        "exec" | "attach" | "portforward" | "proxy" => true,
        "log" => query.flag("follow"),
        _ => info.is_watch(),
    }
}

/// The in-process identity, the credentials, or anonymous; otherwise 401.
async fn authenticate(server: &ApiServer, parts: &Parts) -> Result<UserInfo, ApiError> {
    match server.authentication.authenticate(parts).await {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(ApiError::unauthorized()),
        Err(error) => {
            tracing::debug!(%error, "unable to authenticate the request");
            Err(ApiError::unauthorized())
        }
    }
}

/// `Impersonate-*` headers: who the request acts as, if the caller may.
async fn impersonate(
    server: &ApiServer,
    user: &UserInfo,
    headers: &HeaderMap,
) -> Result<Option<UserInfo>, ApiError> {
    let refuse = |error: ImpersonationError| match error {
        ImpersonationError::WithoutUser(_) => ApiError::internal(error),
        ImpersonationError::Forbidden { attributes, reason } => refusal(&attributes, &reason),
    };
    match impersonation::requested(headers).map_err(refuse)? {
        None => Ok(None),
        Some(target) => {
            impersonation::allow(&*server.config.authorizer, user, target).await.map(Some).map_err(refuse)
        }
    }
}

async fn authorize(
    server: &ApiServer,
    user: &UserInfo,
    info: &RequestInfo,
    query: &Query,
) -> Result<(), ApiError> {
    decide(server, &attributes(user, info, query)).await
}

pub(crate) fn attributes(user: &UserInfo, info: &RequestInfo, query: &Query) -> Attributes {
    let mut attributes = Attributes {
        user: user.clone(),
        verb: info.verb.to_owned(),
        namespace: info.namespace.clone(),
        api_group: info.group.clone(),
        api_version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        name: info.name.clone(),
        resource_request: info.resource_request,
        path: info.path.clone(),
        ..Attributes::default()
    };
    if info.resource_request && matches!(info.verb, "list" | "watch" | "deletecollection") {
        attributes.field_selector = query.text("fieldSelector").map(str::to_owned);
        attributes.label_selector = query.text("labelSelector").map(str::to_owned);
        // A selector that pins the name makes it a request for that name.
        if attributes.name.is_empty()
            && let Some(selector) = &attributes.field_selector
        {
            let name = selector.split(',').find_map(|term| {
                term.trim().strip_prefix("metadata.name=").map(|n| n.trim_start_matches('=').to_owned())
            });
            attributes.name = name.unwrap_or_default();
        }
    }
    attributes
}

/// Asks the authorizer; anything but a clear yes is 403 in upstream's words.
pub(crate) async fn decide(server: &ApiServer, attributes: &Attributes) -> Result<(), ApiError> {
    let reason = match server.config.authorizer.authorize(attributes).await {
        Decision::Allow { .. } => return Ok(()),
        Decision::Deny { reason } | Decision::NoOpinion { reason } => reason,
        Decision::Failed { error, .. } => {
            tracing::warn!(error, path = attributes.path, "an authorizer cannot be asked");
            return Err(ApiError::internal(error));
        }
    };
    Err(refusal(attributes, &reason))
}

/// 403 in upstream's words.
fn refusal(attributes: &Attributes, reason: &str) -> ApiError {
    let a = attributes;
    let mut why = if !a.resource_request {
        format!("User {:?} cannot {} path {:?}", a.user.name, a.verb, a.path)
    } else {
        let resource = if a.subresource.is_empty() {
            a.resource.clone()
        } else {
            format!("{}/{}", a.resource, a.subresource)
        };
        let place = if a.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", a.namespace)
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
            a.user.name, a.verb, a.api_group
        )
    };
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    ApiError::forbidden(&a.api_group, &a.resource, &a.name, &why)
}

pub(crate) fn user_agent(headers: &HeaderMap) -> &str {
    headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn audit_id(headers: &HeaderMap) -> String {
    match headers.get("audit-id").and_then(|v| v.to_str().ok()) {
        Some(id) if !id.is_empty() && id.len() <= 64 => id.to_owned(),
        _ => uuid::Uuid::new_v4().to_string(),
    }
}
