//! The audit policy (audit.k8s.io/v1 Policy): at what level a request is recorded.

use crate::authentication::UserInfo;
use crate::http::RequestInfo;
use machinery::field::{FieldErrors, Path as FieldPath};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

const LEVELS: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];
const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

/// A policy file that cannot be used, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("failed to read file path {path:?}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{why}: from file {path}")]
    Bad { path: String, why: String },
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What one request's record holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub level: Level,
    /// A bit for each stage left out.
    omitted: u8,
    pub omit_managed_fields: bool,
}

impl Decision {
    pub fn omits(self, stage: Stage) -> bool {
        self.omitted & (1 << stage as u8) != 0
    }
}

/// A checked policy.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<(Rule, Decision)>,
}

impl Policy {
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let shown = path.display().to_string();
        let bytes =
            std::fs::read(path).map_err(|source| PolicyError::Read { path: shown.clone(), source })?;
        Self::read(&bytes).map_err(|why| PolicyError::Bad { path: shown, why })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let value = machinery::codec::yaml::decode(bytes).map_err(|e| format!("failed decoding: {e}"))?;
        let (version, kind) = (value["apiVersion"].as_str(), value["kind"].as_str());
        if version != Some("audit.k8s.io/v1") || kind != Some("Policy") {
            let (version, kind) = (version.unwrap_or_default(), kind.unwrap_or_default());
            return Err(format!("unknown group version field {version}, Kind={kind} in policy"));
        }
        unknown_members(&value);
        let file = File::deserialize(&value).map_err(|e| format!("failed decoding: {e}"))?;
        let mut errors = FieldErrors(Vec::new());
        check_stages(&file.omit_stages, &FieldPath::new("omitStages"), &mut errors);
        let rules = FieldPath::new("rules");
        for (i, rule) in file.rules.iter().enumerate() {
            rule.check(&rules.index(i), &mut errors);
        }
        match errors.0.as_slice() {
            [] => {}
            [one] => return Err(one.to_string()),
            many => {
                let all: Vec<String> = many.iter().map(ToString::to_string).collect();
                return Err(format!("[{}]", all.join(", ")));
            }
        }
        if file.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        let decide = |rule: Rule| {
            let stages = rule.omit_stages.iter().chain(&file.omit_stages);
            let omitted = stages
                .filter_map(|s| STAGES.iter().position(|stage| stage == s))
                .fold(0, |bits, at| bits | 1 << at);
            let level = [Level::None, Level::Metadata, Level::Request, Level::RequestResponse];
            let level = LEVELS.iter().position(|l| *l == rule.level).map_or(Level::None, |at| level[at]);
            let omit_managed_fields = rule.omit_managed_fields.unwrap_or(file.omit_managed_fields);
            (rule, Decision { level, omitted, omit_managed_fields })
        };
        Ok(Self { rules: file.rules.clone().into_iter().map(decide).collect() })
    }

    /// The first rule that matches decides; without one nothing is recorded.
    pub fn decide(&self, user: Option<&UserInfo>, info: &RequestInfo) -> Decision {
        let rule = self.rules.iter().find(|(rule, _)| rule.matches(user, info));
        rule.map(|(_, decision)| *decision).unwrap_or_default()
    }
}

/// Upstream falls back to lenient reading, with a warning.
fn unknown_members(value: &Value) {
    const POLICY: &[&str] = &["apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"];
    const RULE: &[&str] = &[
        "level",
        "users",
        "userGroups",
        "verbs",
        "resources",
        "namespaces",
        "nonResourceURLs",
        "omitStages",
        "omitManagedFields",
    ];
    let warn = |value: &Value, known: &[&str], place: &str| {
        for name in value.as_object().into_iter().flatten().map(|(k, _)| k) {
            if !known.contains(&name.as_str()) {
                tracing::warn!(field = %format!("{place}{name}"), "audit policy holds an unknown field");
            }
        }
    };
    warn(value, POLICY, "");
    for (i, rule) in value["rules"].as_array().into_iter().flatten().enumerate() {
        warn(rule, RULE, &format!("rules[{i}]."));
    }
}

fn check_stages(stages: &[String], path: &FieldPath<'_>, errors: &mut FieldErrors) {
    for (i, stage) in stages.iter().enumerate() {
        if !STAGES.contains(&stage.as_str()) {
            let message = format!("allowed stages are {}", STAGES.join(","));
            errors.invalid(&path.index(i), stage.as_str(), &message);
        }
    }
}

impl Rule {
    fn check(&self, path: &FieldPath<'_>, errors: &mut FieldErrors) {
        if self.level.is_empty() {
            errors.required(&path.child("level"), "");
        } else if !LEVELS.contains(&self.level.as_str()) {
            errors.not_supported(&path.child("level"), self.level.as_str(), &LEVELS);
        }
        let urls = path.child("nonResourceURLs");
        for (i, url) in self.urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            if !url.starts_with('/') {
                let message = "non-resource URL rules must begin with a '/' character";
                errors.invalid(&urls.index(i), url.as_str(), message);
            }
            if url.char_indices().any(|(at, c)| c == '*' && at + 1 < url.len()) {
                let message = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.invalid(&urls.index(i), url.as_str(), message);
            }
        }
        let resources = path.child("resources");
        for group in &self.resources {
            if !group.group.is_empty()
                && group.group != "*"
                && let Some(why) = machinery::names::dns1123_subdomain(&group.group).first()
            {
                errors.invalid(&resources.child("group"), group.group.as_str(), why);
            }
            if !group.resource_names.is_empty() && group.resources.is_empty() {
                let message = "using resourceNames requires at least one resource";
                errors.invalid(&resources.child("resourceNames"), json!(group.resource_names), message);
            }
        }
        check_stages(&self.omit_stages, &path.child("omitStages"), errors);
        if !self.urls.is_empty() && (!self.resources.is_empty() || !self.namespaces.is_empty()) {
            let message = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&urls, json!(self.urls), message);
        }
    }

    fn matches(&self, user: Option<&UserInfo>, info: &RequestInfo) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|w| w == word);
        if !self.users.is_empty() && !user.is_some_and(|u| has(&self.users, &u.name)) {
            return false;
        }
        if !self.user_groups.is_empty()
            && !user.is_some_and(|u| u.groups.iter().any(|g| has(&self.user_groups, g)))
        {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.resource_request
                && (self.namespaces.is_empty() || has(&self.namespaces, &info.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(info)));
        }
        self.urls.is_empty()
            || !info.resource_request && self.urls.iter().any(|url| url_matches(url, &info.path))
    }
}

fn url_matches(spec: &str, path: &str) -> bool {
    spec == "*" || spec == path || spec.ends_with('*') && path.starts_with(spec.trim_end_matches('*'))
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != "*" && self.group != info.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&info.name) {
            return false;
        }
        let sub = info.subresource.as_str();
        self.resources.iter().any(|wanted| {
            if wanted == "*" {
                return true;
            }
            match wanted.split_once('/') {
                None => sub.is_empty() && *wanted == info.resource,
                // `resource/*` takes in the resource itself, as upstream's does.
                Some((resource, "*")) => resource == info.resource,
                Some(("*", subresource)) => !sub.is_empty() && subresource == sub,
                Some((resource, subresource)) => resource == info.resource && subresource == sub,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rules: &str) -> Result<Policy, String> {
        Policy::read(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}").as_bytes())
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let policy = read(
            r#"
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: Metadata
  resources: [{group: "", resources: [secrets, configmaps, "serviceaccounts/token"]}]
- level: Request
  resources: [{group: "", resources: ["pods/*"], resourceNames: [a]}]
  omitManagedFields: false
- level: RequestResponse
  namespaces: [kube-system]
- level: Metadata
  userGroups: [ops]
  omitStages: [ResponseStarted]
"#,
        )
        .unwrap();
        let jane = UserInfo::new("jane", &["ops"]);
        let proxy = UserInfo::new("system:kube-proxy", &[]);
        let at = |user: &UserInfo, method: &str, path: &str, query: &[(String, String)]| {
            let info = RequestInfo::read(&method.parse().unwrap(), path, query).unwrap();
            policy.decide(Some(user), &info)
        };
        let watch = [("watch".to_owned(), "1".to_owned())];
        assert_eq!(at(&proxy, "GET", "/api/v1/pods", &watch).level, Level::None);
        assert_eq!(at(&jane, "GET", "/healthz/etcd", &[]).level, Level::None);
        assert_eq!(at(&jane, "GET", "/api/v1/namespaces/a/secrets/x", &[]).level, Level::Metadata);
        let token = "/api/v1/namespaces/a/serviceaccounts/x/token";
        assert_eq!(at(&proxy, "POST", token, &[]).level, Level::Metadata);
        let exec = at(&proxy, "POST", "/api/v1/namespaces/b/pods/a/exec", &[]);
        assert_eq!((exec.level, exec.omit_managed_fields), (Level::Request, false));
        assert_eq!(at(&proxy, "GET", "/api/v1/namespaces/b/pods/c/log", &[]).level, Level::None);
        let system = at(&proxy, "GET", "/api/v1/namespaces/kube-system/pods", &[]);
        assert_eq!((system.level, system.omit_managed_fields), (Level::RequestResponse, true));
        let other = at(&jane, "GET", "/api/v1/nodes", &[]);
        assert!(other.omits(Stage::RequestReceived) && other.omits(Stage::ResponseStarted));
        assert!(!other.omits(Stage::ResponseComplete));
        assert_eq!(at(&proxy, "GET", "/api/v1/nodes", &[]).level, Level::None);
    }

    #[test]
    fn bad_files_are_refused_in_one_sentence() {
        for (rules, why) in [
            ("", "loaded illegal policy with 0 rules"),
            ("rules: [{level: Loud}]", "rules[0].level: Unsupported value: \"Loud\""),
            ("rules: [{}]", "rules[0].level: Required value"),
            (
                "rules: [{level: None, omitStages: [Never]}]",
                "rules[0].omitStages[0]: Invalid value: \"Never\": allowed stages are RequestReceived,",
            ),
            (
                "rules: [{level: None, nonResourceURLs: [healthz]}]",
                "rules[0].nonResourceURLs[0]: Invalid value: \"healthz\": non-resource URL rules must begin with",
            ),
            (
                "rules: [{level: None, resources: [{group: rbac.authorization.k8s.io/v1}]}]",
                "rules[0].resources.group: Invalid value: \"rbac.authorization.k8s.io/v1\"",
            ),
            ("rules: {", "failed decoding: "),
        ] {
            let error = read(rules).unwrap_err();
            assert!(error.contains(why), "{rules}: {error}");
        }
        let other = Policy::read(b"apiVersion: v1\nkind: Pod").unwrap_err();
        assert!(other.starts_with("unknown group version field"), "{other}");
        let missing = Policy::load(Path::new("/nonexistent/policy")).unwrap_err().to_string();
        assert!(missing.starts_with("failed to read file path \"/nonexistent/policy\""), "{missing}");
    }
}
