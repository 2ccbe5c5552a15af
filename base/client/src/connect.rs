//! Constructors of [`kube::Client`].

use std::path::{Path, PathBuf};

use http::{Request, Response};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::{BoxError, Service};

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot use kubeconfig {path}")]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: Box<KubeconfigError>,
    },
    #[error("cannot build a client for {server}")]
    Client {
        server: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client of the cluster that the current context of the kubeconfig file `path` names.
pub async fn remote(path: impl AsRef<Path>) -> Result<kube::Client, ConnectError> {
    let path = path.as_ref();
    let wrap = |source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(wrap)?;
    let config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrap)?;
    remote_config(config)
}

/// [`remote`] under a name: its first word becomes the manager of fields the client sets.
pub async fn remote_as(path: impl AsRef<Path>, agent: &str) -> Result<kube::Client, ConnectError> {
    remote_config(settings(path, agent).await?)
}

/// What [`remote_as`] makes its client of.
pub async fn settings(path: impl AsRef<Path>, agent: &str) -> Result<kube::Config, ConnectError> {
    let path = path.as_ref();
    let wrap = |source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(wrap)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrap)?;
    if let Ok(value) = http::HeaderValue::from_str(agent) {
        config.headers.push((http::header::USER_AGENT, value));
    }
    Ok(config)
}

/// A `User-Agent` in upstream's form: `<component>/v1.36.0 (linux/amd64) kubernetes/ironclad[/<part>]`.
pub fn user_agent(component: &str, part: &str) -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let slash = if part.is_empty() { "" } else { "/" };
    format!("{component}/v1.36.0 ({}/{arch}) kubernetes/ironclad{slash}{part}", std::env::consts::OS)
}

/// A client of the cluster that `config` names. Watches stay open for as long as the server lets them, so no read
/// time-out is set.
pub fn remote_config(mut config: kube::Config) -> Result<kube::Client, ConnectError> {
    // Fails only when a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    config.read_timeout = None;
    let server = config.cluster_url.to_string();
    kube::Client::try_from(config).map_err(|source| ConnectError::Client { server, source: Box::new(source) })
}

/// A client that calls `service` in this process: the same requests as over a socket, without the socket. Identity is
/// the service's business (wrap it in a layer that authenticates the caller). Must be called inside a tokio runtime.
pub fn in_process<S, B>(service: S) -> kube::Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    kube::Client::new(service, "default")
}
