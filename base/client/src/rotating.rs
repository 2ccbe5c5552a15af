//! A client whose credentials change while it is used.
//!
//! Requests go to whichever client is in force when they begin. The one before it lives until its last request is
//! answered, and its connections, which show the old certificate, go with it.

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::Service;

/// The handle that changes it.
#[derive(Clone)]
pub struct Rotating(Arc<ArcSwap<kube::Client>>);

impl Rotating {
    /// Must be called inside a tokio runtime.
    pub fn new(first: kube::Client) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(first)))
    }

    /// A client that follows every [`replace`](Self::replace). Must be called inside a tokio runtime.
    pub fn client(&self) -> kube::Client {
        let namespace = self.0.load().default_namespace().to_owned();
        kube::Client::new(self.clone(), namespace)
    }

    pub fn replace(&self, next: kube::Client) {
        self.0.store(Arc::new(next));
    }
}

impl Service<Request<Body>> for Rotating {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, kube::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let current = self.0.load_full();
        Box::pin(async move { current.send(request).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn says(text: &'static str) -> kube::Client {
        let answer = move |_: Request<Body>| async move {
            Ok::<_, Infallible>(Response::new(http_body_util::Full::new(bytes::Bytes::from(text))))
        };
        crate::in_process(tower::service_fn(answer))
    }

    #[tokio::test]
    async fn the_next_request_goes_to_the_new_client() {
        let rotating = Rotating::new(says("old"));
        let client = rotating.client();
        let ask = async || {
            client
                .request_text(Request::get("/").body(Vec::new()).expect("a request"))
                .await
                .expect("an answer")
        };
        assert_eq!(ask().await, "old");
        rotating.replace(says("new"));
        assert_eq!(ask().await, "new");
    }
}
