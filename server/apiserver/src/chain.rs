//! One request's way through the server: authenticate, audit, impersonate, wait for a seat, authorize, dispatch.
//!
//! Every step is a function here; reading [`run`] top to bottom reads the order.

use crate::ApiServer;
use crate::audit::{self, Audit, Record, Stage};
use crate::authentication::impersonation::{self, ImpersonationError};
use crate::authentication::{Authenticator, UserInfo};
use crate::authorization::{Attributes, Decision};
use crate::flow;
use crate::http::options::Query;
use crate::http::{Body, RequestBody, RequestInfo, deadline, respond};
use crate::metrics::Ended;
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

/// What is learnt of a request on its way and needed when it is answered.
#[derive(Default)]
struct Trail {
    /// The flow schema and level it was matched to.
    matched: Option<flow::Matched>,
    /// Its audit event, where the policy wants one.
    record: Option<Arc<Record>>,
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
    let dry_run = query.get("dryRun").is_some();
    let apply = parts.method == http::Method::PATCH
        && headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/apply-patch"));
    let guard = server.metrics.begin(&verb, long);
    let mut trail = Trail::default();
    let limit =
        if long { Ok(None) } else { deadline::of(&query, &verb, server.config.request_timeout).map(Some) };
    let outcome = match limit {
        Err(e) => Ok(Err(e)),
        Ok(limit) => {
            let work = AssertUnwindSafe(async {
                let info = info?;
                run(&server, parts, body, query, info, &id, &mut trail, limit.map(|l| l.time), long).await
            })
            .catch_unwind();
            match limit {
                None => work.await,
                Some(limit) => match tokio::time::timeout(limit.time, work).await {
                    Ok(outcome) => outcome,
                    Err(_) => {
                        server.metrics.terminated(&verb, 504);
                        Ok(Err(limit.error()))
                    }
                },
            }
        }
    };
    let record = trail.record.as_deref();
    let mut panicked = false;
    let mut response = match outcome {
        Ok(Ok(response)) => {
            if let Some(record) = record {
                record.set_response(&response);
            }
            response
        }
        Ok(Err(e)) => {
            if let Some(record) = record {
                record.set_error(&e);
            }
            respond::error(&headers, &e)
        }
        Err(panic) => {
            panicked = true;
            server.metrics.panicked();
            tracing::error!(path = %verb.path, "a request panicked");
            if let Some(record) = record {
                let text = panic.downcast_ref::<&str>().map(|t| (*t).to_owned());
                record.set_panic(&text.or(panic.downcast_ref::<String>().cloned()).unwrap_or_default());
            }
            let e =
                ApiError::internal("This request caused apiserver to panic. Look in the logs for details.");
            respond::error(&headers, &e)
        }
    };
    if let Some(matched) = &trail.matched {
        matched.mark(response.headers_mut());
    }
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
    drop(guard);
    let code = response.status().as_u16();
    let bytes = http_body::Body::size_hint(response.body()).exact();
    let ended = Ended { info: &verb, dry_run, long, apply, code, took: started.elapsed(), bytes };
    if let Some(open) = server.metrics.end(ended) {
        response = response.map(|body| body.holding(open));
    }
    if let Some(record) = trail.record.take() {
        let last = if panicked { Stage::Panic } else { Stage::ResponseComplete };
        if long && !panicked {
            record.stage(Stage::ResponseStarted).await;
            return response.map(|body| body.holding(audit::Completion(record)));
        }
        record.stage(last).await;
    }
    response
}

async fn run(
    server: &ApiServer,
    parts: Parts,
    body: RequestBody,
    query: Query,
    info: RequestInfo,
    id: &str,
    trail: &mut Trail,
    time: Option<Duration>,
    long: bool,
) -> Result<Response<Body>, ApiError> {
    let user = match authenticate(server, &parts).await {
        Ok(user) => {
            server.metrics.authenticated(2);
            user
        }
        Err(error) => {
            if let Some(audit) = &server.config.audit {
                failed_authentication(audit, id, &info, &parts).await;
            }
            return Err(error);
        }
    };
    if let Some(audit) = &server.config.audit
        && let Some(record) = audit.begin(id, Some(&user), &info, &parts, chrono::Utc::now())
    {
        if !record.stage(Stage::RequestReceived).await {
            audit.reject();
            return Err(ApiError::internal("failed to store audit event"));
        }
        trail.record = Some(record);
    }
    let record = trail.record.clone();
    audit::scope(record, proceed(server, parts, body, query, info, user, trail, time, long)).await
}

/// What follows once it is known who asks.
async fn proceed(
    server: &ApiServer,
    parts: Parts,
    body: RequestBody,
    query: Query,
    info: RequestInfo,
    user: UserInfo,
    trail: &mut Trail,
    time: Option<Duration>,
    long: bool,
) -> Result<Response<Body>, ApiError> {
    let impersonated = impersonate(server, &user, &parts.headers, &info, &query).await?;
    if let (Some(record), Some(user)) = (&trail.record, &impersonated) {
        record.impersonated(user);
    }
    let acting = Arc::new(impersonated.unwrap_or(user));
    // Watches hold their seats until they have begun; what else lasts takes none.
    let _seat = if long && !info.is_watch() {
        None
    } else {
        match server.flow.enter(server, &acting, &info, &query, time, &mut trail.matched).await {
            Ok(seat) => seat,
            Err(refused) => {
                server.metrics.terminated(&info, 429);
                return Ok(refused.response());
            }
        }
    };
    authorize(server, &acting, &info, &query).await?;
    let call = Call { parts, body: Mutex::new(Some(body)), query, info, user: acting, warnings: Vec::new() };
    dispatch(server, call).await
}

/// A request with bad credentials, or with none where some are needed, has an event of its own.
async fn failed_authentication(audit: &Arc<Audit>, id: &str, info: &RequestInfo, parts: &Parts) {
    let Some(record) = audit.begin(id, None, info, parts, chrono::Utc::now()) else { return };
    let mut tried = Vec::new();
    let authorization = parts.headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    for (scheme, name) in [("basic ", "basic"), ("bearer ", "bearer")] {
        if authorization.is_some_and(|a| a.to_ascii_lowercase().starts_with(scheme)) {
            tried.push(name);
        }
    }
    if parts.extensions.get::<crate::authentication::PeerCertificates>().is_some() {
        tried.push("x509");
    }
    let message = if tried.is_empty() {
        "Authentication failed, no credentials provided".to_owned()
    } else {
        format!("Authentication failed, attempted: {}", tried.join(", "))
    };
    record.set_failure(401, message);
    record.stage(Stage::ResponseStarted).await;
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
        Ok(None) => {
            server.metrics.authenticated(1);
            Err(ApiError::unauthorized())
        }
        Err(error) => {
            server.metrics.authenticated(0);
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
    info: &RequestInfo,
    query: &Query,
) -> Result<Option<UserInfo>, ApiError> {
    let refuse = |error: ImpersonationError| match error {
        ImpersonationError::WithoutUser(_) => ApiError::bad_request(error.to_string()),
        ImpersonationError::Forbidden { attributes, reason } => refusal(&attributes, &reason),
    };
    match impersonation::requested(headers).map_err(refuse)? {
        None => Ok(None),
        Some(target) => {
            let request = attributes(user, info, query);
            impersonation::allow(&*server.config.authorizer, &request, target).await.map(Some).map_err(refuse)
        }
    }
}

async fn authorize(
    server: &ApiServer,
    user: &UserInfo,
    info: &RequestInfo,
    query: &Query,
) -> Result<(), ApiError> {
    let attributes = attributes(user, info, query);
    let decision = server.config.authorizer.authorize(&attributes).await;
    let (allowed, reason) = match decision {
        Decision::Allow { reason } => (true, reason),
        Decision::Deny { reason } | Decision::NoOpinion { reason } => (false, reason),
        Decision::Failed { error, .. } => {
            server.metrics.authorized(2);
            audit::annotate("authorization.k8s.io/reason", "internal error");
            tracing::warn!(error, path = attributes.path, "an authorizer cannot be asked");
            return Err(ApiError::internal(error));
        }
    };
    audit::annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
    audit::annotate("authorization.k8s.io/reason", reason.as_str());
    server.metrics.authorized(usize::from(!allowed));
    if allowed { Ok(()) } else { Err(refusal(&attributes, &reason)) }
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
