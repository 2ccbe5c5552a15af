//! Everything that decides who may do what, built in one place.

mod cel;
pub mod reload;

pub use self::cel::CelCompiler;

use crate::admission::{self, AdmissionConfig, Plugin};
use crate::authentication::HeaderNames;
use crate::authentication::expressions::Compiler;
use crate::authentication::{
    AnonymousAccess, AuthenticationError, Authenticator, BearerTokens, BootstrapTokens, Chain,
    ClientCertificates, RemoteTokens, RequestHeader, ServiceAccountTokens, StaticToken, StaticTokens,
    TokenAuthenticator,
};
use crate::authorization::config::AuthorizationConfiguration;
use crate::authorization::escalation::Escalation;
use crate::authorization::{Authorizer, Lasting, NodeAuthorizer, Rbac, Reloadable, Union};
use crate::bootstrap;
use crate::reader::Reader;
use crate::tokens::jose::{NamedKey, SigningKey};
use crate::tokens::{Issuer, TokenRequests};
use kit::pki::Pki;
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Clone)]
pub struct SecurityConfig {
    /// The `iss` of service-account tokens.
    pub issuer: String,
    /// Names it had before, whose tokens are still good (`--service-account-issuer`, repeated).
    pub former_issuers: Vec<String>,
    /// Signs tokens; the cluster's own key where `None`.
    pub token_key: Option<SigningKey>,
    /// Keys whose tokens are still good (`--service-account-key-file`).
    pub token_keys: Vec<NamedKey>,
    /// Replaces this server's own address in the discovery document.
    pub jwks_uri: Option<String>,
    /// The longest lifetime of a token in seconds.
    pub longest_token: Option<i64>,
    /// What tokens for this server are made out to; the issuer where empty.
    pub api_audiences: Vec<String>,
    pub anonymous: AnonymousAccess,
    /// Asked for tokens that this server does not know itself: OIDC issuers, webhooks.
    pub remote_tokens: Vec<Arc<dyn RemoteTokens>>,
    pub static_tokens: Vec<StaticToken>,
    /// Authorities of client certificates besides the cluster's own (`--client-ca-file`).
    pub client_authorities: Vec<CertificateDer<'static>>,
    /// Authorities of the front proxy besides the cluster's own (`--requestheader-client-ca-file`).
    pub front_proxy_authorities: Vec<CertificateDer<'static>>,
    /// What the front proxy's headers are called, and who may send them.
    pub front_proxy: HeaderNames,
    /// Who decides; Node, then RBAC where `None`.
    pub authorization: Option<AuthorizationConfiguration>,
    /// Evaluates the expressions of configurations.
    pub compiler: Option<Arc<dyn Compiler>>,
    /// Lets mounted tokens live a year for clients that never read them again (upstream's default).
    pub extend_token_expiration: bool,
    pub admission: AdmissionConfig,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            former_issuers: Vec::new(),
            token_key: None,
            token_keys: Vec::new(),
            jwks_uri: None,
            longest_token: None,
            api_audiences: Vec::new(),
            anonymous: AnonymousAccess::default(),
            remote_tokens: Vec::new(),
            static_tokens: Vec::new(),
            client_authorities: Vec::new(),
            front_proxy_authorities: Vec::new(),
            front_proxy: HeaderNames::default(),
            authorization: None,
            compiler: Some(Arc::new(crate::authentication::cel::Expressions)),
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
    /// For [`bootstrap::start`], which publishes every change.
    pub published: Arc<watch::Sender<bootstrap::Published>>,
    /// Authorities of client certificates and of the front proxy can be replaced.
    pub certificates: Arc<ClientCertificates>,
    pub front_proxy: Arc<RequestHeader>,
    /// With these a new configuration becomes a chain, which goes into `reloadable` (where one was configured).
    pub lasting: Lasting,
    pub reloadable: Option<Arc<Reloadable>>,
    /// For [`crate::tokens::tracking::run`].
    pub tracking: tokio::sync::mpsc::UnboundedReceiver<(String, String)>,
}

impl Security {
    /// Trusts these authorities of client certificates from now on, and says so to extension servers.
    pub fn replace_clients(
        certificates: &ClientCertificates,
        published: &watch::Sender<bootstrap::Published>,
        all: &[CertificateDer<'static>],
    ) -> Result<(), AuthenticationError> {
        certificates.replace(all)?;
        published.send_modify(|p| p.client_ca = pem_of(all));
        Ok(())
    }

    /// The same for the front proxy's.
    pub fn replace_front_proxy(
        proxy: &RequestHeader,
        published: &watch::Sender<bootstrap::Published>,
        all: &[CertificateDer<'static>],
    ) -> Result<(), AuthenticationError> {
        proxy.replace(all)?;
        published.send_modify(|p| p.front_proxy_ca = pem_of(all));
        Ok(())
    }
}

fn pem_of(certificates: &[CertificateDer<'static>]) -> String {
    certificates.iter().map(|c| kit::pki::pem::encode("CERTIFICATE", c)).collect()
}

/// Builds everything. Does no I/O and starts no task; `reader` may still be loading.
pub fn build(
    pki: &Pki,
    reader: Arc<dyn Reader>,
    config: SecurityConfig,
) -> Result<Security, AuthenticationError> {
    let mut issuers = vec![config.issuer];
    issuers.extend(config.former_issuers);
    let audiences =
        if config.api_audiences.is_empty() { issuers.clone() } else { config.api_audiences.clone() };
    let own = SigningKey::Ecdsa(pki.service_account.clone());
    let key = config.token_key.unwrap_or_else(|| own.clone());
    let mut keys = config.token_keys;
    // The cluster's own key signed what came before another was named.
    if !keys.contains(&own.public()) {
        keys.push(own.public());
    }
    let token_issuer = Arc::new(Issuer::rotating(key, keys, issuers, config.jwks_uri));
    let (used, tracking) = tokio::sync::mpsc::unbounded_channel();
    let local: Vec<Arc<dyn TokenAuthenticator>> = vec![
        Arc::new(StaticTokens::new(config.static_tokens)),
        Arc::new(
            ServiceAccountTokens::new(token_issuer.clone(), reader.clone(), audiences.clone()).tracked(used),
        ),
        Arc::new(BootstrapTokens::new(reader.clone())),
    ];
    let bearer_tokens = BearerTokens::new(local, audiences.clone()).with_remote(config.remote_tokens);
    let bearer_tokens = Arc::new(bearer_tokens);
    let with_own = |own: &CertificateDer<'static>, others: &[CertificateDer<'static>]| {
        let mut all = vec![own.clone()];
        all.extend_from_slice(others);
        all
    };
    let clients = with_own(pki.ca.certificate(), &config.client_authorities);
    let proxies = with_own(pki.front_proxy_ca.certificate(), &config.front_proxy_authorities);
    let certificates = Arc::new(ClientCertificates::new(&clients)?);
    let front_proxy = Arc::new(RequestHeader::new(&proxies, config.front_proxy.clone())?);
    let authenticators: Vec<Arc<dyn Authenticator>> =
        vec![front_proxy.clone(), certificates.clone(), bearer_tokens.clone()];
    let rbac = Arc::new(Rbac::new(reader.clone()));
    let node = Arc::new(NodeAuthorizer::new(reader.clone(), bootstrap::node_rules()));
    let lasting = Lasting { node: node.clone(), rbac: rbac.clone(), compiler: config.compiler.clone() };
    let (authorizer, reloadable): (Arc<dyn Authorizer>, _) = match &config.authorization {
        None => (Arc::new(Union(vec![node, rbac.clone()])), None),
        Some(wanted) => {
            let first = lasting.chain(wanted).map_err(AuthenticationError)?;
            let reloadable = Arc::new(Reloadable::new(Arc::new(first)));
            (reloadable.clone(), Some(reloadable))
        }
    };
    let mut plugins = admission::plugins(&reader, &authorizer, &config.admission);
    plugins.push(Arc::new(Escalation { rbac: rbac.clone(), authorizer: authorizer.clone() }));
    let token_requests = Arc::new(TokenRequests {
        issuer: token_issuer.clone(),
        reader,
        audiences,
        extend: config.extend_token_expiration,
        longest: config.longest_token,
    });
    Ok(Security {
        authenticator: Arc::new(Chain { authenticators, anonymous: config.anonymous }),
        authorizer,
        rbac,
        plugins,
        token_issuer,
        token_requests,
        bearer_tokens,
        published: Arc::new(watch::Sender::new(bootstrap::Published {
            client_ca: pem_of(&clients),
            front_proxy_ca: pem_of(&proxies),
            front_proxy: config.front_proxy,
        })),
        certificates,
        front_proxy,
        lasting,
        reloadable,
        tracking,
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
        config.published = Some(security.published.subscribe());
        config.tracking = Some(security.tracking).into();
        config
    }
}
