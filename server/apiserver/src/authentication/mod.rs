//! Who is asking.

use async_trait::async_trait;
use std::collections::BTreeMap;

/// `user.Info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The peer's verified client certificate chain (DER, leaf first), put into the request's extensions by the
/// TLS listener.
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub std::sync::Arc<Vec<Vec<u8>>>);

/// Put into the extensions by the in-process client: the identity the component runs under. Only code inside
/// this process can set it; the HTTP listener never does.
#[derive(Clone, Debug)]
pub struct InProcessIdentity(pub UserInfo);

#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)`: no opinion (the next one is asked, then anonymous). `Err`: credentials were given and are
    /// bad; the answer is 401.
    async fn authenticate(
        &self,
        request: &http::request::Parts,
    ) -> Result<Option<UserInfo>, AuthenticationError>;
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthenticationError(pub String);
