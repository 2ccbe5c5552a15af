//! All authenticators, in order.

use super::{
    AnonymousAccess, AuthenticationError, Authenticator, InProcessIdentity, UserInfo, authenticated,
};
use async_trait::async_trait;
use std::sync::Arc;

/// The server's authenticator.
pub struct Chain {
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    pub anonymous: AnonymousAccess,
}

#[async_trait]
impl Authenticator for Chain {
    /// `Ok(None)` is 401 too: no credentials, and anonymous is not allowed here.
    async fn authenticate(
        &self,
        request: &http::request::Parts,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        if let Some(InProcessIdentity(user)) = request.extensions.get() {
            return Ok(Some(authenticated(user.clone())));
        }
        let mut errors: Vec<String> = Vec::new();
        for authenticator in &self.authenticators {
            match authenticator.authenticate(request).await {
                Ok(Some(user)) => return Ok(Some(authenticated(user))),
                Ok(None) => {}
                Err(error) => errors.push(error.0),
            }
        }
        match errors.as_slice() {
            [] => Ok(self.anonymous.user(request.uri.path())),
            [one] => Err(AuthenticationError(one.clone())),
            many => Err(AuthenticationError(format!("[{}]", many.join(", ")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ALL_AUTHENTICATED, ANONYMOUS, Anonymous, BearerTokens, StaticToken, StaticTokens};
    use super::*;

    fn chain(anonymous: Anonymous) -> Chain {
        let user = UserInfo::new("jane", &["dev"]);
        let tokens = StaticTokens::new([StaticToken { token: "secret".into(), user }]);
        Chain {
            authenticators: vec![Arc::new(BearerTokens::new(vec![Arc::new(tokens)], vec![]))],
            anonymous: anonymous.into(),
        }
    }

    fn request(path: &str, token: Option<&str>) -> http::request::Parts {
        let mut builder = http::Request::builder().uri(path);
        if let Some(token) = token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn good_bad_and_no_credentials() {
        let chain = chain(Anonymous::default());
        let user = chain.authenticate(&request("/api", Some("secret"))).await.unwrap().unwrap();
        assert_eq!(user.groups, ["dev", ALL_AUTHENTICATED]);
        // Bad credentials never become anonymous, not even for health.
        let error = chain.authenticate(&request("/readyz", Some("wrong"))).await.unwrap_err();
        assert_eq!(error.0, "invalid bearer token");
        assert_eq!(chain.authenticate(&request("/api", None)).await.unwrap(), None);
        assert_eq!(chain.authenticate(&request("/readyz/etcd", None)).await.unwrap(), None);
        assert_eq!(chain.authenticate(&request("/readyz", None)).await.unwrap().unwrap().name, ANONYMOUS);
    }

    #[tokio::test]
    async fn in_process_identities_come_first() {
        let mut parts = request("/api", Some("wrong"));
        parts.extensions.insert(InProcessIdentity(UserInfo::new("system:kube-scheduler", &[])));
        let user = chain(Anonymous::Off).authenticate(&parts).await.unwrap().unwrap();
        assert_eq!(user.name, "system:kube-scheduler");
        assert_eq!(user.groups, [ALL_AUTHENTICATED]);
    }
}
