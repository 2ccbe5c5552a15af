//! A TLS service for tests: answers what it was given, counts who asks.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::pki::{Authority, LeafSpec, RotatingCertificate, Sans, server_config};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

type Handler = Arc<dyn Fn(&Value) -> (u16, Value) + Send + Sync>;

#[derive(Clone)]
enum Reply {
    Text(String),
    Handler(Handler),
}

#[derive(Default)]
struct State {
    replies: HashMap<String, Reply>,
    asked: HashMap<String, usize>,
    /// Bodies of POSTs, in order.
    bodies: Vec<Value>,
}

pub struct TestService {
    /// `https://127.0.0.1:<port>`
    pub url: String,
    /// PEM of who signed its certificate.
    pub authority: String,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for TestService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestService {
    pub async fn start() -> Self {
        let ca = Authority::generate("test service").unwrap();
        let sans = Sans::new(["localhost"], [std::net::IpAddr::from([127, 0, 0, 1])]);
        let leaf = ca.issue(&LeafSpec::server("test", sans)).unwrap();
        let tls = server_config(RotatingCertificate::new(&leaf).unwrap(), None).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(state.clone(), request));
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { url, authority: ca.certificate_pem().into(), state, task }
    }

    pub fn put(&self, path: &str, value: Value) {
        self.put_text(path, &value.to_string());
    }

    pub fn put_text(&self, path: &str, text: &str) {
        self.state.lock().replies.insert(path.into(), Reply::Text(text.into()));
    }

    /// Answers by what was posted.
    pub fn handle(&self, path: &str, handler: impl Fn(&Value) -> (u16, Value) + Send + Sync + 'static) {
        self.state.lock().replies.insert(path.into(), Reply::Handler(Arc::new(handler)));
    }

    pub fn remove(&self, path: &str) {
        self.state.lock().replies.remove(path);
    }

    pub fn asked(&self, path: &str) -> usize {
        self.state.lock().asked.get(path).copied().unwrap_or(0)
    }

    #[allow(dead_code)] // One of the test programs that share this file has no use for it.
    pub fn bodies(&self) -> Vec<Value> {
        self.state.lock().bodies.clone()
    }

    /// A kubeconfig that names this service, in a folder of its own.
    pub fn kubeconfig(&self, path: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        use base64::Engine as _;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.authority);
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: s\n  cluster: {{server: \"{}{path}\", \
             certificate-authority-data: {ca}}}\nusers:\n- name: u\n  user: {{token: t}}\ncontexts:\n- name: c\n  \
             context: {{cluster: s, user: u}}\ncurrent-context: c\n",
            self.url
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("webhook.kubeconfig");
        std::fs::write(&file, text).unwrap();
        (dir, file)
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let posted = request.method() == http::Method::POST;
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let reply = {
        let mut state = state.lock();
        *state.asked.entry(path.clone()).or_default() += 1;
        if posted {
            state.bodies.push(body.clone());
        }
        state.replies.get(&path).cloned()
    };
    let (code, text) = match reply {
        Some(Reply::Text(text)) => (200, text),
        Some(Reply::Handler(handler)) => {
            let (code, value) = handler(&body);
            (code, value.to_string())
        }
        None => (404, "not found".into()),
    };
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    Ok(response)
}
