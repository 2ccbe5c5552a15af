//! A server over an embedded store in a directory, with plain TLS, one token and an authorizer that says yes.
#![allow(dead_code, clippy::unwrap_used)]

use apiserver::authentication::{BearerTokens, StaticToken, StaticTokens, UserInfo};
use apiserver::authorization::{Attributes, Authorizer, Decision};
use apiserver::cache::{Cache, Options};
use apiserver::{ApiServer, Config};
use async_trait::async_trait;
use kit::Shutdown;
use kit::pki::{Authority, LeafSpec, RotatingCertificate, Sans, server_config};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;

pub const TOKEN: &str = "test-token";

pub struct AllowAll;

#[async_trait]
impl Authorizer for AllowAll {
    async fn authorize(&self, _: &Attributes) -> Decision {
        Decision::Allow { reason: String::new() }
    }
    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), false)
    }
}

pub struct TestServer {
    pub server: ApiServer,
    pub address: SocketAddr,
    pub shutdown: Shutdown,
    pub kubeconfig: String,
    pub authority: Authority,
    pub task: tokio::task::JoinHandle<()>,
}

pub async fn start(dir: &Path, port: u16, adjust: impl FnOnce(&mut Config)) -> TestServer {
    start_over(dir, port, |store| store, adjust).await
}

/// The same, over what `wrap` makes of the store.
pub async fn start_over(
    dir: &Path,
    port: u16,
    wrap: impl FnOnce(Arc<dyn store::Store>) -> Arc<dyn store::Store>,
    adjust: impl FnOnce(&mut Config),
) -> TestServer {
    let store = store::embedded::open(&dir.join("store"), store::embedded::Options::default()).unwrap();
    let store = wrap(store);
    let cache = Cache::start(store, Options::new(apiserver::selectable_fields())).await.unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Authority::generate("test-ca").unwrap();
    let sans = Sans::new(["localhost"], [address.ip()]);
    let leaf = authority.issue(&LeafSpec::server("kube-apiserver", sans)).unwrap();
    let tls = Arc::new(server_config(RotatingCertificate::new(&leaf).unwrap(), None).unwrap());
    let admin = UserInfo::new("admin", &["system:masters"]);
    let tokens = StaticTokens::new([StaticToken { token: TOKEN.into(), user: admin }]);
    let bearer =
        Arc::new(BearerTokens::new(vec![Arc::new(tokens)], vec!["https://kubernetes.default.svc".into()]));
    let mut config = Config::new(cache, vec![bearer.clone()], Arc::new(AllowAll), Vec::new());
    config.bearer = Some(bearer);
    config.advertise = Some((address.ip(), address.port()));
    adjust(&mut config);
    let server = ApiServer::new(config).unwrap();
    server.start().await.unwrap();
    let shutdown = Shutdown::new();
    let task = tokio::spawn({
        let (server, shutdown) = (server.clone(), shutdown.clone());
        async move { server.serve(listener, Arc::new(move || tls.clone()), shutdown).await }
    });
    let kubeconfig = dir.join("kubeconfig");
    std::fs::write(dir.join("ca.crt"), authority.certificate_pem()).unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: test\n  cluster:\n    server: https://{address}\n    \
         certificate-authority: {}\nusers:\n- name: admin\n  user:\n    token: {TOKEN}\ncontexts:\n- name: test\n  \
         context:\n    cluster: test\n    user: admin\ncurrent-context: test\n",
        dir.join("ca.crt").display()
    );
    std::fs::write(&kubeconfig, text).unwrap();
    TestServer { server, address, shutdown, kubeconfig: kubeconfig.display().to_string(), authority, task }
}
