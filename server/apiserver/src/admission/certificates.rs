//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may approve and sign what.

use super::{Denied, Operation, Plugin, Request};
use crate::authorization::{Attributes, Authorizer};
use crate::reader::text;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::sync::Arc;

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Permission for a signer: by its full name, or for all signers of its domain.
async fn permitted(authorizer: &dyn Authorizer, r: &Request<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or("", |(domain, _)| domain);
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let question = Attributes {
            user: r.user.clone(),
            verb: verb.into(),
            api_group: GROUP.into(),
            api_version: "*".into(),
            resource: "signers".into(),
            name,
            resource_request: true,
            ..Attributes::default()
        };
        if authorizer.authorize(&question).await.is_allowed() {
            return true;
        }
    }
    false
}

pub(super) struct CertificateApproval {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateApproval {
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        (r.group, r.resource, r.subresource) == (GROUP, RESOURCE, "approval")
            && r.operation == Operation::Update
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        // The signer is what was asked for, whatever the update says.
        let Some(request) = r.old.or(object) else { return Ok(()) };
        let signer = text(request, "/spec/signerName");
        if permitted(&*self.authorizer, r, "approve", signer).await {
            return Ok(());
        }
        Err(Denied::forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

pub(super) struct CertificateSigning {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateSigning {
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        (r.group, r.resource, r.subresource) == (GROUP, RESOURCE, "status")
            && r.operation == Operation::Update
    }

    async fn validate(&self, r: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let Some((old, new)) = r.old.zip(object) else { return Ok(()) };
        let failed = |o: &Value| {
            let conditions = o["status"]["conditions"].as_array();
            conditions.is_some_and(|c| c.iter().any(|c| text(c, "/type") == "Failed"))
        };
        if old["status"]["certificate"] == new["status"]["certificate"] && failed(old) == failed(new) {
            return Ok(());
        }
        let signer = text(old, "/spec/signerName");
        if permitted(&*self.authorizer, r, "sign", signer).await {
            return Ok(());
        }
        Err(Denied::forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

/// Nobody becomes system:masters by a certificate request.
pub(super) struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, r: &Request<'_>) -> bool {
        r.is(GROUP, RESOURCE, &[Operation::Create])
    }

    async fn validate(&self, _: &Request<'_>, object: Option<&Value>) -> Result<(), Denied> {
        let Some(object) = object.filter(|o| text(o, "/spec/signerName") == CLIENT_SIGNER) else {
            return Ok(());
        };
        let bad = || Denied::forbidden("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST");
        let pem = STANDARD.decode(text(object, "/spec/request")).map_err(|_| bad())?;
        let request = kit::pki::Request::from_pem(&pem).map_err(|_| bad())?;
        if request.subject.organizations.iter().any(|o| o == "system:masters") {
            return Err(Denied::forbidden(format!(
                "use of {CLIENT_SIGNER} signer with system:masters group is not allowed"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::testing::Ask;
    use super::*;
    use crate::authentication::UserInfo;
    use crate::authorization::Decision;
    use kit::pki::{PrivateKey, Sans, Subject, new_request};
    use serde_json::json;

    /// Allows `verb` on one signer name.
    struct Only(&'static str, &'static str);

    #[async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, a: &Attributes) -> Decision {
            let reason = String::new();
            if (a.verb.as_str(), a.name.as_str(), a.resource.as_str()) == (self.0, self.1, "signers") {
                return Decision::Allow { reason };
            }
            Decision::NoOpinion { reason }
        }
        async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
            Default::default()
        }
    }

    fn csr(certificate: Value) -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"signerName": "example.com/s"}, "status": {"certificate": certificate}})
    }

    #[tokio::test]
    async fn approving_and_signing_need_the_signer() {
        let approve = |name| CertificateApproval::new(Arc::new(Only("approve", name)));
        let ask = Ask::update(GROUP, RESOURCE, csr(Value::Null)).sub("approval");
        ask.run(&approve("example.com/s"), csr(Value::Null)).await.unwrap();
        ask.run(&approve("example.com/*"), csr(Value::Null)).await.unwrap();
        let refused = ask.run(&approve("example.com/t"), csr(Value::Null)).await.unwrap_err();
        assert_eq!(
            refused.message,
            "user not permitted to approve requests with signerName \"example.com/s\""
        );
        let sign = |name| CertificateSigning::new(Arc::new(Only("sign", name)));
        let ask = Ask::update(GROUP, RESOURCE, csr(Value::Null)).sub("status");
        ask.run(&sign("example.com/s"), csr(json!("x"))).await.unwrap();
        assert!(ask.run(&sign("example.com/t"), csr(json!("x"))).await.is_err());
        // Other changes of the status are not signing.
        ask.run(&sign("example.com/t"), csr(Value::Null)).await.unwrap();
    }

    #[tokio::test]
    async fn masters_cannot_be_requested() {
        let ask = |group: &str| {
            let key = PrivateKey::generate().unwrap();
            let pem = new_request(&key, &Subject::new("jane", &[group]), &Sans::default()).unwrap();
            json!({"metadata": {}, "spec": {"signerName": CLIENT_SIGNER, "request": STANDARD.encode(pem)}})
        };
        let create = Ask::create(GROUP, RESOURCE);
        create.run(&CertificateSubjectRestriction, ask("dev")).await.unwrap();
        assert!(create.run(&CertificateSubjectRestriction, ask("system:masters")).await.is_err());
    }
}
