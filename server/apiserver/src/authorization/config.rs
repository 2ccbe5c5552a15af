//! `AuthorizationConfiguration` of apiserver.config.k8s.io (v1, v1beta1 and v1alpha1), and the `--authorization-*` flags
//! that say the same with less (KEP-3221).

use crate::authentication::jwt::config::{ConfigError, read};
use machinery::field::{FieldError, FieldErrors, Path};
use serde::Deserialize;
use std::collections::HashSet;
use std::time::Duration;

/// Authorizers by the name of their type. ABAC is known upstream and not here.
pub const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationConfiguration {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub authorizers: Vec<AuthorizerConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizerConfig {
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub webhook: Option<WebhookConfig>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookConfig {
    #[serde(default = "five_minutes", rename = "authorizedTTL")]
    pub authorized_ttl: String,
    #[serde(default)]
    pub cache_authorized_requests: Option<bool>,
    #[serde(default = "half_a_minute", rename = "unauthorizedTTL")]
    pub unauthorized_ttl: String,
    #[serde(default)]
    pub cache_unauthorized_requests: Option<bool>,
    #[serde(default)]
    pub timeout: String,
    #[serde(default)]
    pub subject_access_review_version: String,
    #[serde(default)]
    pub match_condition_subject_access_review_version: String,
    #[serde(default)]
    pub failure_policy: String,
    #[serde(default)]
    pub connection_info: ConnectionInfo,
    #[serde(default)]
    pub match_conditions: Vec<MatchCondition>,
}

fn five_minutes() -> String {
    "5m".into()
}

fn half_a_minute() -> String {
    "30s".into()
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            authorized_ttl: five_minutes(),
            cache_authorized_requests: None,
            unauthorized_ttl: half_a_minute(),
            cache_unauthorized_requests: None,
            timeout: String::new(),
            subject_access_review_version: String::new(),
            match_condition_subject_access_review_version: String::new(),
            failure_policy: String::new(),
            connection_info: ConnectionInfo::default(),
            match_conditions: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionInfo {
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub kube_config_file: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchCondition {
    #[serde(default)]
    pub expression: String,
}

/// Go's `time.Duration` text, as far as configurations use it: `90s`, `5m`, `1h30m`, `500ms`, `0`.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).ok()
}

impl AuthorizationConfiguration {
    /// Reads and validates; files that it names must be there.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = read(text, "AuthorizationConfiguration", &["v1", "v1beta1", "v1alpha1"])?;
        let errors = config.validate();
        if errors.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(errors)) }
    }

    /// `--authorization-mode`, with one webhook where `Webhook` is among them.
    pub fn of_modes(modes: &[String], webhook: Option<&WebhookConfig>) -> Self {
        let one = |mode: &String| AuthorizerConfig {
            kind: mode.clone(),
            name: if mode == "Webhook" { "default".into() } else { mode.to_lowercase() },
            webhook: webhook.filter(|_| mode == "Webhook").cloned(),
        };
        Self { authorizers: modes.iter().map(one).collect(), ..Self::default() }
    }

    pub fn validate(&self) -> Vec<FieldError> {
        let mut errors = FieldErrors::default();
        let list = Path::new("authorizers");
        if self.authorizers.is_empty() {
            errors.required(&list, "at least one authorization mode must be defined");
        }
        let (mut types, mut names) = (HashSet::new(), HashSet::new());
        for (i, authorizer) in self.authorizers.iter().enumerate() {
            let at = list.index(i);
            let (kind, name) = (authorizer.kind.as_str(), authorizer.name.as_str());
            if kind.is_empty() {
                errors.required(&at.child("type"), "");
                continue;
            }
            if !TYPES.contains(&kind) {
                errors.not_supported(&at.child("type"), kind, &TYPES);
                continue;
            }
            if !types.insert(kind) && kind != "Webhook" {
                errors.duplicate(&at.child("type"), kind);
                continue;
            }
            if name.is_empty() {
                errors.required(&at.child("name"), "");
            } else if !names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            } else {
                let wrong = machinery::names::dns1123_subdomain(name);
                if !wrong.is_empty() {
                    let detail = format!("authorizer name is invalid: {}", wrong.join(", "));
                    errors.invalid(&at.child("name"), name, detail);
                }
            }
            match (&authorizer.webhook, kind == "Webhook") {
                (None, true) => errors.required(&at.child("webhook"), "required when type=Webhook"),
                (Some(webhook), true) => webhook.validate(&at, &mut errors),
                (Some(_), false) => {
                    errors.invalid(
                        &at.child("webhook"),
                        "non-null",
                        "may only be specified when type=Webhook",
                    );
                }
                (None, false) => {}
            }
        }
        errors.0
    }
}

impl WebhookConfig {
    fn validate(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        let half_minute = Duration::from_secs(30);
        for (name, text, most) in [
            ("timeout", &self.timeout, Some(half_minute)),
            ("authorizedTTL", &self.authorized_ttl, None),
            ("unauthorizedTTL", &self.unauthorized_ttl, None),
        ] {
            let at = at.child(name);
            let rule = if most.is_some() { "must be > 0s and <= 30s" } else { "must be > 0s" };
            match duration(text) {
                _ if text.is_empty() => errors.required(&at, ""),
                Some(d) if d.is_zero() => errors.required(&at, ""),
                Some(d) if most.is_none_or(|most| d <= most) => {}
                _ => errors.invalid(&at, text.as_str(), rule),
            }
        }
        let choice = |errors: &mut FieldErrors, name: &str, value: &str, of: &[&str]| {
            if value.is_empty() {
                errors.required(&at.child(name), "");
            } else if !of.contains(&value) {
                errors.not_supported(&at.child(name), value, of);
            }
        };
        choice(errors, "subjectAccessReviewVersion", &self.subject_access_review_version, &["v1", "v1beta1"]);
        let version = self.match_condition_subject_access_review_version.as_str();
        let version_at = at.child("matchConditionSubjectAccessReviewVersion");
        if version.is_empty() && !self.match_conditions.is_empty() {
            errors.required(&version_at, "required if match conditions are specified");
        } else if !matches!(version, "" | "v1") {
            errors.not_supported(&version_at, version, &["v1"]);
        }
        choice(errors, "failurePolicy", &self.failure_policy, &["NoOpinion", "Deny"]);
        self.validate_connection(at, errors);
        let conditions = at.child("matchConditions");
        if self.match_conditions.len() > 64 {
            errors.push(FieldError::too_many(&conditions, self.match_conditions.len(), 64));
            return;
        }
        let mut seen = HashSet::new();
        for (i, condition) in self.match_conditions.iter().enumerate() {
            let item = conditions.index(i);
            let at = item.child("expression");
            if condition.expression.trim().is_empty() {
                errors.required(&at, "");
            } else if !seen.insert(&condition.expression) {
                errors.duplicate(&at, condition.expression.as_str());
            }
        }
    }

    fn validate_connection(&self, at: &Path<'_>, errors: &mut FieldErrors) {
        let info = &self.connection_info;
        let file = info.kube_config_file.as_deref().unwrap_or_default();
        let file_at = at.child("connectionInfo.kubeConfigFile");
        match info.kind.as_str() {
            "" => errors.required(&at.child("connectionInfo.type"), ""),
            "InClusterConfig" if info.kube_config_file.is_some() => {
                errors.invalid(&file_at, file, "can only be set when type=KubeConfigFile");
            }
            "InClusterConfig" => {}
            "KubeConfigFile" if file.is_empty() => errors.required(&file_at, ""),
            "KubeConfigFile" if !file.starts_with('/') => {
                errors.invalid(&file_at, file, "must be an absolute path");
            }
            "KubeConfigFile" => match std::fs::metadata(file) {
                Err(error) => errors.invalid(&file_at, file, format!("error loading file: {error}")),
                Ok(found) if !found.is_file() => errors.invalid(&file_at, file, "must be a regular file"),
                Ok(_) => {}
            },
            other => errors.not_supported(
                &at.child("connectionInfo.type"),
                other,
                &["InClusterConfig", "KubeConfigFile"],
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &str) -> String {
        format!(
            r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Node
  name: node
- type: Webhook
  name: example.com
  webhook:
    timeout: 3s
    unauthorizedTTL: 10s
    subjectAccessReviewVersion: v1
    failurePolicy: Deny
    connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {file}}}
- type: RBAC
  name: rbac
"#
        )
    }

    #[test]
    fn durations_are_gos() {
        for (text, wanted) in
            [("90s", 90_000), ("1h30m", 5_400_000), ("500ms", 500), ("0", 0), ("1.5s", 1500)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(wanted)), "{text}");
        }
        for bad in ["", "5", "5x", "-1s", "s", "1s2"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_good_file_is_read_and_a_bad_one_refused_in_upstreams_words() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let good = text(file.path().to_str().unwrap());
        let parse =
            |text: &str| AuthorizationConfiguration::parse(text.as_bytes()).map_err(|e| e.to_string());
        let config = parse(&good).unwrap();
        let webhook = config.authorizers[1].webhook.as_ref().unwrap();
        assert_eq!((webhook.authorized_ttl.as_str(), webhook.unauthorized_ttl.as_str()), ("5m", "10s"));
        for (from, to, wanted) in [
            (
                "timeout: 3s",
                "timeout: 31s",
                "authorizers[1].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
            ),
            ("timeout: 3s", "", "authorizers[1].timeout: Required value"),
            ("type: RBAC", "type: Node", "authorizers[2].type: Duplicate value: \"Node\""),
            ("type: RBAC", "type: ABAC", "authorizers[2].type: Unsupported value: \"ABAC\""),
            ("name: rbac", "name: node", "authorizers[2].name: Duplicate value: \"node\""),
            (
                "failurePolicy: Deny",
                "failurePolicy: Ignore",
                "Unsupported value: \"Ignore\": supported values: \"NoOpinion\", \"Deny\"",
            ),
            (
                "Version: v1\n",
                "Version: v2\n",
                "authorizers[1].subjectAccessReviewVersion: Unsupported value: \"v2\"",
            ),
            (
                "timeout: 3s",
                "timeout: 3s\n    matchConditions: [{expression: 'true'}]",
                "matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified",
            ),
            ("kubeConfigFile: /", "kubeConfigFile: /none/", "error loading file"),
            ("kubeConfigFile: /", "kubeConfigFile: ", "must be an absolute path"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = parse(&good.replace(from, to)).unwrap_err();
            assert!(error.contains(wanted), "{from} -> {to}: {error}");
        }
        assert!(
            parse("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration")
                .unwrap_err()
                .contains("at least one authorization mode must be defined")
        );
    }

    #[test]
    fn modes_are_a_configuration() {
        let modes = AuthorizationConfiguration::of_modes(&["Node".into(), "RBAC".into()], None);
        assert!(modes.validate().is_empty());
        let bare = AuthorizationConfiguration::of_modes(&["Webhook".into()], None);
        assert!(!bare.validate().is_empty());
    }
}
