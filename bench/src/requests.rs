//! Requests as bytes. The answers stay text where nobody reads them: the load generator must be cheap.

use anyhow::{Context, Result};
use http::{Method, Request};
use kube::Client;
use serde_json::Value;
use std::path::Path;

pub const JSON: &str = "application/json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
/// JSON is YAML.
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// A client with a connection pool of its own that never retries: a refused request is an error, not a slow success.
pub async fn connect(kubeconfig: &Path) -> Result<Client> {
    let path = kubeconfig.display();
    let file = kube::config::Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {path}"))?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
        .await
        .with_context(|| format!("use {path}"))?;
    config.default_retry = false;
    Ok(client::remote_config(config)?)
}

/// A client without identity that takes any certificate: enough to ask a server that just starts how it is.
pub fn anonymous(port: u16) -> Result<Client> {
    let mut config = kube::Config::new(format!("https://127.0.0.1:{port}").parse()?);
    config.accept_invalid_certs = true;
    config.default_retry = false;
    Ok(client::remote_config(config)?)
}

pub fn request(method: Method, path: &str, kind: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>> {
    let request = Request::builder().method(method).uri(path).header(http::header::ACCEPT, JSON);
    request
        .header(http::header::CONTENT_TYPE, kind)
        .body(body)
        .with_context(|| format!("make a request of {path}"))
}

pub async fn get(client: &Client, path: &str) -> Result<Value> {
    let text = client.request_text(request(Method::GET, path, JSON, vec![])?).await;
    serde_json::from_str(&text.with_context(|| format!("get {path}"))?)
        .with_context(|| format!("read {path}"))
}

pub async fn post(client: &Client, path: &str, object: &Value) -> Result<()> {
    let body = request(Method::POST, path, JSON, object.to_string().into_bytes())?;
    client.request_text(body).await.map(drop).with_context(|| format!("post to {path}"))
}

/// As [`post`]; an object that is there already is as good.
pub async fn ensure(client: &Client, path: &str, object: &Value) -> Result<()> {
    match client.request_text(request(Method::POST, path, JSON, object.to_string().into_bytes())?).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop).with_context(|| format!("post to {path}")),
    }
}

pub async fn delete(client: &Client, path: &str) -> Result<()> {
    let text = client.request_text(request(Method::DELETE, path, JSON, vec![])?).await;
    text.map(drop).with_context(|| format!("delete {path}"))
}
