//! `AuthenticationConfiguration` of apiserver.config.k8s.io (v1, v1beta1 and v1alpha1), and the `--oidc-*` flags that
//! say the same with less (KEP-3331).
//!
//! Reading is strict: a member nobody knows is an error, as is everything upstream's validation refuses, at the same
//! field path and in the same words.

use super::super::Anonymous;
use machinery::field::{FieldError, FieldErrors, Path};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};

const GROUP: &str = "apiserver.config.k8s.io";

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthenticationConfiguration {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub jwt: Vec<JwtConfig>,
    #[serde(default)]
    pub anonymous: Option<AnonymousConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnonymousConfig {
    #[serde(default)]
    pub enabled: bool,
    #[serde(default)]
    pub conditions: Vec<AnonymousCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnonymousCondition {
    #[serde(default)]
    pub path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtConfig {
    #[serde(default)]
    pub issuer: IssuerConfig,
    #[serde(default)]
    pub claim_validation_rules: Vec<ClaimValidationRule>,
    #[serde(default)]
    pub claim_mappings: ClaimMappings,
    #[serde(default)]
    pub user_validation_rules: Vec<UserValidationRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssuerConfig {
    #[serde(default)]
    pub url: String,
    #[serde(default, rename = "discoveryURL")]
    pub discovery_url: Option<String>,
    #[serde(default)]
    pub certificate_authority: String,
    #[serde(default)]
    pub audiences: Vec<String>,
    #[serde(default)]
    pub audience_match_policy: String,
    #[serde(default)]
    pub egress_selector_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimValidationRule {
    #[serde(default)]
    pub claim: String,
    #[serde(default)]
    pub required_value: String,
    #[serde(default)]
    pub expression: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimMappings {
    #[serde(default)]
    pub username: PrefixedClaim,
    #[serde(default)]
    pub groups: PrefixedClaim,
    #[serde(default)]
    pub uid: ClaimOrExpression,
    #[serde(default)]
    pub extra: Vec<ExtraMapping>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefixedClaim {
    #[serde(default)]
    pub claim: String,
    #[serde(default)]
    pub prefix: Option<String>,
    #[serde(default)]
    pub expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimOrExpression {
    #[serde(default)]
    pub claim: String,
    #[serde(default)]
    pub expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtraMapping {
    #[serde(default)]
    pub key: String,
    #[serde(default)]
    pub value_expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserValidationRule {
    #[serde(default)]
    pub expression: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Decode(String),
    #[error("{}", join(.0))]
    Invalid(Vec<FieldError>),
}

fn join(errors: &[FieldError]) -> String {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Reads a configuration file of group apiserver.config.k8s.io: right kind, a version of `versions`, known members.
pub(crate) fn read<T: serde::de::DeserializeOwned>(
    text: &[u8],
    kind: &str,
    versions: &[&str],
) -> Result<T, ConfigError> {
    let value: Value =
        machinery::codec::yaml::decode(text).map_err(|e| ConfigError::Decode(e.to_string()))?;
    let (version, found) =
        (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
    let known =
        version.strip_prefix(GROUP).and_then(|v| v.strip_prefix('/')).is_some_and(|v| versions.contains(&v));
    if !known || found != kind {
        return Err(ConfigError::Decode(format!(
            "no kind {found:?} is registered for version {version:?}; expected {kind} of {}",
            versions.iter().map(|v| format!("{GROUP}/{v}")).collect::<Vec<_>>().join(", ")
        )));
    }
    serde_json::from_value(value).map_err(|e| ConfigError::Decode(format!("strict decoding error: {e}")))
}

impl AuthenticationConfiguration {
    /// Reads and validates. `disallowed` are the service-account issuers, which no other issuer may share.
    pub fn parse(text: &[u8], disallowed: &[String]) -> Result<Self, ConfigError> {
        let config: Self = read(text, "AuthenticationConfiguration", &["v1", "v1beta1", "v1alpha1"])?;
        let errors = config.validate(disallowed);
        if errors.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(errors)) }
    }

    /// What `anonymous` says; `None` leaves it to the flag.
    pub fn anonymous(&self) -> Option<Anonymous> {
        self.anonymous.as_ref().map(|a| match (a.enabled, a.conditions.as_slice()) {
            (false, _) => Anonymous::Off,
            (true, []) => Anonymous::Everywhere,
            (true, paths) => Anonymous::Paths(paths.iter().map(|c| c.path.clone()).collect()),
        })
    }

    /// Whether any rule or mapping is a CEL expression.
    pub fn uses_expressions(&self) -> bool {
        self.jwt.iter().any(JwtConfig::uses_expressions)
    }

    pub fn validate(&self, disallowed: &[String]) -> Vec<FieldError> {
        let mut errors = FieldErrors::default();
        let root = Path::new("jwt");
        if self.jwt.len() > 64 {
            errors.push(FieldError::too_many(&root, self.jwt.len(), 64));
            return errors.0;
        }
        let (mut issuers, mut discoveries) = (HashSet::new(), HashSet::new());
        for (i, jwt) in self.jwt.iter().enumerate() {
            let at = root.index(i);
            jwt.validate(&at, disallowed, &mut errors);
            let issuer = at.child("issuer");
            if !issuers.insert(&jwt.issuer.url) {
                errors.duplicate(&issuer.child("url"), jwt.issuer.url.as_str());
            }
            if let Some(url) = jwt.issuer.discovery_url.as_ref().filter(|u| !u.is_empty())
                && !discoveries.insert(url)
            {
                errors.duplicate(&issuer.child("discoveryURL"), url.as_str());
            }
        }
        if let Some(anonymous) = &self.anonymous
            && !anonymous.enabled
            && !anonymous.conditions.is_empty()
        {
            let paths: Vec<&str> = anonymous.conditions.iter().map(|c| c.path.as_str()).collect();
            errors.invalid(
                &Path::new("anonymous.conditions"),
                serde_json::json!(paths),
                "enabled should be set to true when conditions are defined",
            );
        }
        errors.0
    }
}

impl JwtConfig {
    pub fn uses_expressions(&self) -> bool {
        let m = &self.claim_mappings;
        [&m.username.expression, &m.groups.expression, &m.uid.expression].iter().any(|e| !e.is_empty())
            || !m.extra.is_empty()
            || !self.user_validation_rules.is_empty()
            || self.claim_validation_rules.iter().any(|r| !r.expression.is_empty())
    }
}

/// `--oidc-*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OidcFlags {
    pub issuer_url: String,
    pub client_id: String,
    /// Content of `--oidc-ca-file`.
    pub certificate_authority: String,
    /// Default: `sub`.
    pub username_claim: String,
    /// `-` is no prefix; empty is `<issuer>#` for every claim but `email`.
    pub username_prefix: String,
    pub groups_claim: String,
    pub groups_prefix: String,
    pub required_claims: BTreeMap<String, String>,
}

impl OidcFlags {
    /// The same as a structured configuration.
    pub fn to_config(&self) -> JwtConfig {
        let claim = if self.username_claim.is_empty() { "sub" } else { self.username_claim.as_str() };
        let prefix = match self.username_prefix.as_str() {
            "-" => String::new(),
            "" if claim == "email" => String::new(),
            "" => format!("{}#", self.issuer_url),
            prefix => prefix.to_owned(),
        };
        let groups = if self.groups_claim.is_empty() {
            PrefixedClaim::default()
        } else {
            PrefixedClaim {
                claim: self.groups_claim.clone(),
                prefix: Some(self.groups_prefix.clone()),
                expression: String::new(),
            }
        };
        let rule = |(claim, value): (&String, &String)| ClaimValidationRule {
            claim: claim.clone(),
            required_value: value.clone(),
            ..ClaimValidationRule::default()
        };
        JwtConfig {
            issuer: IssuerConfig {
                url: self.issuer_url.clone(),
                audiences: vec![self.client_id.clone()],
                certificate_authority: self.certificate_authority.clone(),
                ..IssuerConfig::default()
            },
            claim_mappings: ClaimMappings {
                username: PrefixedClaim {
                    claim: claim.into(),
                    prefix: Some(prefix),
                    expression: String::new(),
                },
                groups,
                ..ClaimMappings::default()
            },
            claim_validation_rules: self.required_claims.iter().map(rule).collect(),
            ..JwtConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: https://issuer.example.com
    audiences: [a, b]
    audienceMatchPolicy: MatchAny
  claimMappings:
    username: {claim: sub, prefix: "oidc:"}
anonymous:
  enabled: true
  conditions:
  - path: /livez
"#;

    fn parse(text: &str) -> Result<AuthenticationConfiguration, String> {
        AuthenticationConfiguration::parse(text.as_bytes(), &["https://ours".into()])
            .map_err(|e| e.to_string())
    }

    #[test]
    fn versions_and_unknown_members() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.jwt[0].issuer.audiences, ["a", "b"]);
        assert_eq!(config.anonymous(), Some(Anonymous::Paths(vec!["/livez".into()])));
        assert!(!config.uses_expressions());
        assert!(parse(&GOOD.replace("io/v1", "io/v1beta1")).is_ok());
        assert!(parse(&GOOD.replace("io/v1", "io/v2")).unwrap_err().contains("no kind"));
        assert!(
            parse(&GOOD.replace("audiences:", "audience:")).unwrap_err().contains("unknown field `audience`")
        );
        assert!(parse("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration").is_ok());
    }

    #[test]
    fn refusals_are_upstreams() {
        for (from, to, wanted) in [
            (
                "https://issuer.example.com",
                "http://issuer.example.com",
                "jwt[0].issuer.url: Invalid value: \"http://issuer.example.com\": URL scheme must be https",
            ),
            (
                "https://issuer.example.com",
                "https://ours",
                "jwt[0].issuer.url: Invalid value: \"https://ours\": URL must not overlap with disallowed issuers: [https://ours]",
            ),
            ("https://issuer.example.com", "https://u:p@h", "URL must not contain a username or password"),
            ("https://issuer.example.com", "https://h?x=y", "URL must not contain a query"),
            (
                "audienceMatchPolicy: MatchAny",
                "audienceMatchPolicy: \"\"",
                "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences",
            ),
            (
                "audiences: [a, b]",
                "audiences: []",
                "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
            ),
            (
                ", prefix: \"oidc:\"",
                "",
                "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set.",
            ),
            (
                "claim: sub, ",
                "",
                "jwt[0].claimMappings.username: Required value: claim or expression is required",
            ),
            (
                "enabled: true",
                "enabled: false",
                "anonymous.conditions: Invalid value: [\"/livez\"]: enabled should be set to true when conditions are defined",
            ),
        ] {
            let error = parse(&GOOD.replace(from, to)).unwrap_err();
            assert!(error.contains(wanted), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn expressions_are_noticed() {
        let text = GOOD.replace("{claim: sub, prefix: \"oidc:\"}", "{expression: claims.sub}");
        assert!(parse(&text).unwrap().uses_expressions());
        let email = text.replace("claims.sub", "claims.?email.orValue('')");
        assert!(parse(&email).unwrap_err().contains("claims.email_verified must be used"));
        assert!(parse(&email.replace("claims.?email", "claims.email_verified && claims.email")).is_ok());
    }

    #[test]
    fn flags_mean_what_upstreams_mean() {
        let flags = OidcFlags {
            issuer_url: "https://i".into(),
            client_id: "c".into(),
            groups_claim: "groups".into(),
            ..OidcFlags::default()
        };
        let name = |f: &OidcFlags| f.to_config().claim_mappings.username;
        assert_eq!(name(&flags).prefix.as_deref(), Some("https://i#"));
        assert_eq!(name(&flags).claim, "sub");
        let email = OidcFlags { username_claim: "email".into(), ..flags.clone() };
        assert_eq!(name(&email).prefix.as_deref(), Some(""));
        let none = OidcFlags { username_prefix: "-".into(), ..flags.clone() };
        assert_eq!(name(&none).prefix.as_deref(), Some(""));
        let mut errors = FieldErrors::default();
        flags.to_config().validate(&Path::new("jwt"), &[], &mut errors);
        assert!(errors.0.is_empty());
    }
}
