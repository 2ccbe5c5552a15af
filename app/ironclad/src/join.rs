//! How a node whose control plane runs elsewhere gets its serving certificate: a CertificateSigningRequest of the
//! signer `kubernetes.io/kubelet-serving`, kept in the data directory until it nears its end.

use crate::data_dir::{DataDir, write_atomically};
use crate::node_stack::{Serving, sans_of, user_of};
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::ConfigMap;
use kit::pki::{Leaf, PrivateKey, Subject, new_request, pem};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::net::Ipv4Addr;

const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// The certificate kept from an earlier start, or a new one. Approves its own request where the kubeconfig may;
/// otherwise waits for somebody's `kubectl certificate approve`.
pub async fn serving(
    client: &Client,
    data: &DataDir,
    node: &str,
    address: Ipv4Addr,
    progress: &Progress,
) -> Result<Serving> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map =
        maps.get("kube-root-ca.crt").await.context("read the cluster's CA (config map kube-root-ca.crt)")?;
    let ca = map.data.and_then(|mut d| d.remove("ca.crt")).context("kube-root-ca.crt holds no ca.crt")?;
    let client_ca = pem::certificates(ca.as_bytes()).context("read the cluster's CA")?;

    let folder = data.folder("agent")?;
    let (certificate, key) = (folder.join("serving.crt"), folder.join("serving.key"));
    if let (Ok(certificate), Ok(key)) = (std::fs::read(&certificate), std::fs::read(&key))
        && let Ok(leaf) = Leaf::from_pem(&certificate, &key)
        && !leaf.renew_in().is_zero()
    {
        return Ok(Serving { leaf, client_ca });
    }
    let new_key = PrivateKey::generate()?;
    let subject = Subject::new(user_of(node), &["system:nodes"]);
    let request = new_request(&new_key, &subject, &sans_of(node, address))?;
    let signed = ask(client, node, request, progress).await?;
    write_atomically(&key, new_key.to_pem().as_bytes(), 0o600)?;
    write_atomically(&certificate, &signed, 0o600)?;
    let leaf = Leaf::from_pem(&signed, new_key.to_pem().as_bytes()).context("read the signed certificate")?;
    progress.step("serving certificate signed");
    Ok(Serving { leaf, client_ca })
}

async fn ask(client: &Client, node: &str, request: String, progress: &Progress) -> Result<Vec<u8>> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut wanted: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"generateName": format!("node-serving-{node}-")},
        "spec": {"signerName": SIGNER, "request": "", "usages": ["digital signature", "server auth"]},
    }))?;
    wanted.spec.request = ByteString(request.into_bytes());
    let mut created =
        api.create(&PostParams::default(), &wanted).await.context("request a serving certificate")?;
    let name = created.name_any();
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
        Err(kube::Error::Api(status)) if status.code == 403 => {
            progress.step(&format!("waiting for `kubectl certificate approve {name}`"));
        }
        Err(error) => return Err(error).context("approve the serving certificate's request"),
    }
    let ended = |r: Option<&CertificateSigningRequest>| {
        r.and_then(|r| r.status.as_ref()).is_none_or(|s| {
            let over = |kind: &str| s.conditions.iter().flatten().any(|c| c.type_ == kind);
            s.certificate.as_ref().is_some_and(|c| !c.0.is_empty()) || over("Denied") || over("Failed")
        })
    };
    let answered = client::until(api, &name, ended).await.context("wait for the serving certificate")?;
    let status = answered.and_then(|r| r.status);
    match status.as_ref().and_then(|s| s.certificate.clone()).filter(|c| !c.0.is_empty()) {
        Some(certificate) => Ok(certificate.0),
        None => {
            let why =
                status.and_then(|s| s.conditions?.pop()?.message).unwrap_or_else(|| "it was deleted".into());
            bail!("the request {name} for a serving certificate was not signed: {why}")
        }
    }
}
