//! What a pod is told: the ConfigMap every extension server reads, fetched with the pod's own token.

use crate::FrontProxy;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const CONFIG: &str = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

/// The front proxy as the cluster describes it.
pub async fn front_proxy() -> Result<FrontProxy> {
    let read =
        |name: &str| std::fs::read(Path::new(ACCOUNT).join(name)).with_context(|| format!("read {name}"));
    let (token, ca) = (read("token")?, read("ca.crt")?);
    let host = std::env::var("KUBERNETES_SERVICE_HOST").context("not in a cluster")?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".into());
    let mut roots = RootCertStore::empty();
    for authority in rustls_pemfile::certs(&mut &*ca) {
        roots.add(authority?)?;
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(format!("https://{host}:{port}{CONFIG}"))
        .header("authorization", format!("Bearer {}", String::from_utf8_lossy(&token).trim()))
        .body(Empty::new())?;
    let response = client.request(request).await.context("ask the API server")?;
    let code = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !code.is_success() {
        bail!("the API server answered {code}: {}", String::from_utf8_lossy(&body));
    }
    read_config(&serde_json::from_slice(&body)?)
}

/// The ConfigMap's word on whom to believe.
pub fn read_config(map: &Value) -> Result<FrontProxy> {
    let text = |key: &str| map["data"][key].as_str().unwrap_or_default();
    let names =
        serde_json::from_str(text("requestheader-allowed-names")).context("read the allowed names")?;
    FrontProxy::new(text("requestheader-client-ca-file").as_bytes(), names)
}
