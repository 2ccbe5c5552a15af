//! One issuer: whether a token is its, what it says, and whom that makes (upstream's `token/oidc`).

use super::config::JwtConfig;
use super::keys::KeySet;
use crate::authentication::expressions::{Compiler, NO_COMPILER, Program, Scope, Yields};
use crate::authentication::{AuthenticationError, UserInfo};
use crate::remote::{Identity, Remote, Trust};
use crate::tokens::jose::{ALGORITHMS, Unverified, split};
use chrono::{DateTime, SecondsFormat, Utc};
use kit::pki::pem;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Clock skew granted to `nbf`, as upstream's library grants; `exp` gets none.
const LEEWAY: i64 = 60;
const DISTRIBUTED: Duration = Duration::from_secs(30);

type Claims = Map<String, Value>;
type Expression = Arc<dyn Program>;

pub struct JwtIssuer {
    config: JwtConfig,
    algorithms: Vec<String>,
    remote: Arc<Remote>,
    keys: KeySet,
    programs: Programs,
}

/// The configuration's expressions, compiled.
#[derive(Default)]
struct Programs {
    username: Option<Expression>,
    groups: Option<Expression>,
    uid: Option<Expression>,
    extra: Vec<(String, Expression)>,
    /// With the message of a refusal, or the expression itself.
    claim_rules: Vec<(String, Expression)>,
    user_rules: Vec<(String, Expression)>,
}

impl Programs {
    fn compile(config: &JwtConfig, compiler: Option<&dyn Compiler>) -> Result<Self, String> {
        if !config.uses_expressions() {
            return Ok(Self::default());
        }
        let compiler = compiler.ok_or_else(|| format!("issuer {:?}: {NO_COMPILER}", config.issuer.url))?;
        let one = |at: &str, text: &str, scope: Scope, yields: Yields| {
            compiler.compile(text, scope, yields).map_err(|e| format!("{at}: Invalid value: {text:?}: {e}"))
        };
        let optional = |at: &str, text: &str, yields: Yields| match text {
            "" => Ok(None),
            text => one(at, text, Scope::Claims, yields).map(Some),
        };
        let m = &config.claim_mappings;
        let mut out = Self {
            username: optional("claimMappings.username.expression", &m.username.expression, Yields::Text)?,
            groups: optional("claimMappings.groups.expression", &m.groups.expression, Yields::Texts)?,
            uid: optional("claimMappings.uid.expression", &m.uid.expression, Yields::Text)?,
            ..Self::default()
        };
        for mapping in &m.extra {
            let program =
                one("claimMappings.extra", &mapping.value_expression, Scope::Claims, Yields::Texts)?;
            out.extra.push((mapping.key.clone(), program));
        }
        let message = |message: &str, expression: &str| {
            if message.is_empty() {
                format!("validation expression '{expression}' failed")
            } else {
                format!("validation expression '{expression}' failed: {message}")
            }
        };
        for rule in config.claim_validation_rules.iter().filter(|r| !r.expression.is_empty()) {
            let program = one("claimValidationRules", &rule.expression, Scope::Claims, Yields::Bool)?;
            out.claim_rules.push((message(&rule.message, &rule.expression), program));
        }
        for rule in &config.user_validation_rules {
            let program = one("userValidationRules", &rule.expression, Scope::User, Yields::Bool)?;
            out.user_rules.push((message(&rule.message, &rule.expression), program));
        }
        Ok(out)
    }
}

fn refuse(message: impl Into<String>) -> AuthenticationError {
    AuthenticationError(message.into())
}

/// Who a token says made it; nothing is verified.
fn untrusted_issuer(claims: &Claims) -> &str {
    match claims.get("iss").and_then(Value::as_str).unwrap_or_default() {
        "accounts.google.com" => "https://accounts.google.com",
        issuer => issuer,
    }
}

/// A token taken apart, for every issuer to look at.
pub struct Presented<'a> {
    token: Unverified<'a>,
    claims: Claims,
}

impl<'a> Presented<'a> {
    pub fn read(token: &'a str) -> Option<Self> {
        let token = split(token)?;
        let claims = serde_json::from_slice(&token.payload).ok()?;
        Some(Self { token, claims })
    }

    pub fn issuer(&self) -> &str {
        untrusted_issuer(&self.claims)
    }
}

impl JwtIssuer {
    /// `algorithms` empty: all that upstream allows. Makes no call yet.
    pub fn new(
        config: JwtConfig,
        algorithms: Vec<String>,
        compiler: Option<&dyn Compiler>,
    ) -> Result<Self, String> {
        let programs = Programs::compile(&config, compiler)?;
        if let Some(bad) = algorithms.iter().find(|a| !ALGORITHMS.contains(&a.as_str())) {
            return Err(format!("oidc: unsupported signing alg: {bad:?}"));
        }
        // Upstream asks its egress configuration for a dialer; this server has none to ask.
        if !config.issuer.egress_selector_type.is_empty() {
            let kind = &config.issuer.egress_selector_type;
            return Err(format!("oidc: egress lookup required with egress selector type {kind:?}"));
        }
        let authority = &config.issuer.certificate_authority;
        let trust = if authority.is_empty() {
            Trust::System
        } else {
            Trust::Bundle(pem::certificates(authority.as_bytes()).map_err(|e| e.to_string())?)
        };
        let remote = Arc::new(Remote::new(&trust, Identity::default()).map_err(|e| e.to_string())?);
        let keys = KeySet::new(remote.clone(), &config.issuer.url, config.issuer.discovery_url.as_deref());
        let algorithms = if algorithms.is_empty() {
            ALGORITHMS.iter().map(|a| (*a).to_owned()).collect()
        } else {
            algorithms
        };
        Ok(Self { config, algorithms, remote, keys, programs })
    }

    pub fn url(&self) -> &str {
        &self.config.issuer.url
    }

    /// Fetches the keys where none are known yet.
    pub async fn prepare(&self) -> Result<(), String> {
        self.keys.prepare().await.map_err(|e| e.to_string())
    }

    pub fn is_ready(&self) -> bool {
        self.keys.is_ready()
    }

    /// Whom the token speaks for, and until when. `Ok(None)`: another issuer's.
    pub async fn authenticate(
        &self,
        presented: &Presented<'_>,
        now: DateTime<Utc>,
    ) -> Result<Option<(UserInfo, i64)>, AuthenticationError> {
        if presented.issuer() != self.url() {
            return Ok(None);
        }
        if !self.keys.is_ready() && self.keys.prepare().await.is_err() {
            return Err(refuse("oidc: authenticator not initialized"));
        }
        let until =
            self.verify(presented, now).await.map_err(|e| refuse(format!("oidc: verify token: {e}")))?;
        let mut claims = presented.claims.clone();
        self.expand(&mut claims, now)
            .await
            .map_err(|e| refuse(format!("oidc: could not expand distributed claims: {e}")))?;
        let user = self.user(&claims).map_err(refuse)?;
        Ok(Some((user, until)))
    }

    /// Signature, audience and time; the expiry.
    async fn verify(&self, presented: &Presented<'_>, now: DateTime<Utc>) -> Result<i64, String> {
        let Presented { token, claims } = presented;
        if !self.algorithms.contains(&token.algorithm) {
            return Err(format!(
                "oidc: id token signed with unsupported algorithm, expected {:?} got {:?}",
                self.algorithms, token.algorithm
            ));
        }
        let audiences = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        let wanted = &self.config.issuer.audiences;
        if !wanted.iter().any(|a| audiences.contains(a)) {
            return Err(if wanted.len() == 1 {
                format!("oidc: expected audience {:?} got {audiences:?}", wanted[0])
            } else {
                format!("oidc: expected audience in {wanted:?} got {audiences:?}")
            });
        }
        let seconds = |name: &str| claims.get(name).and_then(Value::as_f64).map(|s| s as i64);
        let expiry = seconds("exp").unwrap_or(0);
        if expiry < now.timestamp() {
            return Err(format!("oidc: token is expired (Token Expiry: {})", at(expiry)));
        }
        if let Some(start) = seconds("nbf").filter(|s| *s > now.timestamp() + LEEWAY) {
            return Err(format!(
                "oidc: current time {} before the nbf (not before) time: {}",
                at(now.timestamp()),
                at(start)
            ));
        }
        match self.keys.verify(token).await {
            Ok(true) => Ok(expiry),
            Ok(false) => Err("failed to verify signature: failed to verify id token signature".into()),
            Err(error) => Err(format!("failed to verify signature: fetching keys {error}")),
        }
    }

    /// Replaces a groups claim that lies elsewhere (OpenID Connect Core 5.6.2) by what it says there.
    async fn expand(&self, claims: &mut Claims, now: DateTime<Utc>) -> Result<(), String> {
        let claim = &self.config.claim_mappings.groups.claim;
        if claim.is_empty() || claims.contains_key(claim) {
            return Ok(());
        }
        let Some(names) = claims.get("_claim_names") else { return Ok(()) };
        let sources = claims.get("_claim_sources").ok_or("oidc: no claim sources")?;
        let Some(source) = names[claim.as_str()].as_str() else { return Ok(()) };
        let endpoint = sources.get(source).ok_or_else(|| {
            format!("id token _claim_names contained a source {source} missing in _claims_sources")
        })?;
        let Some(url) = endpoint["endpoint"].as_str().filter(|u| !u.is_empty()) else { return Ok(()) };
        let during = |e: String| format!("while getting distributed claim {claim:?}: {e}");
        let answer = match endpoint["access_token"].as_str().filter(|t| !t.is_empty()) {
            Some(token) => self.remote.get_as(url, token, DISTRIBUTED).await,
            None => self.remote.get(url, DISTRIBUTED).await,
        };
        let answer = answer.map_err(|e| during(e.to_string()))?;
        if !(200..=226).contains(&answer.code) {
            return Err(during(format!("error while getting distributed claim JWT: {}", answer.code)));
        }
        let text = String::from_utf8(answer.body.to_vec())
            .map_err(|_| during("could not decode distributed claim response".into()))?;
        let presented = Presented::read(&text).ok_or_else(|| {
            format!(
                "getting untrusted issuer from endpoint {url} failed for claim {claim:?}: malformed token"
            )
        })?;
        let keys = KeySet::new(self.remote.clone(), presented.issuer(), None);
        let verified = keys.verify(&presented.token).await.map_err(|e| e.to_string())?;
        let expired = presented.claims.get("exp").and_then(Value::as_i64).unwrap_or(0) < now.timestamp();
        let audience = match presented.claims.get("aud") {
            Some(Value::String(one)) => self.config.issuer.audiences.contains(one),
            Some(Value::Array(many)) => many
                .iter()
                .filter_map(Value::as_str)
                .any(|a| self.config.issuer.audiences.iter().any(|w| w == a)),
            _ => false,
        };
        if !verified || expired || !audience || !self.algorithms.contains(&presented.token.algorithm) {
            return Err("verify distributed claim token: the token is not valid".into());
        }
        let value = presented.claims.get(claim).cloned().ok_or_else(|| {
            format!("jwt returned by distributed claim endpoint {url:?} did not contain claim: {claim}")
        })?;
        claims.insert(claim.clone(), value);
        Ok(())
    }

    fn user(&self, claims: &Claims) -> Result<UserInfo, String> {
        let all = Value::Object(claims.clone());
        let mut user = UserInfo {
            name: self.username(claims, &all)?,
            groups: self.groups(claims, &all)?,
            uid: self.uid(claims, &all)?,
            extra: self.extra(claims, &all)?,
        };
        user.extra.retain(|_, values| !values.is_empty());
        for rule in self.config.claim_validation_rules.iter().filter(|r| !r.claim.is_empty()) {
            let claim = &rule.claim;
            let found = claims
                .get(claim)
                .ok_or_else(|| format!("oidc: required claim {claim} not present in ID token"))?;
            let found =
                found.as_str().ok_or_else(|| format!("oidc: parse claim {claim}: {}", not_text(found)))?;
            if found != rule.required_value {
                return Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {found}, want = {}",
                    rule.required_value
                ));
            }
        }
        check(&self.programs.claim_rules, &all)
            .map_err(|e| format!("oidc: error evaluating claim validation expression: {e}"))?;
        if !self.programs.user_rules.is_empty() {
            check(&self.programs.user_rules, &user.to_json())
                .map_err(|e| format!("oidc: error evaluating user info validation rule: {e}"))?;
        }
        Ok(user)
    }

    fn username(&self, claims: &Claims, all: &Value) -> Result<String, String> {
        if let Some(program) = &self.programs.username {
            let wrong = |e| format!("oidc: error evaluating username claim expression: {e}");
            let value = program.evaluate(all).map_err(wrong)?;
            let name = value
                .as_str()
                .ok_or_else(|| wrong("username claim expression must return a string".into()))?;
            if name.is_empty() {
                return Err("oidc: empty username via CEL expression is not allowed".into());
            }
            return Ok(name.to_owned());
        }
        let mapping = &self.config.claim_mappings.username;
        let claim = &mapping.claim;
        let parse = |e: String| format!("oidc: parse username claims {claim:?}: {e}");
        let found = claims.get(claim).ok_or_else(|| parse("claim not present".into()))?;
        let name = found.as_str().ok_or_else(|| parse(not_text(found)))?;
        if claim == "email" {
            match claims.get("email_verified") {
                None | Some(Value::Bool(true)) => {}
                Some(Value::Bool(false)) => return Err("oidc: email not verified".into()),
                Some(other) => return Err(format!("oidc: parse 'email_verified' claim: {other} is no bool")),
            }
        }
        Ok(format!("{}{name}", mapping.prefix.as_deref().unwrap_or_default()))
    }

    fn groups(&self, claims: &Claims, all: &Value) -> Result<Vec<String>, String> {
        let mapping = &self.config.claim_mappings.groups;
        if let Some(found) = claims.get(&mapping.claim).filter(|_| !mapping.claim.is_empty()) {
            let prefix = mapping.prefix.as_deref().unwrap_or_default();
            let groups =
                texts(found).map_err(|e| format!("oidc: parse groups claim {:?}: {e}", mapping.claim))?;
            return Ok(groups.into_iter().map(|g| format!("{prefix}{g}")).collect());
        }
        let Some(program) = &self.programs.groups else { return Ok(Vec::new()) };
        let value = program.evaluate(all).and_then(|v| texts(&v));
        value.map_err(|e| format!("oidc: error evaluating group claim expression: {e}"))
    }

    fn uid(&self, claims: &Claims, all: &Value) -> Result<String, String> {
        let claim = &self.config.claim_mappings.uid.claim;
        if !claim.is_empty() {
            let parse = |e: String| format!("oidc: parse uid claim {claim:?}: {e}");
            let found = claims.get(claim).ok_or_else(|| parse("claim not present".into()))?;
            return found.as_str().map(str::to_owned).ok_or_else(|| parse(not_text(found)));
        }
        let Some(program) = &self.programs.uid else { return Ok(String::new()) };
        let wrong = |e| format!("oidc: error evaluating uid claim expression: {e}");
        let value = program.evaluate(all).map_err(wrong)?;
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong("uid claim expression must return a string".into()))
    }

    fn extra(&self, claims: &Claims, all: &Value) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut extra = BTreeMap::new();
        if let Some(jti) = claims.get("jti").and_then(Value::as_str).filter(|j| !j.is_empty()) {
            extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={jti}")]);
        }
        for (key, program) in &self.programs.extra {
            let values = program.evaluate(all).and_then(|v| texts(&v));
            let values =
                values.map_err(|e| format!("oidc: error evaluating extra claim expression: {key}: {e}"))?;
            extra.insert(key.clone(), values.into_iter().filter(|v| !v.is_empty()).collect());
        }
        Ok(extra)
    }
}

fn check(rules: &[(String, Expression)], value: &Value) -> Result<(), String> {
    for (message, program) in rules {
        match program.evaluate(value)? {
            Value::Bool(true) => {}
            Value::Bool(false) => return Err(message.clone()),
            _ => return Err("validation expression must return a boolean".into()),
        }
    }
    Ok(())
}

/// A string, a list of strings, or nothing.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(one) if one.is_empty() => Ok(Vec::new()),
        Value::String(one) => Ok(vec![one.clone()]),
        Value::Array(many) => {
            many.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(|| not_text(v))).collect()
        }
        other => Err(not_text(other)),
    }
}

/// As Go's decoder says it.
fn not_text(value: &Value) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {kind} into Go value of type string")
}

fn at(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
