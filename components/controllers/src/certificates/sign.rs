//! Signs approved certificate requests of the built-in signers (upstream's `csrsigning`): kubelets' serving and client
//! certificates and API clients. Approval is somebody else's decision; a request that a signer must not honour gets the
//! condition Failed.

use std::time::Duration;

use client::WorkQueue;
use client::controller::Outcome;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kit::pki::{Authority, Request, Usages, YEAR};
use kube::ResourceExt;
use kube::api::{Api, PostParams};

use super::{CLIENT, IDENTITY, KUBELET, LEGACY, SERVING, has, is_issued};
use super::{check_client, check_kubelet_client, check_kubelet_serving};
use crate::{Context, Error, synced};

const NAME: &str = "csrsigning";
/// Upstream's shortest `expirationSeconds`.
const SHORTEST: Duration = Duration::from_secs(600);

/// Returns at once when the configuration holds no authority.
pub async fn run(cx: Context) -> Result<(), Error> {
    let Some(authority) = cx.config.signer.clone() else { return Ok(()) };
    let client = cx.client_for(IDENTITY);
    let requests = cx.informers.informer::<CertificateSigningRequest>();
    if !synced!(cx, requests) {
        return Ok(());
    }
    let queue = WorkQueue::<String>::new().named("certificate");
    let sink = queue.clone();
    requests.subscribe(move |change| {
        if !change.is_deleted() && is_waiting(change.object()) {
            sink.add(change.object().name_any());
        }
    });
    client::controller::run(NAME, 1, queue, cx.stop.clone(), |name| {
        let (client, requests, authority) = (&client, &requests, &authority);
        async move {
            let Some(current) = requests.get(&client::ObjectKey::cluster(&name)).filter(|r| is_waiting(r))
            else {
                return Ok(Outcome::DONE);
            };
            let mut answered = (*current).clone();
            answer(&mut answered, authority);
            let api: Api<CertificateSigningRequest> = Api::all(client.clone());
            api.replace_status(&name, &PostParams::default(), &answered).await.map(|_| Outcome::DONE)
        }
    })
    .await;
    Ok(())
}

/// Approved, for a signer of ours, and neither signed nor failed.
fn is_waiting(request: &CertificateSigningRequest) -> bool {
    [SERVING, KUBELET, CLIENT, LEGACY].contains(&request.spec.signer_name.as_str())
        && has(request, "Approved")
        && !has(request, "Denied")
        && !has(request, "Failed")
        && !is_issued(request)
}

/// Fills `status.certificate`, or adds the condition that says why not.
fn answer(request: &mut CertificateSigningRequest, authority: &Authority) {
    let signed = check(&request.spec).and_then(|(read, usages)| {
        let asked = request.spec.expiration_seconds.map_or(YEAR, |s| Duration::from_secs(s.max(0) as u64));
        authority.sign_request(&read, usages, asked.clamp(SHORTEST, YEAR)).map_err(|e| e.to_string())
    });
    let status = request.status.get_or_insert_default();
    match signed {
        Ok(certificate) => status.certificate = Some(ByteString(certificate.into_bytes())),
        Err(message) => {
            let now = Time(jiff::Timestamp::now());
            status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".into(),
                status: "True".into(),
                reason: Some("SignerValidationFailure".into()),
                message: Some(message),
                last_transition_time: Some(now.clone()),
                last_update_time: Some(now),
            });
        }
    }
}

/// Whether the signer may honour the request, and what the certificate is for: what was asked, which the checks have
/// narrowed to what the signer grants.
fn check(spec: &CertificateSigningRequestSpec) -> Result<(Request, Usages), String> {
    let read = Request::from_pem(&spec.request.0).map_err(|e| e.to_string())?;
    let asked = spec.usages.as_deref().unwrap_or_default();
    match spec.signer_name.as_str() {
        SERVING => check_kubelet_serving(&read, asked)?,
        KUBELET => check_kubelet_client(&read, asked)?,
        CLIENT => check_client(asked)?,
        _ => {}
    }
    let wants = |usage: &str| asked.iter().any(|u| u == usage);
    let usages = Usages {
        server: wants("server auth"),
        client: wants("client auth"),
        digital_signature: wants("digital signature") || wants("signing"),
        key_encipherment: wants("key encipherment"),
    };
    Ok((read, usages))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kit::pki::{PrivateKey, Sans, Subject, new_request, pem};

    pub fn request(
        signer: &str,
        cn: &str,
        org: &[&str],
        sans: Sans,
        usage: &str,
    ) -> CertificateSigningRequest {
        let key = PrivateKey::generate().unwrap();
        let pem = new_request(&key, &Subject::new(cn, org), &sans).unwrap();
        let value = serde_json::json!({
            "metadata": {"name": "r"},
            "spec": {"signerName": signer, "usages": ["digital signature", usage], "request": ""},
            "status": {"conditions": [{"type": "Approved", "status": "True"}]},
        });
        let mut request: CertificateSigningRequest = serde_json::from_value(value).unwrap();
        request.spec.request = ByteString(pem.into_bytes());
        request
    }

    fn sans() -> Sans {
        Sans::new(["n1".to_owned()], [std::net::IpAddr::from([10, 0, 0, 1])])
    }

    #[test]
    fn a_kubelets_serving_certificate_is_signed() {
        let authority = Authority::generate("test").unwrap();
        let mut r = request(SERVING, "system:node:n1", &["system:nodes"], sans(), "server auth");
        assert!(is_waiting(&r));
        answer(&mut r, &authority);
        let certificate = r.status.clone().unwrap().certificate.unwrap();
        assert_eq!(pem::certificates(&certificate.0).unwrap().len(), 1);
        assert!(!is_waiting(&r));
    }

    #[test]
    fn what_a_signer_must_refuse_fails() {
        let authority = Authority::generate("test").unwrap();
        let none = Sans::default;
        for mut r in [
            request(SERVING, "n1", &["system:nodes"], sans(), "server auth"),
            request(SERVING, "system:node:n1", &["system:nodes"], none(), "server auth"),
            request(SERVING, "system:node:n1", &["system:nodes"], sans(), "client auth"),
            request(KUBELET, "system:node:n1", &["system:masters"], none(), "client auth"),
            request(CLIENT, "eve", &[], none(), "server auth"),
        ] {
            answer(&mut r, &authority);
            let status = r.status.clone().unwrap();
            assert!(status.certificate.is_none());
            assert_eq!(status.conditions.unwrap().last().unwrap().type_, "Failed");
            assert!(!is_waiting(&r));
        }
    }

    #[test]
    fn refusals_are_upstreams() {
        let none = Sans::default;
        for (r, wanted) in [
            (
                request(SERVING, "system:node:n", &["a"], sans(), "server auth"),
                "subject organization is not system:nodes",
            ),
            (
                request(SERVING, "system:node:n", &["system:nodes"], none(), "server auth"),
                "DNS or IP subjectAltName is required",
            ),
            (
                request(SERVING, "system:node:n", &["system:nodes"], sans(), "client auth"),
                "usages did not match [digital signature key encipherment server auth]",
            ),
            (
                request(KUBELET, "system:node:n", &["system:nodes"], sans(), "client auth"),
                "DNS subjectAltNames are not allowed",
            ),
            (
                request(CLIENT, "eve", &[], none(), "server auth"),
                "invalid usage for client certificate: server auth",
            ),
        ] {
            assert_eq!(check(&r.spec).unwrap_err(), wanted);
        }
        let legacy = request(LEGACY, "anything", &["x"], sans(), "server auth");
        assert!(is_waiting(&legacy) && check(&legacy.spec).is_ok());
    }

    #[test]
    fn what_is_not_approved_or_not_ours_waits() {
        let mut r = request(SERVING, "system:node:n1", &["system:nodes"], sans(), "server auth");
        r.status = None;
        assert!(!is_waiting(&r));
        let foreign = request("example.com/signer", "x", &[], Sans::default(), "client auth");
        assert!(!is_waiting(&foreign));
    }
}
