//! A node agent on the built-in runtime, with an API in memory.
#![allow(dead_code)]

pub mod api;

use api::Api;
use async_trait::async_trait;
use node::{Config, NetworkError, PodIps, PodNetRequest, PodNetwork};
use runtime::Runtime;
use runtime::builtin::{Builtin, BuiltinFile, FileContent, Options, Registries};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const IMAGE: &str = "test.local/busybox:1";

/// Remembers who is attached; nothing is wired.
#[derive(Default)]
pub struct Paper(pub parking_lot::Mutex<BTreeMap<String, String>>);

#[async_trait]
impl PodNetwork for Paper {
    async fn attach(&self, pod: &PodNetRequest) -> Result<PodIps, NetworkError> {
        let mut all = self.0.lock();
        let next = format!("10.9.0.{}", all.len() + 2);
        let ip = all.entry(pod.uid.clone()).or_insert(next);
        Ok(PodIps(vec![ip.parse().map_err(|_| NetworkError("address".into()))?]))
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.0.lock().remove(uid);
        Ok(())
    }

    async fn release_all_except(&self, uids: &BTreeSet<String>) -> Result<(), NetworkError> {
        self.0.lock().retain(|uid, _| uids.contains(uid));
        Ok(())
    }
}

pub struct Bed {
    pub api: Api,
    pub runtime: Arc<Builtin>,
    pub network: Arc<Paper>,
    pub options: Options,
    pub dir: tempfile::TempDir,
    /// The CA and the API server's client certificate.
    trust: Option<(CertificateDer<'static>, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    stop: kit::Shutdown,
    task: Option<tokio::task::JoinHandle<()>>,
}

fn agent_exe() -> PathBuf {
    let exe = std::env::current_exe().expect("this test has a path");
    exe.parent().and_then(Path::parent).expect("target folder").join("examples/pod_agent")
}

fn can_run() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "root"
    } else if !Path::new("/bin/busybox").exists() {
        "/bin/busybox (apt-get install busybox-static)"
    } else if !agent_exe().exists() {
        "examples/pod_agent (cargo build -p node --examples)"
    } else {
        return true;
    };
    eprintln!("skipped: needs {missing}");
    false
}

fn busybox() -> Vec<BuiltinFile> {
    let file = |path: &str, content: FileContent, mode| BuiltinFile { path: path.into(), mode, content };
    let mut files = vec![file("/bin/busybox", FileContent::CopyOf("/bin/busybox".into()), 0o755)];
    for applet in ["sh", "sleep", "cat", "echo", "env", "hostname", "ls", "test", "kill", "stty", "head"] {
        files.push(file(&format!("/bin/{applet}"), FileContent::Symlink("busybox".into()), 0o777));
    }
    files.push(file("/tmp", FileContent::Folder, 0o1777));
    files
}

impl Bed {
    pub async fn new() -> Option<Self> {
        if !can_run() {
            return None;
        }
        let dir = tempfile::tempdir().expect("temp folder");
        let name = dir.path().file_name().and_then(|n| n.to_str()).unwrap_or("x").replace('.', "");
        let options = Options {
            root: dir.path().join("root"),
            state: dir.path().join("run"),
            cgroup_root: format!("ironclad-node-{name}"),
            supervisor_exe: vec![agent_exe().to_string_lossy().into_owned(), "supervise".into()],
            registries: Registries::default(),
            open_files: None,
        };
        let runtime = Builtin::open(options.clone()).await.expect("opens");
        runtime.import_builtin(IMAGE, &busybox(), &["/bin/sh".into()]).await.expect("imports");
        let mut bed = Self {
            api: Api::new(),
            runtime,
            network: Arc::default(),
            options,
            dir,
            trust: None,
            stop: kit::Shutdown::new(),
            task: None,
        };
        bed.start().await;
        Some(bed)
    }

    /// Starts the agent and waits until its node is Ready.
    pub async fn start(&mut self) {
        let secret = |key: &rcgen::KeyPair| {
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("key")
        };
        let mut root = rcgen::CertificateParams::new(Vec::new()).expect("params");
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root_key = rcgen::KeyPair::generate().expect("key");
        let ca = root.self_signed(&root_key).expect("signed").der().clone();
        let issuer = rcgen::Issuer::new(root, root_key);
        let leaf = |name: &str| {
            let mut params = rcgen::CertificateParams::new(vec!["n1".to_owned()]).expect("params");
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = rcgen::KeyPair::generate().expect("key");
            let cert = params.signed_by(&key, &issuer).expect("signed").der().clone();
            (vec![cert], secret(&key))
        };
        let (chain, key) = leaf("n1");
        let key = kit::pki::PrivateKey::from_pkcs8(key.secret_der()).expect("key");
        let own = kit::pki::Leaf::new(key, chain).expect("leaf");
        let own = kit::pki::RotatingCertificate::new(&own).expect("certificate");
        let tls = node::tls_config(own, vec![ca.clone()]).expect("tls");
        let (chain, key) = leaf("kube-apiserver-kubelet-client");
        self.trust = Some((ca, chain, key));
        let data = camino::Utf8PathBuf::from_path_buf(self.dir.path().join("node")).expect("utf8");
        let mut config = Config::new("n1", data, Arc::new(tls));
        config.addresses = vec!["127.0.0.1".parse().expect("ip")];
        config.listen = "127.0.0.1:0".parse().expect("address");
        config.cluster_dns = vec!["10.96.0.10".parse().expect("ip")];
        self.stop = kit::Shutdown::new();
        let (client, runtime) = (self.api.client(), self.runtime.clone() as Arc<dyn Runtime>);
        let (network, stop) = (self.network.clone() as Arc<dyn PodNetwork>, self.stop.clone());
        self.task = Some(tokio::spawn(async move {
            node::run(client, runtime, network, config, stop).await.expect("runs");
        }));
        let ready = |n: Option<&Value>| {
            let conditions = n.map(|n| n["status"]["conditions"].clone()).unwrap_or_default();
            conditions.as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        self.api.wait("/api/v1/nodes/n1", "node Ready", ready).await;
    }

    /// A connection to the kubelet API, with or without the API server's certificate.
    pub async fn connect(&self, known: bool) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        let (ca, chain, key) = self.trust.as_ref().expect("started");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.clone()).expect("ca");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = if known {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).expect("certificate")
        } else {
            builder.with_no_client_auth()
        };
        let node = self.api.get("/api/v1/nodes/n1").expect("node");
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().expect("port");
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).expect("port"))).await;
        let name = "n1".try_into().expect("name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, tcp.expect("connects")).await.expect("handshake")
    }

    pub async fn halt(&mut self) {
        self.stop.trigger();
        if let Some(task) = self.task.take() {
            task.await.expect("agent ends");
        }
    }

    /// The agent ends and a new runtime takes over, as after a restart of the process.
    pub async fn restart(&mut self) {
        self.halt().await;
        self.runtime = Builtin::open(self.options.clone()).await.expect("reopens");
        self.start().await;
    }

    pub fn pod(&self, name: &str, spec: Value) -> String {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        for (key, default) in
            [("restartPolicy", json!("Always")), ("terminationGracePeriodSeconds", json!(2))]
        {
            if spec[key].is_null() {
                spec[key] = default;
            }
        }
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        self.api.put(
            &path,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default",
                "labels": {"app": name}}, "spec": spec}),
        );
        path
    }

    /// As a DELETE of the pod by a user does.
    pub fn delete(&self, path: &str, grace: i64) {
        let mut pod = self.api.get(path).expect("pod");
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.api.put(path, pod);
    }

    pub async fn ready(&self, path: &str) -> Value {
        let is = |p: Option<&Value>| p.is_some_and(|p| condition(p, "Ready") == "True");
        self.api.wait(path, "pod Ready", is).await.expect("pod")
    }

    pub async fn phase(&self, path: &str, phase: &str) -> Value {
        let is = |p: Option<&Value>| p.is_some_and(|p| p["status"]["phase"] == phase);
        self.api.wait(path, phase, is).await.expect("pod")
    }

    pub async fn gone(&self, path: &str) {
        self.api.wait(path, "gone", |p| p.is_none()).await;
    }

    pub async fn exec(&self, pod: &Value, command: &str) -> String {
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().expect("id");
        let id = id.trim_start_matches("ironclad://");
        let words = ["sh".to_owned(), "-c".to_owned(), command.to_owned()];
        let out = self.runtime.exec_sync(id, &words, std::time::Duration::from_secs(20)).await.expect("exec");
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned()
    }

    pub fn reasons(&self, pod: &str) -> Vec<String> {
        self.api
            .list("/api/v1/namespaces/default/events/")
            .into_iter()
            .filter(|e| e["involvedObject"]["name"] == pod)
            .filter_map(|e| Some(e["reason"].as_str()?.to_owned()))
            .collect()
    }

    /// Everything of this runtime is removed.
    pub async fn down(mut self) {
        self.halt().await;
        for s in self.runtime.list_pod_sandboxes().await.expect("list") {
            let _ = self.runtime.stop_pod_sandbox(&s.id).await;
            let _ = self.runtime.remove_pod_sandbox(&s.id).await;
        }
    }
}

pub fn condition(pod: &Value, type_: &str) -> String {
    let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|c| c["type"] == type_);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default().to_owned()
}

pub fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

/// Ends at once when asked to.
pub const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
