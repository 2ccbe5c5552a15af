//! A server of the test's own over HTTPS on 127.0.0.1: webhooks and issuers that a cluster is told of.
//!
//! It answers by path and remembers what it was asked. The cluster under test must reach this machine's loopback.

use anyhow::{Context, Result};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    /// `null` where the body is no JSON.
    pub body: Value,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    pub kind: &'static str,
    pub body: Bytes,
    pub after: Duration,
}

impl Reply {
    pub fn json(value: &Value) -> Self {
        Self::text(200, "application/json", value.to_string())
    }

    pub fn text(code: u16, kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self { code, kind, body: body.into(), after: Duration::ZERO }
    }

    pub fn after(mut self, pause: Duration) -> Self {
        self.after = pause;
        self
    }
}

type Handler = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    handlers: HashMap<String, Handler>,
    asked: Vec<Asked>,
}

/// Runs until it is dropped.
pub struct Service {
    /// `https://127.0.0.1:<port>`
    pub url: String,
    /// Who signed its certificate, PEM.
    pub authority: String,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    pub async fn start() -> Result<Self> {
        let (acceptor, authority) = tls()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", listener.local_addr()?);
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(state.clone(), request));
                    // A client that goes away in the middle is none of the test's business.
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { url, authority, state, task })
    }

    /// `caBundle`, as configurations have it.
    pub fn bundle(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(&self.authority)
    }

    pub fn on(&self, path: &str, handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.handlers.insert(path.to_owned(), Arc::new(handler));
    }

    /// Every request to this path, in order.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.iter().filter(|a| a.path == path).cloned().collect()
    }

    /// Forgets what was asked.
    pub fn forget(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).asked.clear();
    }

    /// The paths that were asked, in order.
    pub fn order(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.iter().map(|a| a.path.clone()).collect()
    }
}

/// An acceptor with a certificate for 127.0.0.1 and localhost, and the authority that signed it.
fn tls() -> Result<(TlsAcceptor, String)> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "test service's authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let authority = params.self_signed(&key)?;
    let pem = authority.pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "test service");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("the service's certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), pem))
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let asked = Asked {
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let handler = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.push(asked.clone());
        state.handlers.get(&asked.path).cloned()
    };
    let reply = handler.map_or_else(|| Reply::text(404, "text/plain", "not found"), |h| h(&asked));
    if !reply.after.is_zero() {
        tokio::time::sleep(reply.after).await;
    }
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = http::StatusCode::from_u16(reply.code).unwrap_or_default();
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(reply.kind));
    Ok(response)
}
