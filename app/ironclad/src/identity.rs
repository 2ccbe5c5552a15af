//! The API server's flags about who is who and who may do what, under upstream's names, and the files behind them.

use anyhow::{Context, Result, bail};
use apiserver::authentication::jwt::JwtTokens;
use apiserver::authentication::jwt::config::{AuthenticationConfiguration, OidcFlags};
use apiserver::authentication::{
    Anonymous, AnonymousAccess, HeaderNames, RemoteTokens, StaticToken, UserInfo, WebhookTokens,
};
use apiserver::authorization::config::{AuthorizationConfiguration, ConnectionInfo, WebhookConfig, duration};
use apiserver::remote::kubeconfig;
use apiserver::security::reload::{self, AuthenticationReload};
use apiserver::security::{CelCompiler, Security, SecurityConfig};
use apiserver::tokens::jose;
use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use kit::Shutdown;
use kit::pki::{Pki, pem};
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

const HEADING: &str = "Authentication and authorization";

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = HEADING)]
pub struct Flags {
    /// Whether requests without credentials are taken as system:anonymous [default: for /livez, /readyz and /healthz]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub anonymous_auth: Option<bool>,
    /// AuthenticationConfiguration (apiserver.config.k8s.io) of OIDC issuers and anonymous requests; followed while running
    #[arg(long, value_name = "FILE", conflicts_with_all = ["oidc_issuer_url", "oidc_client_id"])]
    pub authentication_config: Option<Utf8PathBuf>,
    /// OIDC issuer (https) whose tokens are accepted
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// Audience that tokens of the OIDC issuer must be made out to
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// CA of the OIDC issuer [default: the machine's]
    #[arg(long, value_name = "FILE", requires = "oidc_issuer_url")]
    pub oidc_ca_file: Option<Utf8PathBuf>,
    /// Claim that is the user's name
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub oidc_username_claim: String,
    /// Prefix of user names; "-" is none [default: ISSUER# for all claims but email]
    #[arg(long, value_name = "PREFIX", default_value = "", allow_hyphen_values = true)]
    pub oidc_username_prefix: String,
    /// Claim that holds the user's groups
    #[arg(long, value_name = "CLAIM", default_value = "")]
    pub oidc_groups_claim: String,
    /// Prefix of groups
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub oidc_groups_prefix: String,
    /// Claim that a token must hold with this value; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub oidc_required_claim: Vec<String>,
    /// Signature algorithms accepted from the OIDC issuer
    #[arg(long, value_name = "ALG,ALG", value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
    /// Kubeconfig of a webhook that is sent TokenReviews for tokens nobody else knows
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<Utf8PathBuf>,
    /// Version of those TokenReviews: v1 or v1beta1
    #[arg(long, value_name = "VERSION", default_value = "v1beta1")]
    pub authentication_token_webhook_version: String,
    /// How long the token webhook's answers are remembered
    #[arg(long, value_name = "DURATION", default_value = "2m0s")]
    pub authentication_token_webhook_cache_ttl: String,
    /// CSV of tokens: token,user,uid,"group1,group2"
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<Utf8PathBuf>,
    /// Further authorities of client certificates; followed while running
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<Utf8PathBuf>,
    /// Further authorities of the front proxy's client certificates; followed while running
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<Utf8PathBuf>,
    /// Common names that may act as front proxy; empty: all of its authorities
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', default_value = "front-proxy-client")]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers of the front proxy that hold the user's name
    #[arg(long, value_name = "HEADER,HEADER", value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers of the front proxy that hold the user's uid
    #[arg(long, value_name = "HEADER,HEADER", value_delimiter = ',', default_value = "X-Remote-Uid")]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers of the front proxy that hold the user's groups
    #[arg(long, value_name = "HEADER,HEADER", value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of the front proxy's headers that hold extra facts of the user
    #[arg(long, value_name = "PREFIX,PREFIX", value_delimiter = ',', default_value = "X-Remote-Extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// `iss` of service account tokens; repeatable: the first one issues, the others are still accepted
    #[arg(long, value_name = "URL", default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: Vec<String>,
    /// PEM keys that verify service account tokens, besides the signing one; repeatable
    #[arg(long, value_name = "FILE")]
    pub service_account_key_file: Vec<Utf8PathBuf>,
    /// PEM key that signs service account tokens (RSA or ECDSA P-256) [default: DIR/pki/sa.key]
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: Option<Utf8PathBuf>,
    /// Where the issuer's discovery document says its keys are [default: this server]
    #[arg(long, value_name = "URL")]
    pub service_account_jwks_uri: Option<String>,
    /// Audiences of this API server [default: the service account issuers]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Let tokens that pods mount live a year for clients that read them once
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub service_account_extend_token_expiration: bool,
    /// Longest lifetime of a service account token, at least 1h
    #[arg(long, value_name = "DURATION")]
    pub service_account_max_token_expiration: Option<String>,
    /// Authorizers in their order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny
    #[arg(long, value_name = "MODE,MODE", value_delimiter = ',', conflicts_with = "authorization_config")]
    pub authorization_mode: Vec<String>,
    /// AuthorizationConfiguration (apiserver.config.k8s.io); followed while running
    #[arg(long, value_name = "FILE", conflicts_with = "authorization_webhook_config_file")]
    pub authorization_config: Option<Utf8PathBuf>,
    /// Kubeconfig of the webhook of `--authorization-mode=Webhook`
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<Utf8PathBuf>,
    /// Version of the SubjectAccessReviews it is sent: v1 or v1beta1
    #[arg(long, value_name = "VERSION", default_value = "v1beta1")]
    pub authorization_webhook_version: String,
    /// How long its yes is remembered
    #[arg(long, value_name = "DURATION", default_value = "5m0s")]
    pub authorization_webhook_cache_authorized_ttl: String,
    /// How long its no is remembered
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub authorization_webhook_cache_unauthorized_ttl: String,
}

/// What the flags came to, before there is a server.
pub struct Identity {
    pub config: SecurityConfig,
    authentication: Option<(Utf8PathBuf, Vec<u8>, AuthenticationReload)>,
    authorization: Option<(Utf8PathBuf, Vec<u8>)>,
    clients: Option<(Utf8PathBuf, Vec<u8>)>,
    proxies: Option<(Utf8PathBuf, Vec<u8>)>,
}

fn read(path: &Utf8Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {path}"))
}

fn authorities(path: &Utf8Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    pem::certificates(text).with_context(|| format!("read {path}"))
}

fn time(flag: &str, text: &str) -> Result<Duration> {
    duration(text).with_context(|| format!("--{flag} {text:?} is no duration such as 90s or 5m"))
}

impl Flags {
    /// Reads every file and checks everything that can be checked at start. Must be called inside the runtime:
    /// fetching of OIDC keys begins here.
    pub fn prepare(&self) -> Result<Identity> {
        let mut config = SecurityConfig {
            issuer: self.service_account_issuer.first().cloned().unwrap_or_default(),
            former_issuers: self.service_account_issuer.iter().skip(1).cloned().collect(),
            jwks_uri: self.service_account_jwks_uri.clone(),
            api_audiences: self.api_audiences.clone(),
            extend_token_expiration: self.service_account_extend_token_expiration,
            front_proxy: HeaderNames {
                user: self.requestheader_username_headers.clone(),
                uid: self.requestheader_uid_headers.clone(),
                group: self.requestheader_group_headers.clone(),
                extra_prefix: self.requestheader_extra_headers_prefix.clone(),
                allowed: self.requestheader_allowed_names.iter().filter(|n| !n.is_empty()).cloned().collect(),
            },
            compiler: Some(Arc::new(CelCompiler)),
            ..SecurityConfig::default()
        };
        for issuer in &self.service_account_issuer {
            if issuer.is_empty() || (issuer.contains(':') && issuer.parse::<hyper::Uri>().is_err()) {
                bail!("--service-account-issuer {issuer:?} contained a ':' but was not a valid URL");
            }
        }
        self.token_keys(&mut config)?;
        let by_flag = match self.anonymous_auth {
            None => Anonymous::default(),
            Some(true) => Anonymous::Everywhere,
            Some(false) => Anonymous::Off,
        };
        let anonymous = AnonymousAccess::from(by_flag.clone());
        config.anonymous = anonymous.clone();
        let authentication = self.issuers(&mut config, &anonymous, &by_flag)?;
        self.webhook_tokens(&mut config)?;
        if let Some(file) = &self.token_auth_file {
            config.static_tokens = static_tokens(file)?;
        }
        let bundle = |path: &Option<Utf8PathBuf>| -> Result<_> {
            path.as_ref().map(|path| Ok((path.clone(), read(path)?))).transpose()
        };
        let (clients, proxies) = (bundle(&self.client_ca_file)?, bundle(&self.requestheader_client_ca_file)?);
        if let Some((path, text)) = &clients {
            config.client_authorities = authorities(path, text)?;
        }
        if let Some((path, text)) = &proxies {
            config.front_proxy_authorities = authorities(path, text)?;
        }
        let authorization = self.authorizers(&mut config)?;
        Ok(Identity { config, authentication, authorization, clients, proxies })
    }

    fn token_keys(&self, config: &mut SecurityConfig) -> Result<()> {
        if let Some(file) = &self.service_account_signing_key_file {
            let key = jose::SigningKey::from_pem(&read(file)?).with_context(|| format!("read {file}"))?;
            config.token_key = Some(key);
        }
        for file in &self.service_account_key_file {
            config
                .token_keys
                .extend(jose::public_keys(&read(file)?).with_context(|| format!("read {file}"))?);
        }
        if let Some(text) = &self.service_account_max_token_expiration {
            let longest = time("service-account-max-token-expiration", text)?.as_secs() as i64;
            if !(3600..=1 << 32).contains(&longest) {
                bail!("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds");
            }
            config.longest_token = Some(longest);
        }
        Ok(())
    }

    fn issuers(
        &self,
        config: &mut SecurityConfig,
        anonymous: &AnonymousAccess,
        by_flag: &Anonymous,
    ) -> Result<Option<(Utf8PathBuf, Vec<u8>, AuthenticationReload)>> {
        if let Some(file) = &self.authentication_config {
            let text = read(file)?;
            let reload = AuthenticationReload {
                tokens: Arc::new(JwtTokens::default()),
                anonymous: anonymous.clone(),
                anonymous_by_flag: by_flag.clone(),
                disallowed: self.service_account_issuer.clone(),
                compiler: config.compiler.clone(),
            };
            let refused = |e| anyhow::anyhow!("{e}").context(format!("--authentication-config {file}"));
            reload.start(&text).map_err(refused)?;
            config.remote_tokens.push(reload.tokens.clone());
            return Ok(Some((file.clone(), text, reload)));
        }
        let (Some(issuer), Some(client)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            return Ok(None);
        };
        let mut required_claims = BTreeMap::new();
        for pair in &self.oidc_required_claim {
            let (key, value) = pair
                .split_once('=')
                .with_context(|| format!("--oidc-required-claim {pair:?} is not key=value"))?;
            required_claims.insert(key.to_owned(), value.to_owned());
        }
        let authority = match &self.oidc_ca_file {
            Some(file) => String::from_utf8(read(file)?).with_context(|| format!("read {file}"))?,
            None => String::new(),
        };
        let flags = OidcFlags {
            issuer_url: issuer.clone(),
            client_id: client.clone(),
            certificate_authority: authority,
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups_prefix: self.oidc_groups_prefix.clone(),
            required_claims,
        };
        let structured = AuthenticationConfiguration {
            jwt: vec![flags.to_config()],
            ..AuthenticationConfiguration::default()
        };
        if let Some(error) = structured.validate(&self.service_account_issuer).first() {
            bail!("--oidc-*: {error}");
        }
        let tokens = Arc::new(JwtTokens::default());
        let issuers = JwtTokens::build(&structured, &self.oidc_signing_algs, None);
        tokens.install(issuers.map_err(|e| anyhow::anyhow!("--oidc-*: {e}"))?);
        config.remote_tokens.push(tokens);
        Ok(None)
    }

    fn webhook_tokens(&self, config: &mut SecurityConfig) -> Result<()> {
        let Some(file) = &self.authentication_token_webhook_config_file else { return Ok(()) };
        let service = kubeconfig::load(file.as_std_path())?;
        let ttl =
            time("authentication-token-webhook-cache-ttl", &self.authentication_token_webhook_cache_ttl)?;
        let audiences = if self.api_audiences.is_empty() {
            self.service_account_issuer.clone()
        } else {
            self.api_audiences.clone()
        };
        let version = &self.authentication_token_webhook_version;
        let webhook = WebhookTokens::new(service, version, audiences, ttl).map_err(anyhow::Error::msg)?;
        let webhook: Arc<dyn RemoteTokens> = Arc::new(webhook);
        config.remote_tokens.push(webhook);
        Ok(())
    }

    fn authorizers(&self, config: &mut SecurityConfig) -> Result<Option<(Utf8PathBuf, Vec<u8>)>> {
        if let Some(file) = &self.authorization_config {
            let text = read(file)?;
            let wanted = AuthorizationConfiguration::parse(&text)
                .with_context(|| format!("--authorization-config {file}"))?;
            config.authorization = Some(wanted);
            return Ok(Some((file.clone(), text)));
        }
        let has_webhook = self.authorization_mode.iter().any(|m| m == "Webhook");
        let webhook = match (&self.authorization_webhook_config_file, has_webhook) {
            (None, true) => bail!("authorization-mode Webhook's authorization config file not passed"),
            (Some(_), false) => {
                bail!("cannot specify --authorization-webhook-config-file without mode Webhook")
            }
            (None, false) => None,
            (Some(file), true) => Some(WebhookConfig {
                authorized_ttl: self.authorization_webhook_cache_authorized_ttl.clone(),
                unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl.clone(),
                timeout: "30s".into(),
                subject_access_review_version: self.authorization_webhook_version.clone(),
                failure_policy: "NoOpinion".into(),
                connection_info: ConnectionInfo {
                    kind: "KubeConfigFile".into(),
                    kube_config_file: Some(file.canonicalize_utf8().unwrap_or_else(|_| file.clone()).into()),
                },
                ..WebhookConfig::default()
            }),
        };
        if !self.authorization_mode.is_empty() {
            let wanted = AuthorizationConfiguration::of_modes(&self.authorization_mode, webhook.as_ref());
            if let Some(error) = wanted.validate().first() {
                bail!("--authorization-mode: {error}");
            }
            config.authorization = Some(wanted);
        }
        Ok(None)
    }
}

/// `token,user,uid[,"group1,group2"]`, one a line.
fn static_tokens(file: &Utf8Path) -> Result<Vec<StaticToken>> {
    let text = String::from_utf8(read(file)?).with_context(|| format!("read {file}"))?;
    let mut tokens = Vec::new();
    for (number, line) in
        text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'))
    {
        let mut columns = line.splitn(4, ',').map(|c| c.trim().trim_matches('"'));
        let (Some(token), Some(name), Some(uid)) = (columns.next(), columns.next(), columns.next()) else {
            bail!("{file} must have at least 3 columns (token, user name, user uid): line {}", number + 1);
        };
        if token.is_empty() {
            tracing::warn!(%file, line = number + 1, "an empty token is left out");
            continue;
        }
        let groups = columns.next().unwrap_or_default().split(',').map(str::trim).filter(|g| !g.is_empty());
        let user = UserInfo {
            name: name.into(),
            uid: uid.into(),
            groups: groups.map(str::to_owned).collect(),
            ..UserInfo::default()
        };
        tokens.push(StaticToken { token: token.into(), user });
    }
    Ok(tokens)
}

/// What a running server still needs: the files it follows. `listener` is told of every new set of authorities whose
/// names clients are shown.
pub struct Followed {
    authentication: Option<(Utf8PathBuf, Vec<u8>, AuthenticationReload)>,
    authorization: Option<(Utf8PathBuf, Vec<u8>)>,
    clients: Option<(Utf8PathBuf, Vec<u8>)>,
    proxies: Option<(Utf8PathBuf, Vec<u8>)>,
}

impl Identity {
    pub fn split(self) -> (SecurityConfig, Followed) {
        let Self { config, authentication, authorization, clients, proxies } = self;
        (config, Followed { authentication, authorization, clients, proxies })
    }
}

impl Followed {
    /// Follows the files until `stop`.
    pub fn start(
        self,
        pki: &Pki,
        security: &Security,
        listener: Arc<dyn Fn(&[CertificateDer<'static>]) + Send + Sync>,
        stop: &Shutdown,
        tasks: &mut JoinSet<()>,
    ) {
        let mut follow = |path: Utf8PathBuf, first: Vec<u8>, apply: reload::Apply| {
            let stop = stop.clone();
            tasks.spawn(reload::follow(path.into(), first, reload::PERIOD, stop, apply));
        };
        if let Some((path, first, reload)) = self.authentication {
            follow(path, first, reload.apply());
        }
        if let (Some((path, first)), Some(reloadable)) = (self.authorization, &security.reloadable) {
            follow(path, first, reload::authorization(security.lasting.clone(), reloadable.clone()));
        }
        if let Some((path, first)) = self.clients {
            let (own, certificates) = (pki.ca.certificate().clone(), security.certificates.clone());
            let published = security.published.clone();
            let apply: reload::Apply = Box::new(move |content| {
                let (own, certificates, listener) = (own.clone(), certificates.clone(), listener.clone());
                let published = published.clone();
                Box::pin(async move {
                    let mut all = vec![own];
                    all.extend(pem::certificates(&content).map_err(|e| e.to_string())?);
                    Security::replace_clients(&certificates, &published, &all).map_err(|e| e.to_string())?;
                    listener(&all);
                    Ok(())
                })
            });
            follow(path, first, apply);
        }
        if let Some((path, first)) = self.proxies {
            let (own, proxy) = (pki.front_proxy_ca.certificate().clone(), security.front_proxy.clone());
            let published = security.published.clone();
            let apply: reload::Apply = Box::new(move |content| {
                let (own, proxy, published) = (own.clone(), proxy.clone(), published.clone());
                Box::pin(async move {
                    let mut all = vec![own];
                    all.extend(pem::certificates(&content).map_err(|e| e.to_string())?);
                    Security::replace_front_proxy(&proxy, &published, &all).map_err(|e| e.to_string())
                })
            });
            follow(path, first, apply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(arguments: &[&str]) -> Result<Flags, String> {
        let line = std::iter::once("test").chain(arguments.iter().copied());
        Line::try_parse_from(line).map(|l| l.flags).map_err(|e| e.to_string())
    }

    fn refusal(arguments: &[&str]) -> String {
        format!("{:#}", flags(arguments).unwrap().prepare().err().expect("must be refused"))
    }

    #[tokio::test]
    async fn without_flags_nothing_is_configured() {
        let identity = flags(&[]).unwrap().prepare().unwrap();
        assert!(identity.config.authorization.is_none() && identity.config.remote_tokens.is_empty());
        assert!(
            identity.config.anonymous.user("/livez").is_some()
                && identity.config.anonymous.user("/api").is_none()
        );
        let open = flags(&["--anonymous-auth=true"]).unwrap().prepare().unwrap();
        assert!(open.config.anonymous.user("/api").is_some());
        let closed = flags(&["--anonymous-auth=false"]).unwrap().prepare().unwrap();
        assert!(closed.config.anonymous.user("/livez").is_none());
    }

    #[tokio::test]
    async fn what_cannot_work_is_refused_at_start() {
        assert!(flags(&["--oidc-issuer-url=https://i"]).is_err());
        assert!(flags(&["--authorization-mode=RBAC", "--authorization-config=/x"]).is_err());
        assert!(
            refusal(&["--oidc-issuer-url=http://i", "--oidc-client-id=c"])
                .contains("URL scheme must be https")
        );
        assert!(
            refusal(&["--oidc-issuer-url=https://i", "--oidc-client-id=c", "--oidc-signing-algs=none"])
                .contains("unsupported signing alg")
        );
        assert!(refusal(&["--authorization-mode=Webhook"]).contains("config file not passed"));
        assert!(refusal(&["--authorization-mode=RBAC,RBAC"]).contains("Duplicate value: \"RBAC\""));
        assert!(refusal(&["--authentication-config=/nonexistent"]).contains("read /nonexistent"));
        assert!(refusal(&["--service-account-max-token-expiration=10m"]).contains("between 1 hour"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        std::fs::write(
            &file,
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: [{}]\n",
        )
        .unwrap();
        let refused = refusal(&[&format!("--authentication-config={}", file.display())]);
        assert!(refused.contains("jwt[0].issuer.url: Required value"), "{refused}");
    }

    #[tokio::test]
    async fn a_file_of_tokens_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = Utf8PathBuf::from_path_buf(dir.path().join("tokens.csv")).unwrap();
        std::fs::write(&file, "abc,jane,7,\"dev,ops\"\n\n# note\ndef,joe,8\n").unwrap();
        let tokens = static_tokens(&file).unwrap();
        assert_eq!((tokens[0].user.name.as_str(), tokens[0].user.groups.len()), ("jane", 2));
        assert!(tokens[1].user.groups.is_empty());
        std::fs::write(&file, "abc,jane\n").unwrap();
        assert!(static_tokens(&file).err().expect("refused").to_string().contains("at least 3 columns"));
    }
}
