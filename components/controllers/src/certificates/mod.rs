//! Certificate requests: kubelets' client certificates are approved, approved requests of the built-in signers are
//! signed, old ones are swept away.

pub mod approve;
pub mod clean;
pub mod sign;

/// Whom all three run as.
const IDENTITY: &str = "certificate-controller";

pub(crate) const SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const LEGACY: &str = "kubernetes.io/legacy-unknown";

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kit::pki::Request;

/// Whether the request bears a condition of this type that is true.
fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

/// Exactly these usages, with or without key encipherment (which keys other than RSA have no use for).
fn usages_are(asked: &[String], wanted: [&str; 2]) -> Result<(), String> {
    let mut asked: Vec<&str> =
        asked.iter().map(String::as_str).filter(|u| *u != "key encipherment").collect();
    asked.sort_unstable();
    asked.dedup();
    let mut all = wanted.to_vec();
    all.sort_unstable();
    if asked == all {
        return Ok(());
    }
    all.push("key encipherment");
    all.sort_unstable();
    Err(format!("usages did not match [{}]", all.join(" ")))
}

/// What a kubelet's client certificate may ask for.
pub(crate) fn check_kubelet_client(read: &Request, usages: &[String]) -> Result<(), String> {
    if read.subject.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    if !read.sans.dns.is_empty() {
        return Err("DNS subjectAltNames are not allowed".into());
    }
    if read.other_names {
        return Err("Email subjectAltNames are not allowed".into());
    }
    if !read.sans.is_empty() {
        return Err("IP subjectAltNames are not allowed".into());
    }
    if !read.subject.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node: ".into());
    }
    usages_are(usages, ["client auth", "digital signature"])
}

/// What a kubelet's serving certificate may ask for.
fn check_kubelet_serving(read: &Request, usages: &[String]) -> Result<(), String> {
    if read.subject.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    if read.sans.is_empty() {
        return Err("DNS or IP subjectAltName is required".into());
    }
    if read.other_names {
        return Err("Email subjectAltNames are not allowed".into());
    }
    usages_are(usages, ["digital signature", "server auth"])?;
    if !read.subject.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node: ".into());
    }
    Ok(())
}

fn check_client(usages: &[String]) -> Result<(), String> {
    for usage in usages {
        if !matches!(usage.as_str(), "digital signature" | "key encipherment" | "client auth") {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    if !usages.iter().any(|u| u == "client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}
