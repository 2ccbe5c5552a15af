//! Approves kubelets' client certificates for those who may ask for them (upstream's `csrapproving`): a node for
//! itself by `selfnodeclient`, somebody who joins nodes by `nodeclient`.

use super::{IDENTITY, KUBELET, check_kubelet_client, has, is_issued};
use crate::{Context, Error, synced};
use client::WorkQueue;
use client::controller::Outcome;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kit::pki::Request;
use kube::ResourceExt;
use kube::api::{Api, PostParams};

const NAME: &str = "csrapproving";

pub async fn run(cx: Context) -> Result<(), Error> {
    let client = cx.client_for(IDENTITY);
    let requests = cx.informers.informer::<CertificateSigningRequest>();
    if !synced!(cx, requests) {
        return Ok(());
    }
    let queue = WorkQueue::<String>::new();
    let sink = queue.clone();
    requests.subscribe(move |change| {
        if !change.is_deleted() && !ways(change.object()).is_empty() {
            sink.add(change.object().name_any());
        }
    });
    client::controller::run(NAME, 1, queue, cx.stop.clone(), |name| {
        let (client, requests) = (&client, &requests);
        async move {
            let Some(current) = requests.get(&client::ObjectKey::cluster(&name)) else {
                return Ok::<_, kube::Error>(Outcome::DONE);
            };
            let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
            for way in ways(&current) {
                let review = question(&current, way.subresource);
                let answer = reviews.create(&PostParams::default(), &review).await?;
                if answer.status.is_some_and(|s| s.allowed) {
                    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
                    let approved = approve(&current, way.message);
                    api.replace_subresource("approval", &name, &PostParams::default(), &approved).await?;
                    return Ok(Outcome::DONE);
                }
            }
            // Somebody else may approve it, and permissions may come later than the request.
            if ways(&current).is_empty() { Ok(Outcome::DONE) } else { Ok(Outcome::after(RETRY)) }
        }
    })
    .await;
    Ok(())
}

/// Between looks at a request that nobody may have approved by itself.
const RETRY: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    subresource: &'static str,
    message: &'static str,
}

const OWN: Way = Way {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const OTHER: Way = Way {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// The permissions any of which approves the request; none for requests that are settled or not a kubelet's.
fn ways(request: &CertificateSigningRequest) -> Vec<Way> {
    let settled = is_issued(request) || has(request, "Approved") || has(request, "Denied");
    if settled || request.spec.signer_name != KUBELET {
        return Vec::new();
    }
    let Ok(read) = Request::from_pem(&request.spec.request.0) else { return Vec::new() };
    if check_kubelet_client(&read, request.spec.usages.as_deref().unwrap_or_default()).is_err() {
        return Vec::new();
    }
    if request.spec.username.as_deref() == Some(&read.subject.common_name) {
        vec![OWN, OTHER]
    } else {
        vec![OTHER]
    }
}

fn question(request: &CertificateSigningRequest, subresource: &str) -> SubjectAccessReview {
    let spec = &request.spec;
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                verb: Some("create".into()),
                subresource: Some(subresource.into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

fn approve(request: &CertificateSigningRequest, message: &str) -> CertificateSigningRequest {
    let mut approved = request.clone();
    let status = approved.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: "Approved".into(),
        status: "True".into(),
        reason: Some("AutoApproved".into()),
        message: Some(message.into()),
        ..CertificateSigningRequestCondition::default()
    });
    approved
}

#[cfg(test)]
mod tests {
    use super::super::sign::tests::request;
    use super::*;
    use kit::pki::Sans;

    #[test]
    fn only_kubelets_client_certificates_are_considered() {
        let usage = "client auth";
        let mut own = request(KUBELET, "system:node:n1", &["system:nodes"], Sans::default(), usage);
        own.status = None;
        own.spec.username = Some("system:node:n1".into());
        assert_eq!(ways(&own), [OWN, OTHER]);
        let mut joining = own.clone();
        joining.spec.username = Some("system:bootstrap:abcdef".into());
        assert_eq!(ways(&joining), [OTHER]);
        let approved = approve(&own, OWN.message);
        assert!(has(&approved, "Approved") && ways(&approved).is_empty());
        let mut other = own.clone();
        other.spec.signer_name = super::super::CLIENT.into();
        assert!(ways(&other).is_empty());
        let mut master = request(KUBELET, "system:node:n1", &["system:masters"], Sans::default(), usage);
        master.status = None;
        assert!(ways(&master).is_empty());
        let mut garbage = own;
        garbage.spec.request.0 = b"x".to_vec();
        assert!(ways(&garbage).is_empty());
    }

    #[test]
    fn the_question_is_the_requesters() {
        let mut own = request(KUBELET, "system:node:n1", &["system:nodes"], Sans::default(), "client auth");
        own.spec.username = Some("jane".into());
        own.spec.groups = Some(vec!["g".into()]);
        let spec = question(&own, "nodeclient").spec;
        assert_eq!((spec.user.as_deref(), spec.groups), (Some("jane"), Some(vec!["g".into()])));
        assert_eq!(spec.resource_attributes.unwrap().subresource.as_deref(), Some("nodeclient"));
    }
}
