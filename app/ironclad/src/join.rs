//! How a node whose control plane runs elsewhere gets its certificates, and keeps them fresh while it runs: requests of
//! the signers `kubernetes.io/kube-apiserver-client-kubelet` (what it is to the API server) and
//! `kubernetes.io/kubelet-serving` (what it is to those who call it), kept in the data directory.

use crate::data_dir::{DataDir, write_atomically};
use crate::node_stack::{Serving, sans_of, user_of};
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::{Utf8Path, Utf8PathBuf};
use client::Rotating;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::ConfigMap;
use kit::Shutdown;
use kit::pki::{Leaf, PrivateKey, RotatingCertificate, Sans, Subject, new_request, pem};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::task::JoinSet;

/// Longest sleep between looks at a certificate's age, and the shortest.
const DAY: Duration = Duration::from_secs(24 * 3600);
const PAUSE: Duration = Duration::from_secs(60);
/// A renewal that nobody approved is asked for again after this long.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A kind of certificate this node asks for.
#[derive(Clone, Copy)]
struct Wanted {
    signer: &'static str,
    usage: &'static str,
    /// Of the request's name and of the files.
    name: &'static str,
}

const SERVING: Wanted =
    Wanted { signer: "kubernetes.io/kubelet-serving", usage: "server auth", name: "serving" };
const CLIENT: Wanted =
    Wanted { signer: "kubernetes.io/kube-apiserver-client-kubelet", usage: "client auth", name: "client" };

/// Who this node is to the API server.
pub struct Credentials {
    settings: kube::Config,
    folder: Utf8PathBuf,
    node: String,
    /// Got by a request of our own.
    kept: Option<Leaf>,
    client: Client,
    rotating: Rotating,
}

fn read_leaf(folder: &Utf8Path, name: &str) -> Option<Leaf> {
    let read = |end: &str| std::fs::read(folder.join(format!("{name}.{end}"))).ok();
    let leaf = Leaf::from_pem(&read("crt")?, &read("key")?).ok()?;
    (leaf.not_after.unix_timestamp() > now()).then_some(leaf)
}

fn now() -> i64 {
    k8s_openapi::jiff::Timestamp::now().as_second()
}

fn keep(folder: &Utf8Path, name: &str, leaf: &Leaf) -> Result<()> {
    // A crash between the two leaves a pair that does not match, which is asked for anew.
    write_atomically(&folder.join(format!("{name}.key")), leaf.key_pem().as_bytes(), 0o600)?;
    write_atomically(&folder.join(format!("{name}.crt")), leaf.certificate_pem().as_bytes(), 0o600)
}

/// `settings` with this certificate for its only credential.
fn with_certificate(settings: &kube::Config, leaf: &Leaf) -> Result<Client> {
    let mut settings = settings.clone();
    let key: serde_json::Value = json!({
        "client-certificate-data": STANDARD.encode(leaf.certificate_pem()),
        "client-key-data": STANDARD.encode(leaf.key_pem()),
    });
    settings.auth_info = serde_json::from_value(key)?;
    Ok(client::remote_config(settings)?)
}

impl Credentials {
    /// The certificate kept from an earlier start where there is one, the kubeconfig's credentials otherwise. Makes
    /// nothing.
    pub async fn find(kubeconfig: &Utf8Path, data_dir: &Utf8Path, node: &str) -> Result<Self> {
        let settings = client::settings(kubeconfig, &client::user_agent("kubelet", "")).await?;
        let folder = data_dir.join("agent");
        let kept = read_leaf(&folder, CLIENT.name).filter(|leaf| leaf.common_name() == user_of(node));
        let first = match &kept {
            Some(leaf) => with_certificate(&settings, leaf)?,
            None => client::remote_config(settings.clone())?,
        };
        let rotating = Rotating::new(first);
        Ok(Self { client: rotating.client(), settings, folder, node: node.into(), kept, rotating })
    }

    /// Follows every renewal.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// With a bootstrap token, becomes the node; then renews the node's certificate until `stop`. A kubeconfig of
    /// somebody else (an administrator) stays what it is.
    pub async fn become_node(
        mut self,
        data: &DataDir,
        progress: &Progress,
        stop: &Shutdown,
        tasks: &mut JoinSet<()>,
    ) -> Result<Client> {
        self.folder = data.folder("agent")?;
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let me = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await;
        let me = me.context("ask the cluster who this node is")?;
        let me = me.status.and_then(|s| s.user_info?.username).unwrap_or_default();
        if me.starts_with("system:bootstrap:") {
            let leaf = self.renew(false, Some(progress)).await?;
            progress.step("joined: client certificate signed");
            self.kept = Some(leaf);
        } else if me != user_of(&self.node) {
            return Ok(self.client);
        }
        let client = self.client.clone();
        let stop = stop.clone();
        tasks.spawn(async move { self.keep_fresh(stop).await });
        Ok(client)
    }

    /// A new certificate, kept and put into use.
    async fn renew(&self, approve: bool, progress: Option<&Progress>) -> Result<Leaf> {
        let leaf = ask(&self.client, &self.node, CLIENT, &Sans::default(), approve, progress).await?;
        keep(&self.folder, CLIENT.name, &leaf)?;
        self.rotating.replace(with_certificate(&self.settings, &leaf)?);
        Ok(leaf)
    }

    async fn keep_fresh(mut self, stop: Shutdown) {
        loop {
            let left = match &self.kept {
                Some(leaf) => leaf.renew_in(),
                None => match self.own_certificate_left() {
                    Some(left) => left,
                    // A token: whoever gave it renews it.
                    None => return,
                },
            };
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(left.clamp(PAUSE, DAY)) => {}
            }
            if left > PAUSE {
                continue;
            }
            let renewed = tokio::select! {
                () = stop.wait() => return,
                renewed = tokio::time::timeout(PATIENCE, self.renew(false, None)) => renewed,
            };
            match renewed {
                Ok(Ok(leaf)) => {
                    tracing::info!(not_after = %leaf.not_after, "the node's client certificate was renewed");
                    self.kept = Some(leaf);
                }
                Ok(Err(error)) => tracing::warn!(
                    error = format!("{error:#}"),
                    "the node's client certificate was not renewed"
                ),
                Err(_) => tracing::warn!("nobody approved the renewal of the node's client certificate"),
            }
        }
    }

    /// How long the kubeconfig's own certificate is still good for, less a fifth of a year's margin.
    fn own_certificate_left(&self) -> Option<Duration> {
        let info = &self.settings.auth_info;
        let text = match (&info.client_certificate_data, &info.client_certificate) {
            (Some(data), _) => STANDARD.decode(data).ok()?,
            (None, Some(file)) => std::fs::read(file).ok()?,
            (None, None) => return None,
        };
        let chain = pem::certificates(&text).ok()?;
        let until = kit::pki::not_after(chain.first()?).ok()?;
        let margin = 73 * 24 * 3600;
        Some(Duration::from_secs(u64::try_from(until - margin - now()).unwrap_or(0)))
    }
}

/// The serving certificate kept from an earlier start, or a new one, renewed until `stop`. Approves its own requests
/// where the kubeconfig may; otherwise waits for somebody's `kubectl certificate approve`.
pub async fn serving(
    client: &Client,
    data: &DataDir,
    kubeconfig: &Utf8Path,
    node: &str,
    address: Ipv4Addr,
    progress: &Progress,
    stop: &Shutdown,
    tasks: &mut JoinSet<()>,
) -> Result<Serving> {
    let client_ca = authority(client, kubeconfig).await?;
    let folder = data.folder("agent")?;
    let sans = sans_of(node, address);
    let leaf = match read_leaf(&folder, SERVING.name).filter(|leaf| !leaf.renew_in().is_zero()) {
        Some(leaf) => leaf,
        None => {
            let leaf = ask(client, node, SERVING, &sans, true, Some(progress)).await?;
            keep(&folder, SERVING.name, &leaf)?;
            progress.step("serving certificate signed");
            leaf
        }
    };
    let certificate = RotatingCertificate::new(&leaf)?;
    let (client, node, slot, stop) = (client.clone(), node.to_owned(), certificate.clone(), stop.clone());
    tasks.spawn(async move {
        loop {
            let left = slot.renew_in();
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(left.clamp(PAUSE, DAY)) => {}
            }
            if left > PAUSE {
                continue;
            }
            let asked = tokio::time::timeout(PATIENCE, ask(&client, &node, SERVING, &sans, true, None));
            let asked = tokio::select! {
                () = stop.wait() => return,
                asked = asked => asked,
            };
            let renewed = match asked {
                Ok(Ok(leaf)) => keep(&folder, SERVING.name, &leaf)
                    .and_then(|()| Ok(slot.replace(&leaf)?))
                    .map(|()| leaf.not_after),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(anyhow::anyhow!("nobody approved its request")),
            };
            match renewed {
                Ok(not_after) => tracing::info!(%not_after, "the node's serving certificate was renewed"),
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "the node's serving certificate was not renewed"
                ),
            }
        }
    });
    Ok(Serving { certificate, client_ca })
}

/// Who signs the API server's and other clients' certificates: the kubeconfig's authority, or the one the cluster
/// publishes.
async fn authority(client: &Client, kubeconfig: &Utf8Path) -> Result<Vec<CertificateDer<'static>>> {
    let settings = client::settings(kubeconfig, "").await?;
    if let Some(roots) = settings.root_cert.filter(|r| !r.is_empty()) {
        return Ok(roots.into_iter().map(CertificateDer::from).collect());
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map =
        maps.get("kube-root-ca.crt").await.context("read the cluster's CA (config map kube-root-ca.crt)")?;
    let ca = map.data.and_then(|mut d| d.remove("ca.crt")).context("kube-root-ca.crt holds no ca.crt")?;
    pem::certificates(ca.as_bytes()).context("read the cluster's CA")
}

/// Makes a request with a new key and waits for its certificate. `approve`: tries to approve it itself.
async fn ask(
    client: &Client,
    node: &str,
    wanted: Wanted,
    sans: &Sans,
    approve: bool,
    progress: Option<&Progress>,
) -> Result<Leaf> {
    let Wanted { signer, usage, name: kind } = wanted;
    let key = PrivateKey::generate()?;
    let request = new_request(&key, &Subject::new(user_of(node), &["system:nodes"]), sans)?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut made: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"generateName": format!("node-{kind}-{node}-")},
        "spec": {"signerName": signer, "request": "", "usages": ["digital signature", usage]},
    }))?;
    made.spec.request = ByteString(request.into_bytes());
    let created = api.create(&PostParams::default(), &made).await;
    let mut created = created.with_context(|| format!("request a {kind} certificate"))?;
    let name = created.name_any();
    if approve {
        let approved = CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AgentApprove".into()),
            message: Some("approved with the kubeconfig that `ironclad agent` was given".into()),
            ..CertificateSigningRequestCondition::default()
        };
        created.status.get_or_insert_default().conditions.get_or_insert_default().push(approved);
        match api.replace_subresource("approval", &name, &PostParams::default(), &created).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 403 => match progress {
                Some(progress) => {
                    progress.step(&format!("waiting for `kubectl certificate approve {name}`"));
                }
                None => tracing::warn!(request = name, "a certificate request waits for its approval"),
            },
            Err(error) => return Err(error).with_context(|| format!("approve the request {name}")),
        }
    }
    let ended = |r: Option<&CertificateSigningRequest>| {
        r.and_then(|r| r.status.as_ref()).is_none_or(|s| {
            let over = |kind: &str| s.conditions.iter().flatten().any(|c| c.type_ == kind);
            s.certificate.as_ref().is_some_and(|c| !c.0.is_empty()) || over("Denied") || over("Failed")
        })
    };
    let answered = client::until(api, &name, ended).await;
    let answered = answered.with_context(|| format!("wait for the {kind} certificate"))?;
    let status = answered.and_then(|r| r.status);
    match status.as_ref().and_then(|s| s.certificate.clone()).filter(|c| !c.0.is_empty()) {
        Some(certificate) => {
            Leaf::from_pem(&certificate.0, key.to_pem().as_bytes()).context("read the signed certificate")
        }
        None => {
            let why =
                status.and_then(|s| s.conditions?.pop()?.message).unwrap_or_else(|| "it was deleted".into());
            bail!("the request {name} for a {kind} certificate was not signed: {why}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kit::pki::{Authority, LeafSpec};

    #[test]
    fn kept_certificates_are_found_again_while_they_last() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(dir.path()).unwrap();
        assert!(read_leaf(folder, CLIENT.name).is_none());
        let authority = Authority::generate("ca").unwrap();
        let leaf = authority.issue(&LeafSpec::client(user_of("n1"), &["system:nodes"])).unwrap();
        keep(folder, CLIENT.name, &leaf).unwrap();
        assert_eq!(read_leaf(folder, CLIENT.name).unwrap().common_name(), "system:node:n1");
        // Another certificate's key, as a crash between the two writes leaves it.
        let other = authority.issue(&LeafSpec::client("x", &[])).unwrap();
        std::fs::write(folder.join("client.key"), other.key_pem()).unwrap();
        assert!(read_leaf(folder, CLIENT.name).is_none());
    }
}
