//! Client certificates: common name is the user, organizations are the groups.

use super::bearer::fingerprint;
use super::{AuthenticationError, Authenticator, PeerCertificates, UserInfo};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Checked chains remembered; connections reuse theirs for every request.
const REMEMBERED: usize = 1024;

/// What a trusted certificate says.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    pub user: UserInfo,
    not_after: i64,
}

/// Verifies chains against the authorities in force, and remembers the outcome until the leaf expires or the
/// authorities change.
pub(super) struct Verifier(ArcSwap<Trusted>);

struct Trusted {
    verifier: Arc<dyn ClientCertVerifier>,
    seen: Mutex<HashMap<[u8; 32], Arc<Verified>>>,
}

impl Verifier {
    pub fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, AuthenticationError> {
        Ok(Self(ArcSwap::from_pointee(Trusted::new(authorities)?)))
    }

    pub fn replace(&self, authorities: &[CertificateDer<'static>]) -> Result<(), AuthenticationError> {
        self.0.store(Arc::new(Trusted::new(authorities)?));
        Ok(())
    }

    /// Whom the chain speaks for. Errors are worded like Go's `crypto/x509`.
    pub fn verify(&self, chain: &[Vec<u8>]) -> Result<Arc<Verified>, AuthenticationError> {
        self.0.load().verify(chain)
    }
}

impl Trusted {
    fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, AuthenticationError> {
        let bad = |e: String| AuthenticationError(format!("client certificate authority: {e}"));
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone()).map_err(|e| bad(e.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), kit::pki::provider())
            .build()
            .map_err(|e| bad(e.to_string()))?;
        Ok(Self { verifier, seen: Mutex::default() })
    }

    fn verify(&self, chain: &[Vec<u8>]) -> Result<Arc<Verified>, AuthenticationError> {
        let Some(leaf) = chain.first() else {
            return Err(AuthenticationError("x509: no certificate".into()));
        };
        let now = UnixTime::now();
        let key = fingerprint(leaf);
        let known = self.seen.lock().get(&key).filter(|v| v.not_after > now.as_secs() as i64).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let der = CertificateDer::from(leaf.as_slice());
        let rest: Vec<CertificateDer<'_>> =
            chain[1..].iter().map(|c| CertificateDer::from(c.as_slice())).collect();
        self.verifier.verify_client_cert(&der, &rest, now).map_err(|e| refusal(leaf, &e))?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|_| AuthenticationError("x509: malformed certificate".into()))?;
        let verified = Arc::new(Verified {
            user: user(&parsed, leaf),
            not_after: parsed.validity().not_after.timestamp(),
        });
        let mut seen = self.seen.lock();
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        seen.insert(key, verified.clone());
        Ok(verified)
    }
}

/// Attribute that carries a user's uid (Kubernetes' arc of the IANA enterprise numbers).
const UID_ATTRIBUTE: &str = "1.3.6.1.4.1.57683.2";

fn user(certificate: &X509Certificate<'_>, der: &[u8]) -> UserInfo {
    let subject = certificate.subject();
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let credential = format!("X509SHA256={}", hex::encode(fingerprint(der)));
    UserInfo {
        name: subject.iter_common_name().last().and_then(text).unwrap_or_default(),
        uid: subject
            .iter_attributes()
            .find(|a| a.attr_type().to_id_string() == UID_ATTRIBUTE)
            .and_then(text)
            .unwrap_or_default(),
        groups: subject.iter_organization().filter_map(text).collect(),
        extra: BTreeMap::from([("authentication.kubernetes.io/credential-id".into(), vec![credential])]),
    }
}

fn refusal(der: &[u8], error: &rustls::Error) -> AuthenticationError {
    use rustls::CertificateError as E;
    let reason = match error {
        rustls::Error::InvalidCertificate(E::Expired | E::ExpiredContext { .. })
        | rustls::Error::InvalidCertificate(E::NotValidYet | E::NotValidYetContext { .. }) => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        rustls::Error::InvalidCertificate(E::UnknownIssuer | E::BadSignature) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(E::InvalidPurpose | E::InvalidPurposeContext { .. }) => {
            "x509: certificate specifies an incompatible key usage".to_owned()
        }
        other => format!("x509: {other}"),
    };
    let serial =
        X509Certificate::from_der(der).map(|(_, c)| c.tbs_certificate.serial.to_string()).unwrap_or_default();
    AuthenticationError(format!("verifying certificate SN={serial} failed: {reason}"))
}

/// The x509 authenticator.
pub struct ClientCertificates(Verifier);

impl ClientCertificates {
    /// Trusts client certificates signed by one of `authorities`.
    pub fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, AuthenticationError> {
        Verifier::new(authorities).map(Self)
    }

    /// Trusts these from now on, and nobody else.
    pub fn replace(&self, authorities: &[CertificateDer<'static>]) -> Result<(), AuthenticationError> {
        self.0.replace(authorities)
    }
}

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(
        &self,
        request: &http::request::Parts,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(PeerCertificates(chain)) = request.extensions.get() else { return Ok(None) };
        if chain.is_empty() {
            return Ok(None);
        }
        let verified = self.0.verify(chain)?;
        // A certificate without a common name names nobody.
        Ok((!verified.user.name.is_empty()).then(|| verified.user.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kit::pki::{Authority, LeafSpec, Sans};
    use std::time::Duration;

    async fn ask(
        authority: &Authority,
        chain: Vec<Vec<u8>>,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let authenticator = ClientCertificates::new(&[authority.certificate().clone()]).unwrap();
        let mut parts = http::Request::new(()).into_parts().0;
        parts.extensions.insert(PeerCertificates(Arc::new(chain)));
        let first = authenticator.authenticate(&parts).await;
        assert_eq!(authenticator.authenticate(&parts).await, first, "the remembered answer is the same");
        first
    }

    fn chain(leaf: &kit::pki::Leaf) -> Vec<Vec<u8>> {
        leaf.chain.iter().map(|c| c.to_vec()).collect()
    }

    #[tokio::test]
    async fn names_and_groups_come_from_the_subject() {
        let ca = Authority::generate("kubernetes").unwrap();
        let leaf = ca.issue(&LeafSpec::client("jane", &["dev", "ops"])).unwrap();
        let user = ask(&ca, chain(&leaf)).await.unwrap().unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("jane", &["dev".to_owned(), "ops".into()][..])
        );
        let credential = &user.extra["authentication.kubernetes.io/credential-id"][0];
        assert_eq!(credential.len(), "X509SHA256=".len() + 64);
        let nobody = ca.issue(&LeafSpec::client("", &["dev"])).unwrap();
        assert_eq!(ask(&ca, chain(&nobody)).await.unwrap(), None);
        assert_eq!(ask(&ca, vec![]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn authorities_change_under_a_running_server() {
        let (old, new) = (Authority::generate("a").unwrap(), Authority::generate("b").unwrap());
        let authenticator = ClientCertificates::new(&[old.certificate().clone()]).unwrap();
        let ask = async |ca: &Authority| {
            let mut parts = http::Request::new(()).into_parts().0;
            let leaf = ca.issue(&LeafSpec::client("jane", &[])).unwrap();
            parts.extensions.insert(PeerCertificates(Arc::new(chain(&leaf))));
            authenticator.authenticate(&parts).await.is_ok()
        };
        assert!(ask(&old).await && !ask(&new).await);
        authenticator.replace(&[old.certificate().clone(), new.certificate().clone()]).unwrap();
        assert!(ask(&old).await && ask(&new).await);
        authenticator.replace(&[new.certificate().clone()]).unwrap();
        assert!(!ask(&old).await && ask(&new).await);
        assert!(authenticator.replace(&[CertificateDer::from(b"garbage".to_vec())]).is_err());
        assert!(ask(&new).await, "what cannot be used changes nothing");
    }

    #[tokio::test]
    async fn strangers_servers_and_the_expired_are_refused() {
        let ca = Authority::generate("kubernetes").unwrap();
        let refused = |e: Result<Option<UserInfo>, AuthenticationError>| e.unwrap_err().0;
        let stranger =
            Authority::generate("kubernetes").unwrap().issue(&LeafSpec::client("jane", &[])).unwrap();
        assert!(
            refused(ask(&ca, chain(&stranger)).await).ends_with("certificate signed by unknown authority")
        );
        let server = ca.issue(&LeafSpec::server("srv", Sans::new(["srv"], []))).unwrap();
        assert!(refused(ask(&ca, chain(&server)).await).ends_with("specifies an incompatible key usage"));
        let mut short = LeafSpec::client("jane", &[]);
        short.lifetime = Duration::ZERO;
        let expired = ca.issue(&short).unwrap();
        // Validity is whole seconds; the end of one that lives no time is at or before now.
        std::thread::sleep(Duration::from_millis(1100));
        assert!(refused(ask(&ca, chain(&expired)).await).ends_with("has expired or is not yet valid"));
        assert!(refused(ask(&ca, vec![b"garbage".to_vec()]).await).contains("x509"));
    }
}
