//! Bearer tokens of any kind.

use super::{AuthenticationError, Authenticator, UserInfo};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use ring::digest::{SHA256, digest};
use std::collections::HashMap;
use std::sync::Arc;

/// Whom a token speaks for, and for which of the asked audiences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAnswer {
    pub user: UserInfo,
    /// Empty: the token knows no audiences.
    pub audiences: Vec<String>,
}

pub trait TokenAuthenticator: Send + Sync + 'static {
    /// `Ok(None)`: not a token of this kind. `audiences` empty: any will do.
    fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenAnswer>, AuthenticationError>;
}

/// Tokens that somebody outside knows: asked after every [`TokenAuthenticator`].
#[async_trait]
pub trait RemoteTokens: Send + Sync + 'static {
    /// As [`TokenAuthenticator::authenticate_token`].
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenAnswer>, AuthenticationError>;
}

/// Prefix of the WebSocket sub-protocol in which browsers carry a token.
const WEBSOCKET_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The bearer token of a request: from `Authorization`, or from the WebSocket sub-protocol. `None` where there is
/// no (or an empty) one; a token that cannot be read is an error.
pub fn bearer_token(headers: &HeaderMap) -> Result<Option<String>, AuthenticationError> {
    if let Some(header) = headers.get(AUTHORIZATION) {
        let Ok(header) = header.to_str() else { return Ok(None) };
        let mut parts = header.trim().split(' ');
        if parts.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer")) {
            return Ok(parts.next().filter(|t| !t.is_empty()).map(str::to_owned));
        }
        return Ok(None);
    }
    for header in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for protocol in header.to_str().unwrap_or("").split(',') {
            if let Some(encoded) = protocol.trim().strip_prefix(WEBSOCKET_PREFIX) {
                let bad = || AuthenticationError("invalid bearer token in the WebSocket protocol".into());
                let token = URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).map_err(|_| bad())?;
                return String::from_utf8(token).map(Some).map_err(|_| bad());
            }
        }
    }
    Ok(None)
}

/// Asks every kind of token in turn.
pub struct BearerTokens {
    kinds: Vec<Arc<dyn TokenAuthenticator>>,
    remote: Vec<Arc<dyn RemoteTokens>>,
    audiences: Vec<String>,
}

impl BearerTokens {
    /// `audiences` are this API server's.
    pub fn new(kinds: Vec<Arc<dyn TokenAuthenticator>>, audiences: Vec<String>) -> Self {
        Self { kinds, remote: Vec::new(), audiences }
    }

    /// With those outside, in the order they are asked.
    pub fn with_remote(mut self, remote: Vec<Arc<dyn RemoteTokens>>) -> Self {
        self.remote = remote;
        self
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// `Ok(None)` when no kind knows the token.
    pub async fn check(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenAnswer>, AuthenticationError> {
        let mut errors: Vec<String> = Vec::new();
        for kind in &self.kinds {
            match kind.authenticate_token(token, audiences) {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(error) => errors.push(error.0),
            }
        }
        for remote in &self.remote {
            match remote.authenticate_token(token, audiences).await {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(error) => errors.push(error.0),
            }
        }
        match errors.as_slice() {
            [] => Ok(None),
            errors => Err(AuthenticationError(format!("[invalid bearer token, {}]", errors.join(", ")))),
        }
    }
}

#[async_trait]
impl Authenticator for BearerTokens {
    async fn authenticate(
        &self,
        request: &http::request::Parts,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(token) = bearer_token(&request.headers)? else { return Ok(None) };
        match self.check(&token, &self.audiences).await? {
            Some(answer) => Ok(Some(answer.user)),
            None => Err(AuthenticationError("invalid bearer token".into())),
        }
    }
}

/// A token given on the command line or made at start.
#[derive(Clone)]
pub struct StaticToken {
    pub token: String,
    pub user: UserInfo,
}

/// Tokens known in advance. Only their digests are kept, so look-ups take no time that depends on a secret.
#[derive(Default)]
pub struct StaticTokens(HashMap<[u8; 32], UserInfo>);

impl StaticTokens {
    pub fn new(tokens: impl IntoIterator<Item = StaticToken>) -> Self {
        let tokens = tokens.into_iter().filter(|t| !t.token.is_empty());
        Self(tokens.map(|t| (fingerprint(t.token.as_bytes()), t.user)).collect())
    }
}

impl TokenAuthenticator for StaticTokens {
    fn authenticate_token(
        &self,
        token: &str,
        _: &[String],
    ) -> Result<Option<TokenAnswer>, AuthenticationError> {
        let user = self.0.get(&fingerprint(token.as_bytes()));
        Ok(user.map(|user| TokenAnswer { user: user.clone(), audiences: Vec::new() }))
    }
}

/// SHA-256, as the key of caches of secrets.
pub(super) fn fingerprint(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn tokens_are_found_where_clients_put_them() {
        let found = |n, v| bearer_token(&headers(n, v)).unwrap();
        assert_eq!(found("authorization", "Bearer abc").as_deref(), Some("abc"));
        assert_eq!(found("authorization", "bearer abc").as_deref(), Some("abc"));
        for none in ["Bearer ", "Bearer", "Basic abc", "", "abc"] {
            assert_eq!(found("authorization", none), None, "{none}");
        }
        let protocols = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        assert_eq!(found("sec-websocket-protocol", protocols).as_deref(), Some("abc"));
        let bad = headers("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.!!!");
        assert!(bearer_token(&bad).is_err());
    }
}
