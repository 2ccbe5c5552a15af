//! One API server over HTTPS: requests as they are, answers as they came.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
pub const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

const LIMIT: Duration = Duration::from_secs(90);

type Transport = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Where requests go, and as whom. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    server: String,
    transport: Transport,
    /// The same server over HTTP/1.1 alone.
    plain: Transport,
    without_identity: Transport,
    headers: HeaderMap,
}

/// A request that is being made up.
pub struct Call {
    api: Api,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    http1: bool,
}

/// What came back, whole.
#[derive(Debug)]
pub struct Answer {
    pub what: String,
    pub code: u16,
    pub version: http::Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Api {
    /// The current context of a kubeconfig: its certificate or token.
    pub fn from_kubeconfig(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let config: Value = serde_saphyr::from_str(&text).context("read the kubeconfig")?;
        let named = |list: &str, name: &Value, field: &str| -> Result<Value> {
            let entries = config[list].as_array().with_context(|| format!("no {list}"))?;
            let entry = entries
                .iter()
                .find(|e| e["name"] == *name)
                .with_context(|| format!("no {name} in {list}"))?;
            Ok(entry[field].clone())
        };
        let context = named("contexts", &config["current-context"], "context")?;
        let cluster = named("clusters", &context["cluster"], "cluster")?;
        let user = named("users", &context["user"], "user")?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let data = |of: &Value, name: &str| -> Result<Option<Vec<u8>>> {
            if let Some(text) = of[format!("{name}-data")].as_str() {
                return Ok(Some(base64::engine::general_purpose::STANDARD.decode(text)?));
            }
            of[name]
                .as_str()
                .map(|file| std::fs::read(folder.join(file)).context(file.to_owned()))
                .transpose()
        };
        let server = cluster["server"].as_str().context("no server")?.trim_end_matches('/').to_owned();
        let authority = data(&cluster, "certificate-authority")?.context("no certificate authority")?;
        let identity = data(&user, "client-certificate")?.zip(data(&user, "client-key")?);
        let mut headers = HeaderMap::new();
        if let Some(token) = user["token"].as_str() {
            headers.insert("authorization", format!("Bearer {token}").parse()?);
        }
        Ok(Self {
            server,
            transport: transport(&authority, identity.as_ref(), true)?,
            plain: transport(&authority, identity.as_ref(), false)?,
            without_identity: transport(&authority, None, true)?,
            headers,
        })
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// The same server as somebody else, by impersonation.
    pub fn as_user(&self, name: &str, groups: &[&str]) -> Result<Self> {
        let mut other = self.clone();
        other.headers.insert("impersonate-user", name.parse()?);
        for group in groups {
            other.headers.append("impersonate-group", group.parse()?);
        }
        Ok(other)
    }

    /// The same server with this token and nothing else.
    pub fn with_token(&self, token: &str) -> Result<Self> {
        let mut other = self.clone();
        (other.transport, other.plain) = (self.without_identity.clone(), self.without_identity.clone());
        other.headers = HeaderMap::new();
        other.headers.insert("authorization", format!("Bearer {token}").parse()?);
        Ok(other)
    }

    pub fn call(&self, method: Method, path: &str) -> Call {
        let headers = self.headers.clone();
        Call { api: self.clone(), method, path: path.into(), headers, body: Bytes::new(), http1: false }
    }

    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str, object: &Value) -> Call {
        self.call(Method::POST, path).json(object)
    }

    pub fn put(&self, path: &str, object: &Value) -> Call {
        self.call(Method::PUT, path).json(object)
    }

    pub fn patch(&self, path: &str, kind: &str, patch: &Value) -> Call {
        self.call(Method::PATCH, path).body(kind, patch.to_string())
    }

    pub fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }
}

impl Call {
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        match value.parse() {
            Ok(value) => drop(self.headers.insert(name, value)),
            Err(error) => eprintln!("{name}: {error}"),
        }
        self
    }

    pub fn accept(self, kind: &str) -> Self {
        self.header("accept", kind)
    }

    pub fn json(self, object: &Value) -> Self {
        self.body(JSON, object.to_string())
    }

    pub fn body(mut self, kind: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", kind)
    }

    pub fn http1(mut self) -> Self {
        self.http1 = true;
        self
    }

    /// Sends, and gives the response as soon as its head is there.
    pub async fn open(self) -> Result<(String, http::Response<hyper::body::Incoming>)> {
        let what = format!("{} {}", self.method, self.path);
        let mut request =
            Request::builder().method(self.method).uri(format!("{}{}", self.api.server, self.path));
        if let Some(headers) = request.headers_mut() {
            *headers = self.headers;
            headers.entry("user-agent").or_insert(http::HeaderValue::from_static("suite/1.0"));
        }
        let request = request.body(Full::new(self.body)).with_context(|| what.clone())?;
        let transport = if self.http1 { &self.api.plain } else { &self.api.transport };
        let response = tokio::time::timeout(LIMIT, transport.request(request)).await;
        let response =
            response.with_context(|| format!("{what}: no answer"))?.with_context(|| what.clone())?;
        Ok((what, response))
    }

    /// Sends and reads all of the answer.
    pub async fn send(self) -> Result<Answer> {
        let (what, response) = self.open().await?;
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(LIMIT, body.collect()).await;
        let body = body.with_context(|| format!("{what}: the body does not end"))?;
        let body = body.with_context(|| format!("{what}: read the body"))?.to_bytes();
        Ok(Answer { what, code: head.status.as_u16(), version: head.version, headers: head.headers, body })
    }

    /// Sends, expects this code and gives the object.
    pub async fn is(self, code: u16) -> Result<Value> {
        self.send().await?.is(code)
    }

    /// Sends and expects a failure with all of these words in its message.
    pub async fn fails(self, code: u16, reason: &str, words: &[&str]) -> Result<Value> {
        self.send().await?.fails(code, reason, words)
    }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{}: {} {}", self.what, self.code, self.text()))
    }

    /// The texts of all `Warning: 299` headers.
    pub fn warnings(&self) -> Vec<String> {
        let values = self.headers.get_all("warning").iter().filter_map(|v| v.to_str().ok());
        values
            .map(|v| v.strip_prefix("299 - \"").unwrap_or(v))
            .map(|v| v.strip_suffix('"').unwrap_or(v).replace(r#"\""#, r#"""#))
            .collect()
    }

    pub fn is(&self, code: u16) -> Result<Value> {
        ensure!(self.code == code, "{}: {code} was due, not {} {}", self.what, self.code, self.text());
        self.json()
    }

    pub fn fails(&self, code: u16, reason: &str, words: &[&str]) -> Result<Value> {
        let status = self.is(code)?;
        ensure!(status["kind"] == "Status" && status["status"] == "Failure", "{}: {status}", self.what);
        ensure!(status["apiVersion"] == "v1" && status["code"] == code, "{}: {status}", self.what);
        let said = status["reason"].as_str().unwrap_or_default();
        ensure!(said == reason, "{}: reason {reason} was due: {status}", self.what);
        let message = status["message"].as_str().unwrap_or_default();
        match words.iter().find(|w| !message.contains(**w)) {
            Some(word) => bail!("{}: {word:?} was due in {message:?}", self.what),
            None => Ok(status),
        }
    }
}

fn transport(authority: &[u8], identity: Option<&(Vec<u8>, Vec<u8>)>, http2: bool) -> Result<Transport> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(authority)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match identity {
        Some((certificate, key)) => {
            let key = rustls_pemfile::private_key(&mut key.as_slice())?.context("no key")?;
            builder.with_client_auth_cert(certificates(certificate)?, key)?
        }
        None => builder.with_no_client_auth(),
    };
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
    let connector =
        if http2 { builder.enable_http1().enable_http2().build() } else { builder.enable_http1().build() };
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    rustls_pemfile::certs(&mut &*pem).collect::<Result<_, _>>().context("read a certificate")
}
