//! One group version another server answers for, and the task that looks after it.

use super::availability::{Verdict, reachable};
use super::backend::{Address, Service};
use super::documents::{self, Documents};
use super::transport::{self, Pool, cause};
use super::{GROUP, PLURAL, proxy};
use crate::ApiServer;
use crate::authentication::UserInfo;
use crate::cache::{CacheError, GroupResource, Watcher};
use crate::http::RequestBody;
use crate::reader::Writer;
use arc_swap::ArcSwap;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use rustls::ClientConfig;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long an answer to the availability check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// An available extension is asked again this often, an unavailable one at most this late.
const CHECK_EVERY: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Discovery and OpenAPI documents are asked for this often.
const DOCUMENTS_EVERY: Duration = Duration::from_secs(60);

/// A registered group version of another server.
pub struct Extension {
    /// Of the APIService.
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: u32,
    pub version_priority: u32,
    pub(crate) service: Service,
    available: AtomicBool,
    transport: Result<(Arc<ClientConfig>, Pool), String>,
    addresses: ArcSwap<Result<Vec<Address>, String>>,
    documents: ArcSwap<Documents>,
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

impl Extension {
    /// From an APIService; `None` where it names no Service.
    pub(super) fn read(server: &ApiServer, object: &Value) -> Option<Self> {
        use base64::Engine as _;
        let spec = &object["spec"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let at = spec["service"].as_object()?;
        let service = Service {
            namespace: at.get("namespace").map(text).unwrap_or_default(),
            name: at.get("name").map(text).unwrap_or_default(),
            port: at.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
        };
        let bundle = base64::engine::general_purpose::STANDARD.decode(text(&spec["caBundle"]));
        let insecure = spec["insecureSkipTLSVerify"] == Value::Bool(true);
        let transport = bundle
            .map_err(|e| e.to_string())
            .and_then(|ca| transport::client_tls(&ca, insecure, server.config.front_proxy.clone()))
            .and_then(|tls| {
                let pool = transport::pool(tls.clone(), &service.server_name())?;
                let mut tls = tls;
                tls.alpn_protocols = vec![b"http/1.1".to_vec()];
                Ok((Arc::new(tls), pool))
            });
        Some(Self {
            name: crate::registry::meta::name(object).to_owned(),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            group_priority: number(&spec["groupPriorityMinimum"]),
            version_priority: number(&spec["versionPriority"]),
            service,
            available: AtomicBool::new(super::availability::is_available(object)),
            transport,
            addresses: ArcSwap::from_pointee(Err("not resolved yet".into())),
            documents: ArcSwap::default(),
        })
    }

    /// Goes on with what is known of the same server: a change of priorities is no reason to ask it again.
    pub(super) fn succeed(&self, old: &Self) {
        if self.service == old.service && self.api_version() == old.api_version() {
            self.documents.store(old.documents.load_full());
            self.addresses.store(old.addresses.load_full());
        }
    }

    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    pub(super) fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Release);
    }

    /// What it published when it was last asked.
    pub(crate) fn documents(&self) -> Arc<Documents> {
        self.documents.load_full()
    }

    /// `<group>/<version>` as paths and messages have it.
    pub(crate) fn api_version(&self) -> String {
        crate::resolve::join(&self.group, &self.version)
    }

    /// One of the addresses behind the Service.
    pub(super) fn address(&self, server: &ApiServer) -> Result<Address, String> {
        let known = self.addresses.load();
        match &**known {
            Ok(all) if !all.is_empty() => Ok(all[rand::random_range(0..all.len())].clone()),
            // Its task did not come to it yet.
            _ => {
                let cache = server.storage.cache();
                let all = self.service.resolve(cache, server.own_address())?;
                let first = all.first().cloned().ok_or_else(|| "no addresses".to_owned())?;
                self.addresses.store(Arc::new(Ok(all)));
                Ok(first)
            }
        }
    }

    /// TLS for a connection of one's own: upgraded ones are not pooled.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        self.transport.as_ref().map(|(tls, _)| tls.clone()).map_err(Clone::clone)
    }

    pub(super) fn transport_error(&self) -> Option<&str> {
        self.transport.as_ref().err().map(String::as_str)
    }

    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
        let (_, pool) = self.transport.as_ref().map_err(|e| e.clone())?;
        Ok(pool.request(request).await?)
    }

    /// A GET in the name of this server itself. The error is the client's, in Go's form.
    pub(super) async fn ask(
        &self,
        server: &ApiServer,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Response<Incoming>, String> {
        let address = self.address(server)?;
        let url = format!("https://{address}{path}");
        let mut request = Request::new(super::request_bytes(bytes::Bytes::new()));
        let path: PathAndQuery = path.parse().map_err(|e| format!("{e}"))?;
        *request.uri_mut() = proxy::target(&address, path).map_err(|e| e.to_string())?;
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            if let Ok(value) = value.parse() {
                all.insert(*name, value);
            }
        }
        proxy::speak_for(&mut all, &UserInfo::new("system:kube-aggregator", &["system:masters"]));
        *request.headers_mut() = all;
        match tokio::time::timeout(CHECK_TIMEOUT, self.send(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(format!("Get {url:?}: {}", cause(&*error))),
            Err(_) => Err(format!(
                "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            )),
        }
    }

    /// Asks for the group version's resource list, which every extension server must answer.
    async fn probe(&self, server: &ApiServer) -> Result<(), String> {
        let path = format!("/apis/{}", self.api_version());
        let url = format!("https://{}{path}", self.address(server)?);
        let failed = |why: String| format!("failing or missing response from {url}: {why}");
        let response = self.ask(server, &path, &[]).await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Err(failed(format!("bad status from {url}: {}", status.as_u16())));
        }
        Ok(())
    }

    async fn check(&self, server: &ApiServer) -> Verdict {
        let cache = server.storage.cache();
        let (service, slices) = self.service.read(cache);
        let resolved = self.service.resolve(cache, server.own_address());
        self.addresses.store(Arc::new(resolved));
        if let Some(no) = reachable(&self.service, service.as_ref(), &slices) {
            return no;
        }
        // As upstream, one answer in five tries is enough; the other four only follow a failure.
        let mut last = match self.probe(server).await {
            Ok(()) => return Verdict::passed(),
            Err(error) => error,
        };
        for result in futures::future::join_all((0..4).map(|_| self.probe(server))).await {
            match result {
                Ok(()) => return Verdict::passed(),
                Err(error) => last = error,
            }
        }
        Verdict::failed(last)
    }

    /// Writes the verdict into the APIService, if it says something else.
    async fn report(&self, server: &ApiServer, verdict: &Verdict) -> Result<(), crate::reader::WriteError> {
        let services = server.storage.cache().resource(&GroupResource::new(GROUP, PLURAL));
        let Some(object) = services.get("", &self.name).and_then(|e| e.object().ok()) else { return Ok(()) };
        let Some(new) = verdict.apply(&object) else { return Ok(()) };
        tracing::info!(name = %self.name, available = verdict.status, reason = verdict.reason, message = %verdict.message,
            "an APIService's availability changed");
        server.update_status(GROUP, "v1", PLURAL, new).await
    }
}

/// Looks after one extension until aborted: addresses, availability, documents.
pub(super) async fn run(server: ApiServer, extension: Arc<Extension>) {
    let mut watches = Watches::open(&server, &extension.service);
    let mut failures: u32 = 0;
    let mut read_at: Option<Instant> = None;
    loop {
        let verdict = extension.check(&server).await;
        let available = verdict.status == "True";
        let reported = extension.report(&server, &verdict).await;
        if let Err(error) = &reported {
            tracing::debug!(name = %extension.name, %error, "availability was not written");
        }
        let due = read_at.is_none_or(|at| at.elapsed() >= DOCUMENTS_EVERY);
        let known = extension.documents();
        let next = if !available {
            read_at = None;
            Documents::stale(&known)
        } else if due || !known.fresh {
            let next = documents::read(&server, &extension, &known).await;
            read_at = next.fresh.then(Instant::now);
            next
        } else {
            (*known).clone()
        };
        if next != *known {
            extension.documents.store(Arc::new(next));
            // Discovery and OpenAPI are derived from the index, and are made anew with it.
            server.reindex(|_| {});
        }
        let settled = available && reported.is_ok() && extension.documents().fresh;
        failures = if settled { 0 } else { failures + 1 };
        let delay = match failures {
            0 => CHECK_EVERY,
            n => FIRST_RETRY.saturating_mul(1 << (n - 1).min(10)).min(CHECK_EVERY),
        };
        tokio::select! {
            () = server.shutdown.wait() => return,
            () = tokio::time::sleep(delay) => {}
            () = watches.changed(&server, &extension.service) => failures = 0,
        }
    }
}

/// What an extension's addresses depend on.
struct Watches {
    service: Result<Watcher, CacheError>,
    slices: Result<Watcher, CacheError>,
}

impl Watches {
    fn open(server: &ApiServer, service: &Service) -> Self {
        let cache = server.storage.cache();
        let (for_service, for_slices) = service.filters();
        Self {
            service: cache.resource(&GroupResource::new("", "services")).watch(None, for_service),
            slices: cache
                .resource(&GroupResource::new("discovery.k8s.io", "endpointslices"))
                .watch(None, for_slices),
        }
    }

    /// Returns when either changed, or may have.
    async fn changed(&mut self, server: &ApiServer, of: &Service) {
        let (Ok(service), Ok(slices)) = (&mut self.service, &mut self.slices) else {
            tokio::time::sleep(FIRST_RETRY).await;
            *self = Self::open(server, of);
            return;
        };
        let lost = tokio::select! {
            event = service.next() => event.is_err(),
            event = slices.next() => event.is_err(),
        };
        let drain = |w: &mut Watcher| while let Ok(Some(_)) = w.try_next() {};
        drain(service);
        drain(slices);
        if lost {
            *self = Self::open(server, of);
        }
    }
}
