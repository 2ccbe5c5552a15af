//! Who is asking.
//!
//! [`Chain`] asks, in upstream's order: the in-process identity, the front proxy's headers, the client
//! certificate, the bearer token, and last, where the configuration allows it, anonymous. Credentials that were
//! given and are bad end in 401 even if another authenticator would have said anonymous.

mod anonymous;
mod bearer;
mod bootstrap_tokens;
pub mod cel;
mod certificates;
mod chain;
pub mod expressions;
pub mod impersonation;
pub mod jwt;
mod request_header;
pub mod review;
mod service_accounts;
mod webhook;

pub use anonymous::{Anonymous, AnonymousAccess};
pub use bearer::{
    BearerTokens, RemoteTokens, StaticToken, StaticTokens, TokenAnswer, TokenAuthenticator, bearer_token,
};
pub use bootstrap_tokens::BootstrapTokens;
pub use certificates::ClientCertificates;
pub use chain::Chain;
pub use request_header::{HeaderNames, RequestHeader, is_request_header};
pub use service_accounts::ServiceAccountTokens;
pub use webhook::WebhookTokens;

pub use kinds::user::{SERVICE_ACCOUNTS_GROUP, UserInfo, service_account_user};

use async_trait::async_trait;

/// Everyone who proved who they are.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
/// Everyone else.
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";
/// May do everything, without asking any other authorizer.
pub const PRIVILEGED_GROUP: &str = "system:masters";
pub const NODES_GROUP: &str = "system:nodes";

/// Adds [`ALL_AUTHENTICATED`], unless the user is anonymous.
fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.in_group(ALL_AUTHENTICATED) && !user.in_group(ALL_UNAUTHENTICATED) {
        user.groups.push(ALL_AUTHENTICATED.into());
    }
    user
}

/// `(namespace, name)` of a service account's user name.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The node's name, for a user that is a kubelet.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:").filter(|n| !n.is_empty())?;
    user.in_group(NODES_GROUP).then_some(name)
}

/// The peer's client certificate chain (DER, leaf first) as the TLS handshake presented it, put into the request's
/// extensions by the TLS listener. The handshake proved possession of the leaf's key; whether the chain is trusted
/// is decided here.
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

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthenticationError(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_names_are_split_exactly() {
        assert_eq!(split_service_account("system:serviceaccount:a:b"), Some(("a", "b")));
        for bad in
            ["system:serviceaccount:a", "system:serviceaccount::b", "system:serviceaccount:a:b:c", "a:b", ""]
        {
            assert_eq!(split_service_account(bad), None, "{bad}");
        }
        assert_eq!(node_name(&UserInfo::new("system:node:n1", &[NODES_GROUP])), Some("n1"));
        assert_eq!(node_name(&UserInfo::new("system:node:n1", &[])), None);
        assert_eq!(node_name(&UserInfo::new("system:node:", &[NODES_GROUP])), None);
    }
}
