//! Everything that decides who may do what, built in one place.

use crate::admission::{self, AdmissionConfig, Plugin};
use crate::authentication::{
    Anonymous, AuthenticationError, Authenticator, BearerTokens, BootstrapTokens, Chain, ClientCertificates,
    RequestHeader, ServiceAccountTokens, StaticToken, StaticTokens,
};
use crate::authorization::escalation::Escalation;
use crate::authorization::{Authorizer, NodeAuthorizer, Rbac, Union};
use crate::bootstrap;
use crate::reader::Reader;
use crate::tokens::{Issuer, TokenRequests};
use kit::pki::Pki;
use std::sync::Arc;

#[derive(Clone)]
pub struct SecurityConfig {
    /// The `iss` of service-account tokens.
    pub issuer: String,
    /// What tokens for this server are made out to; the issuer where empty.
    pub api_audiences: Vec<String>,
    pub anonymous: Anonymous,
    pub static_tokens: Vec<StaticToken>,
    /// Common names the front proxy's authority may speak through.
    pub front_proxy_names: Vec<String>,
    /// Lets mounted tokens live a year for clients that never read them again (upstream's default).
    pub extend_token_expiration: bool,
    pub admission: AdmissionConfig,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            api_audiences: Vec::new(),
            anonymous: Anonymous::default(),
            static_tokens: Vec::new(),
            front_proxy_names: vec!["front-proxy-client".into()],
            extend_token_expiration: true,
            admission: AdmissionConfig::default(),
        }
    }
}

/// The parts, as the request chain and the registry use them.
pub struct Security {
    /// All authenticators as one, anonymous included. `Ok(None)` from it is 401.
    pub authenticator: Arc<Chain>,
    /// Node, then RBAC; system:masters before both.
    pub authorizer: Arc<dyn Authorizer>,
    pub rbac: Arc<Rbac>,
    /// Admission plugins in upstream's order.
    pub plugins: Vec<Arc<dyn Plugin>>,
    /// Signs tokens; also answers the OIDC discovery documents.
    pub token_issuer: Arc<Issuer>,
    /// Answers the `token` subresource of service accounts.
    pub token_requests: Arc<TokenRequests>,
    /// For TokenReview ([`authentication::review::token_review`](crate::authentication::review::token_review)).
    pub bearer_tokens: Arc<BearerTokens>,
    /// For [`bootstrap::run`].
    pub published: bootstrap::Published,
}

/// Builds everything. Does no I/O and starts no task; `reader` may still be loading.
pub fn build(
    pki: &Pki,
    reader: Arc<dyn Reader>,
    config: SecurityConfig,
) -> Result<Security, AuthenticationError> {
    let audiences = if config.api_audiences.is_empty() {
        vec![config.issuer.clone()]
    } else {
        config.api_audiences.clone()
    };
    let token_issuer = Arc::new(Issuer::new(pki.service_account.clone(), config.issuer));
    let bearer_tokens = Arc::new(BearerTokens::new(
        vec![
            Arc::new(StaticTokens::new(config.static_tokens)),
            Arc::new(ServiceAccountTokens::new(token_issuer.clone(), reader.clone(), audiences.clone())),
            Arc::new(BootstrapTokens::new(reader.clone())),
        ],
        audiences.clone(),
    ));
    let front_proxy = pki.front_proxy_ca.certificate().clone();
    let authenticators: Vec<Arc<dyn Authenticator>> = vec![
        Arc::new(RequestHeader::new(front_proxy, config.front_proxy_names.clone())?),
        Arc::new(ClientCertificates::new(std::slice::from_ref(pki.ca.certificate()))?),
        bearer_tokens.clone(),
    ];
    let rbac = Arc::new(Rbac::new(reader.clone()));
    let node = Arc::new(NodeAuthorizer::new(reader.clone(), bootstrap::node_rules()));
    let authorizer: Arc<dyn Authorizer> = Arc::new(Union(vec![node, rbac.clone()]));
    let mut plugins = admission::plugins(&reader, &authorizer, &config.admission);
    plugins.push(Arc::new(Escalation { rbac: rbac.clone(), authorizer: authorizer.clone() }));
    let token_requests = Arc::new(TokenRequests {
        issuer: token_issuer.clone(),
        reader,
        audiences,
        extend: config.extend_token_expiration,
    });
    Ok(Security {
        authenticator: Arc::new(Chain { authenticators, anonymous: config.anonymous }),
        authorizer,
        rbac,
        plugins,
        token_issuer,
        token_requests,
        bearer_tokens,
        published: bootstrap::Published {
            client_ca: pki.ca.certificate_pem().into(),
            front_proxy_ca: pki.front_proxy_ca.certificate_pem().into(),
            front_proxy_names: config.front_proxy_names,
        },
    })
}

impl crate::server::Config {
    /// A configuration with everything [`build`] made.
    pub fn secure(cache: Arc<crate::cache::Cache>, security: Security) -> Self {
        let mut config = Self::new(
            cache,
            security.authenticator.authenticators.clone(),
            security.authorizer,
            security.plugins,
        );
        config.anonymous = security.authenticator.anonymous.clone();
        config.tokens = Some(security.token_requests);
        config.bearer = Some(security.bearer_tokens);
        config.published = Some(security.published);
        config
    }
}
