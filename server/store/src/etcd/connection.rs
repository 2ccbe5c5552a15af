//! The endpoints, and one request to whichever of them works.

use super::{Tls, pb};
use crate::StoreError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

const CONNECT: Duration = Duration::from_secs(3);
const REQUEST: Duration = Duration::from_secs(10);

pub(super) struct Connection {
    endpoints: Vec<(String, Channel)>,
    /// The one in use.
    current: AtomicUsize,
}

/// What etcd or the way to it said.
#[derive(Debug)]
pub(super) enum Failure {
    Compacted,
    TooLarge,
    Other(String),
}

impl Failure {
    /// Names the sizes of a refused write.
    pub(super) fn of_request(self, size: usize, limit: usize) -> StoreError {
        match self {
            Self::TooLarge => StoreError::TooLarge { size, limit },
            other => other.into(),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Compacted => Self::Compacted(0),
            Failure::TooLarge => Self::TooLarge { size: 0, limit: 0 },
            Failure::Other(message) => Self::Unavailable(message),
        }
    }
}

impl Connection {
    pub(super) fn new(endpoints: &[String], tls: Option<&Tls>) -> Result<Self, StoreError> {
        let wrong = |url: &str, why: String| StoreError::Unavailable(format!("etcd endpoint {url:?}: {why}"));
        if endpoints.is_empty() {
            return Err(StoreError::Unavailable("no etcd endpoint given".into()));
        }
        let open = |url: &String| {
            let mut endpoint = Endpoint::from_shared(url.clone())
                .map_err(|e| wrong(url, chain(&e)))?
                .connect_timeout(CONNECT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(5))
                .keep_alive_while_idle(false)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(2 << 20);
            match (endpoint.uri().scheme_str(), tls) {
                (Some("http"), _) => {}
                (Some("https"), Some(tls)) => {
                    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
                    if let Some((certificate, key)) = &tls.identity {
                        config = config.identity(Identity::from_pem(certificate, key));
                    }
                    endpoint = endpoint.tls_config(config).map_err(|e| wrong(url, chain(&e)))?;
                }
                (Some("https"), None) => return Err(wrong(url, "https needs a CA certificate".into())),
                _ => return Err(wrong(url, "must start with http:// or https://".into())),
            }
            Ok((url.clone(), endpoint.connect_lazy()))
        };
        let endpoints = endpoints.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { endpoints, current: AtomicUsize::new(0) })
    }

    /// Makes sure someone is there; returns etcd's version.
    pub(super) async fn probe(&self) -> Result<String, StoreError> {
        let ask = |channel| async move {
            pb::maintenance_client::MaintenanceClient::new(channel).status(pb::StatusRequest {}).await
        };
        Ok(self.request(true, ask).await?.version)
    }

    pub(super) async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Failure> {
        self.request(true, |channel| {
            let request = request.clone();
            async move { kv(channel).range(request).await }
        })
        .await
    }

    pub(super) async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Failure> {
        self.request(false, |channel| {
            let request = request.clone();
            async move { kv(channel).txn(request).await }
        })
        .await
    }

    pub(super) async fn compact(
        &self,
        request: pb::CompactionRequest,
    ) -> Result<pb::CompactionResponse, Failure> {
        self.request(true, |channel| async move { kv(channel).compact(request).await }).await
    }

    pub(super) async fn grant(
        &self,
        request: pb::LeaseGrantRequest,
    ) -> Result<pb::LeaseGrantResponse, Failure> {
        self.request(false, |channel| async move {
            pb::lease_client::LeaseClient::new(channel).lease_grant(request).await
        })
        .await
    }

    /// The channel for a watch; `skip` after one failed there.
    pub(super) fn watch_channel(&self) -> Channel {
        self.endpoints[self.current.load(Ordering::Relaxed) % self.endpoints.len()].1.clone()
    }

    /// Leaves the endpoint in use, unless someone did already.
    pub(super) fn skip(&self, from: usize) {
        let next = (from + 1) % self.endpoints.len();
        let _ = self.current.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Asks the endpoint in use, then the others. `repeatable`: may be sent again though it may have arrived.
    async fn request<T, F>(&self, repeatable: bool, send: impl Fn(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut failures: Vec<String> = Vec::new();
        for _ in 0..self.endpoints.len().max(2) {
            let at = self.current();
            let (url, channel) = &self.endpoints[at];
            let status = match tokio::time::timeout(REQUEST, send(channel.clone())).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            if let Some(failure) = verdict(&status) {
                return Err(failure);
            }
            failures.push(format!("{url}: {}", chain(&status)));
            self.skip(at);
            if !repeatable && !never_sent(&status) {
                break;
            }
        }
        failures.dedup();
        Err(Failure::Other(format!("etcd: {}", failures.join("; "))))
    }
}

fn kv(channel: Channel) -> pb::kv_client::KvClient<Channel> {
    // etcd bounds what it stores; a page of large values may be far more than gRPC's default of 4 MiB.
    pb::kv_client::KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// Answers that another endpoint would give, too.
fn verdict(status: &Status) -> Option<Failure> {
    let message = status.message();
    match status.code() {
        Code::OutOfRange if message.contains("has been compacted") => Some(Failure::Compacted),
        Code::InvalidArgument if message.contains("request is too large") => Some(Failure::TooLarge),
        Code::ResourceExhausted if message.contains("larger than max") => Some(Failure::TooLarge),
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal | Code::Cancelled => None,
        _ => Some(Failure::Other(format!("etcd: {message}"))),
    }
}

fn never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error and what caused it, in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    // A status prints its code and metadata, too; its message is what matters.
    let mut text =
        error.downcast_ref::<Status>().map_or_else(|| error.to_string(), |s| s.message().to_owned());
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
