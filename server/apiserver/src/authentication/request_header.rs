//! The front proxy: a trusted client certificate whose holder says, in headers, whom it speaks for.

use super::certificates::Verifier;
use super::{AuthenticationError, Authenticator, PeerCertificates, UserInfo};
use async_trait::async_trait;
use http::HeaderMap;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA_PREFIX: &str = "x-remote-extra-";

/// Which headers say what, and who may send them (`--requestheader-*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderNames {
    pub user: Vec<String>,
    pub uid: Vec<String>,
    pub group: Vec<String>,
    pub extra_prefix: Vec<String>,
    /// Common names that may speak for others; empty: any certificate of the authority.
    pub allowed: Vec<String>,
}

impl Default for HeaderNames {
    fn default() -> Self {
        Self {
            user: vec!["X-Remote-User".into()],
            uid: vec!["X-Remote-Uid".into()],
            group: vec!["X-Remote-Group".into()],
            extra_prefix: vec!["X-Remote-Extra-".into()],
            allowed: vec!["front-proxy-client".into()],
        }
    }
}

/// Authenticates requests of the front proxy.
pub struct RequestHeader {
    verifier: Verifier,
    names: HeaderNames,
}

impl RequestHeader {
    pub fn new(
        authorities: &[CertificateDer<'static>],
        names: HeaderNames,
    ) -> Result<Self, AuthenticationError> {
        Ok(Self { verifier: Verifier::new(authorities)?, names })
    }

    /// Trusts these authorities from now on, and no others.
    pub fn replace(&self, authorities: &[CertificateDer<'static>]) -> Result<(), AuthenticationError> {
        self.verifier.replace(authorities)
    }
}

#[async_trait]
impl Authenticator for RequestHeader {
    async fn authenticate(
        &self,
        request: &http::request::Parts,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        // Without the user header there is nothing to vouch for, and the certificate is an ordinary client's.
        let headers = &request.headers;
        let name = first(headers, &self.names.user);
        if name.is_empty() {
            return Ok(None);
        }
        let Some(PeerCertificates(chain)) = request.extensions.get() else { return Ok(None) };
        let Ok(proxy) = self.verifier.verify(chain) else { return Ok(None) };
        let proxy = &proxy.user.name;
        if !self.names.allowed.is_empty() && !self.names.allowed.contains(proxy) {
            return Err(AuthenticationError(format!(
                "x509: subject with cn={proxy} is not in the allowed list"
            )));
        }
        let groups = self.names.group.iter().flat_map(|name| headers.get_all(name));
        let groups = groups.filter_map(|v| v.to_str().ok()).map(str::to_owned);
        let mut extra = BTreeMap::new();
        for prefix in &self.names.extra_prefix {
            for (key, values) in prefixed(headers, &prefix.to_ascii_lowercase()) {
                extra.entry(key).or_insert_with(Vec::new).extend(values);
            }
        }
        Ok(Some(UserInfo { name, uid: first(headers, &self.names.uid), groups: groups.collect(), extra }))
    }
}

/// The headers that speak for another user; they must not reach a backend.
pub fn is_request_header(name: &str) -> bool {
    name == USER || name == UID || name == GROUP || name.starts_with(EXTRA_PREFIX)
}

/// The first of these headers that says something.
fn first(headers: &HeaderMap, names: &[String]) -> String {
    let values = names.iter().filter_map(|n| headers.get(n)?.to_str().ok());
    values.map(str::trim).find(|v| !v.is_empty()).unwrap_or_default().to_owned()
}

/// Headers `<prefix><key>`, keys in lower case and percent-decoded.
pub(super) fn prefixed(headers: &HeaderMap, prefix: &str) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(prefix), value.to_str()) {
            out.entry(percent_decode(key)).or_default().push(value.to_owned());
        }
    }
    out
}

/// Undoes `url.PathEscape`; text that is not an escape is kept.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let decoded = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match decoded {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned()).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kit::pki::{Authority, LeafSpec};
    use std::sync::Arc;

    #[tokio::test]
    async fn only_the_front_proxy_may_speak_for_others() {
        let ca = Authority::generate("front-proxy-ca").unwrap();
        let authenticator = RequestHeader::new(&[ca.certificate().clone()], HeaderNames::default()).unwrap();
        let request = |ca: &Authority, cn: &str, user: &str| {
            let leaf = ca.issue(&LeafSpec::client(cn, &[])).unwrap();
            let mut parts = http::Request::builder()
                .header("X-Remote-User", user)
                .header("X-Remote-Group", "a")
                .header("X-Remote-Group", "b")
                .header("X-Remote-Extra-Acme.com%2Fproject", "p1")
                .body(())
                .unwrap()
                .into_parts()
                .0;
            parts.extensions.insert(PeerCertificates(Arc::new(vec![leaf.chain[0].to_vec()])));
            parts
        };
        let user =
            authenticator.authenticate(&request(&ca, "front-proxy-client", "jane")).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups.len()), ("jane", 2));
        assert_eq!(user.extra["acme.com/project"], ["p1"]);
        let error = authenticator.authenticate(&request(&ca, "other", "jane")).await.unwrap_err();
        assert_eq!(error.0, "x509: subject with cn=other is not in the allowed list");
        let other = Authority::generate("front-proxy-ca").unwrap();
        assert_eq!(
            authenticator.authenticate(&request(&other, "front-proxy-client", "jane")).await.unwrap(),
            None
        );
        assert_eq!(authenticator.authenticate(&request(&ca, "front-proxy-client", "")).await.unwrap(), None);
    }
}
