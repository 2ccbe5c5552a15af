//! The server as a `tower::Service`: one for sockets, one per identity for clients in this process.

use super::body::{Body, BoxError, RequestBody, request_body};
use crate::ApiServer;
use crate::authentication::{InProcessIdentity, UserInfo};
use bytes::Bytes;
use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// What the socket listener calls. Identity comes from the request's credentials alone.
#[derive(Clone)]
pub struct ApiService {
    server: ApiServer,
}

/// What a component's client calls: the same chain, with the identity given by the code that built it.
#[derive(Clone)]
pub struct InProcessService {
    server: ApiServer,
    identity: InProcessIdentity,
    agent: Option<HeaderValue>,
}

impl ApiService {
    pub(crate) fn new(server: ApiServer) -> Self {
        Self { server }
    }

    pub fn handle(
        &self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        crate::chain::handle(self.server.clone(), request)
    }
}

impl InProcessService {
    pub(crate) fn new(server: ApiServer, user: UserInfo) -> Self {
        Self { server, identity: InProcessIdentity(user), agent: None }
    }

    /// The `User-Agent` of requests that bring none; its first word names the manager of fields they set.
    pub fn with_agent(mut self, agent: &str) -> Self {
        self.agent = HeaderValue::from_str(agent).ok();
        self
    }
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let mut request = request.map(request_body);
        // Only the in-process service may speak for someone.
        request.extensions_mut().remove::<InProcessIdentity>();
        let answer = self.handle(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

impl<B> tower::Service<Request<B>> for InProcessService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        let mut request = request.map(request_body);
        request.extensions_mut().insert(self.identity.clone());
        if let Some(agent) = &self.agent {
            request.headers_mut().entry(USER_AGENT).or_insert_with(|| agent.clone());
        }
        let answer = crate::chain::handle(self.server.clone(), request);
        Box::pin(async move { Ok(answer.await) })
    }
}
