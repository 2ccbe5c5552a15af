//! The kubelet API: logs, exec, attach, port-forward, and what the node knows of itself.
//!
//! TLS only. A caller is the API server's client identity, or an identity that the API server's TokenReview and
//! SubjectAccessReview vouch for; anything but `/healthz` is refused to others.

pub mod auth;
mod exec;
pub mod logs;
mod portforward;
mod stats;

use crate::kubelet::Pods;
use crate::pod::identity;
use crate::shared::Shared;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::CertificateDer;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

pub type Body = UnsyncBoxBody<Bytes, io::Error>;
pub type Answer = Response<Body>;

/// TLS settings for the kubelet API: `certificate` is asked for with every connection, so that it can be renewed;
/// callers may show a certificate of their own, which must then be signed by the client CA.
pub fn tls_config(
    certificate: Arc<dyn ResolvesServerCert>,
    client_ca: Vec<CertificateDer<'static>>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in client_ca {
        roots.add(ca)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

pub struct Api {
    pub shared: Arc<Shared>,
    pub pods: Arc<Pods>,
    auth: auth::Authorizer,
}

/// Serves until `stop`; open streams end with the process or their peer.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, pods: Arc<Pods>, stop: kit::Shutdown) {
    let acceptor = tokio_rustls::TlsAcceptor::from(shared.config.tls.clone());
    let auth = auth::Authorizer::new(shared.client.clone(), shared.config.node_name.clone());
    let api = Arc::new(Api { shared, pods, auth });
    loop {
        let accepted = tokio::select! {
            () = stop.wait() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (api, acceptor) = (api.clone(), acceptor.clone());
                tokio::spawn(connection(api, acceptor, stream));
            }
            Err(error) => {
                tracing::warn!(%error, "kubelet API connection not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(api: Arc<Api>, acceptor: tokio_rustls::TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "kubelet API handshake failed");
            return;
        }
    };
    let caller = auth::Caller::from_certificates(stream.get_ref().1.peer_certificates());
    let caller = Arc::new(caller);
    let service = hyper::service::service_fn(move |request| {
        let (api, caller) = (api.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(api.answer(request, &caller).await) }
    });
    let served = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = %error, "kubelet API connection ended");
    }
}

pub fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(body(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

pub fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut answer = Response::new(body(bytes));
            answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
            answer
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The query's parameters, in order, decoded.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(raw: Option<&str>) -> Self {
        let decode = |s: &str| {
            let mut out = Vec::with_capacity(s.len());
            let bytes = s.as_bytes();
            let mut i = 0;
            while i < bytes.len() {
                match bytes[i] {
                    b'+' => out.push(b' '),
                    b'%' => match s.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok()) {
                        Some(b) => {
                            out.push(b);
                            i += 2;
                        }
                        None => out.push(b'%'),
                    },
                    b => out.push(b),
                }
                i += 1;
            }
            String::from_utf8_lossy(&out).into_owned()
        };
        let pairs = raw.unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|p| {
                    let (k, v) = p.split_once('=').unwrap_or((p, ""));
                    (decode(k), decode(v))
                })
                .collect(),
        )
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    /// `1` and `true` in upstream's spellings.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "true" | "True" | "TRUE" | "t" | "T"))
    }
}

impl Api {
    async fn answer(&self, mut request: Request<Incoming>, caller: &auth::Caller) -> Answer {
        let path = request.uri().path().to_owned();
        if path == "/healthz" || path.starts_with("/healthz/") {
            return text(StatusCode::OK, "ok");
        }
        if let Err(refused) = self.auth.check(caller, request.method(), &path, request.headers()).await {
            return refused;
        }
        let query = Query::parse(request.uri().query());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let get = request.method() == Method::GET;
        match parts.as_slice() {
            ["pods"] | ["runningpods"] if get => self.pod_list(),
            ["containerLogs", namespace, pod, container] if get => {
                logs::answer(self, namespace, pod, container, &query).await
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                exec::answer(self, &mut request, namespace, pod, container, &query, exec::What::Exec).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                exec::answer(self, &mut request, namespace, pod, container, &query, exec::What::Attach).await
            }
            ["run", namespace, pod, container] if request.method() == Method::POST => {
                self.run(namespace, pod, container, &query).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                portforward::answer(self, &mut request, namespace, pod, &query).await
            }
            ["stats", "summary"] => json(&stats::summary(self).await),
            ["metrics"] if get => text(StatusCode::OK, stats::metrics(self)),
            ["metrics", "resource"] if get => text(StatusCode::OK, stats::resource_metrics(self).await),
            ["configz"] if get => json(&self.configz()),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn pod_list(&self) -> Answer {
        let items: Vec<Arc<Pod>> = self.pods.all();
        json(&serde_json::json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items,
        }))
    }

    fn configz(&self) -> serde_json::Value {
        let c = &self.shared.config;
        serde_json::json!({"kubeletconfig": {
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "maxPods": c.max_pods, "clusterDNS": c.cluster_dns, "clusterDomain": c.cluster_domain,
            "containerLogMaxSize": format!("{}Mi", c.log_max_bytes >> 20), "containerLogMaxFiles": c.log_max_files,
            "nodeStatusUpdateFrequency": "10s", "nodeStatusReportFrequency": "5m0s", "nodeLeaseDurationSeconds": 40,
        }})
    }

    async fn run(&self, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
        let found = match self.running(namespace, pod, container).await {
            Ok(c) => c,
            Err(refused) => return refused,
        };
        let command: Vec<String> = query
            .get("cmd")
            .unwrap_or_default()
            .split(' ')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect();
        match self.shared.runtime.exec_sync(&found.id, &command, std::time::Duration::ZERO).await {
            Ok(out) => text(StatusCode::OK, [out.stdout, out.stderr].concat()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// The id of the run that the pod's status calls the last one, if that has ended: `lastState`.
    pub fn last_ended(&self, namespace: &str, pod: &str, container: &str) -> Option<String> {
        let found = self.pods.find(namespace, pod)?;
        let status = self.shared.statuses.latest(identity(&found).2).or_else(|| found.status.clone())?;
        let all =
            [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
        let status = all.into_iter().flatten().flatten().find(|c| c.name == container)?;
        let id = status.last_state?.terminated?.container_id?;
        Some(id.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// Every run of a container, oldest first, straight from the runtime.
    pub async fn runs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Vec<runtime::ContainerStatus>, Answer> {
        let Some(found) = self.pods.find(namespace, pod) else {
            return Err(text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist\n")));
        };
        if crate::pod::observed::find(&found, container).is_none() {
            return Err(text(
                StatusCode::NOT_FOUND,
                format!("container {container:?} not found in pod \"{pod}_{namespace}\"\n"),
            ));
        }
        let uid = identity(&found).2;
        let all = self
            .shared
            .runtime
            .list_containers()
            .await
            .map_err(|e| text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
        let mut runs: Vec<_> = all
            .into_iter()
            .filter(|c| {
                c.name == container && c.labels.get(crate::pod::labels::POD_UID).is_some_and(|u| u == uid)
            })
            .collect();
        runs.sort_by_key(|c| (c.attempt, c.created_at_ns));
        Ok(runs)
    }

    /// The run that is running now.
    pub async fn running(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<runtime::ContainerStatus, Answer> {
        let runs = self.runs(namespace, pod, container).await?;
        runs.into_iter()
            .rev()
            .find(|c| c.state == runtime::ContainerState::Running)
            .ok_or_else(|| text(StatusCode::NOT_FOUND, format!("container not found ({container:?})\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let q = Query::parse(Some("command=sh&command=-c&command=echo%20a%2Bb+c&stdin=true&tty=0"));
        assert_eq!(q.all("command"), ["sh", "-c", "echo a+b c"]);
        assert!(q.flag("stdin") && !q.flag("tty") && !q.flag("none"));
        assert_eq!(Query::parse(Some("a=%zz")).get("a"), Some("%zz"));
    }
}
