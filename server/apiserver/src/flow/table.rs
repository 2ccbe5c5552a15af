//! The compiled form of all FlowSchemas: which one a request belongs to, found without allocating.

use super::level::{Level, Series};
use super::spec::{CATCH_ALL, FlowSchema, ResourceRule, Rules, UrlRule};
use crate::authentication::UserInfo;
use crate::http::RequestInfo;
use http::HeaderValue;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distinguish {
    Nothing,
    ByUser,
    ByNamespace,
}

/// One FlowSchema with the level it names.
pub(super) struct Schema {
    pub name: Arc<str>,
    pub by: Distinguish,
    pub level: Arc<Level>,
    pub series: Arc<Series>,
    /// The two UIDs, as response headers.
    pub uid: HeaderValue,
    pub level_uid: HeaderValue,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    users: Names,
    groups: Names,
    /// Namespace and, unless all, name of service accounts: as user-name prefix or user name.
    accounts: Vec<(String, bool)>,
    resources: Vec<Resources>,
    urls: Vec<Urls>,
}

/// A list of words, or all of them.
#[derive(Debug)]
enum Names {
    All,
    Some(Vec<String>),
}

#[derive(Debug)]
struct Resources {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster: bool,
}

#[derive(Debug)]
struct Urls {
    verbs: Names,
    all: bool,
    exact: Vec<String>,
    /// Each ends in a slash.
    prefixes: Vec<String>,
}

impl Names {
    fn of(words: &[String]) -> Self {
        if words.len() == 1 && words[0] == "*" { Self::All } else { Self::Some(words.to_vec()) }
    }

    fn has(&self, word: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(words) => words.iter().any(|w| w == word),
        }
    }

    /// `resource` or `resource/subresource`, without joining them.
    fn has_pair(&self, resource: &str, subresource: &str) -> bool {
        if subresource.is_empty() {
            return self.has(resource);
        }
        match self {
            Self::All => true,
            Self::Some(words) => words
                .iter()
                .any(|w| w.strip_prefix(resource).and_then(|w| w.strip_prefix('/')) == Some(subresource)),
        }
    }
}

impl Rule {
    fn of(rules: &Rules) -> Self {
        let named = |kind: &str| -> Vec<String> {
            let subjects = rules.subjects.iter().filter(|s| s.kind == kind);
            subjects
                .filter_map(|s| if kind == "User" { s.user.as_ref() } else { s.group.as_ref() })
                .map(|n| n.name.clone())
                .collect()
        };
        let names = |list: Vec<String>| {
            if list.iter().any(|n| n == "*") { Names::All } else { Names::Some(list) }
        };
        let accounts = rules.subjects.iter().filter(|s| s.kind == "ServiceAccount");
        let accounts = accounts.filter_map(|s| s.service_account.as_ref()).map(|account| {
            if account.name == "*" {
                (format!("system:serviceaccount:{}:", account.namespace), true)
            } else {
                (format!("system:serviceaccount:{}:{}", account.namespace, account.name), false)
            }
        });
        Self {
            users: names(named("User")),
            groups: names(named("Group")),
            accounts: accounts.collect(),
            resources: rules.resource_rules.iter().map(Resources::of).collect(),
            urls: rules.non_resource_rules.iter().map(Urls::of).collect(),
        }
    }

    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        // The cheaper half first: most rules of the defaults are for everything.
        let scope = if info.resource_request {
            self.resources.iter().any(|r| r.matches(info))
        } else {
            self.urls.iter().any(|u| u.matches(info))
        };
        scope && self.subject(user)
    }

    fn subject(&self, user: &UserInfo) -> bool {
        if self.users.has(&user.name) {
            return true;
        }
        let grouped = match &self.groups {
            Names::All => true,
            Names::Some(wanted) => wanted.iter().any(|w| user.groups.iter().any(|g| g == w)),
        };
        grouped
            || self.accounts.iter().any(|(account, all)| {
                if *all { user.name.starts_with(account.as_str()) } else { user.name == *account }
            })
    }
}

impl Resources {
    fn of(rule: &ResourceRule) -> Self {
        Self {
            verbs: Names::of(&rule.verbs),
            groups: Names::of(&rule.api_groups),
            resources: Names::of(&rule.resources),
            namespaces: Names::of(&rule.namespaces),
            cluster: rule.cluster_scope,
        }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        self.verbs.has(info.verb)
            && self.resources.has_pair(&info.resource, &info.subresource)
            && self.groups.has(&info.group)
            && if info.namespace.is_empty() { self.cluster } else { self.namespaces.has(&info.namespace) }
    }
}

impl Urls {
    fn of(rule: &UrlRule) -> Self {
        let prefix = |url: &String| {
            let mut prefix = url.strip_suffix('*').unwrap_or(url).to_owned();
            if !prefix.ends_with('/') {
                prefix.push('/');
            }
            prefix
        };
        Self {
            verbs: Names::of(&rule.verbs),
            all: rule.urls.iter().any(|u| u == "*"),
            exact: rule.urls.clone(),
            prefixes: rule.urls.iter().map(prefix).collect(),
        }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        self.verbs.has(info.verb)
            && (self.all
                || self.exact.contains(&info.path)
                || self.prefixes.iter().any(|p| info.path.starts_with(p.as_str())))
    }
}

impl Schema {
    pub fn new(schema: &FlowSchema, level: Arc<Level>, level_uid: &str, series: Arc<Series>) -> Self {
        let header = |uid: &str| HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""));
        let by = match schema.spec.distinguisher_method.as_ref().map(|m| m.kind.as_str()) {
            Some("ByUser") => Distinguish::ByUser,
            Some("ByNamespace") => Distinguish::ByNamespace,
            _ => Distinguish::Nothing,
        };
        Self {
            name: schema.metadata.name.as_str().into(),
            by,
            level,
            series,
            uid: header(&schema.metadata.uid),
            level_uid: header(level_uid),
            rules: schema.spec.rules.iter().map(Rule::of).collect(),
        }
    }

    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, info))
    }

    /// What tells this schema's flows apart.
    pub fn distinguisher<'a>(&self, user: &'a UserInfo, info: &'a RequestInfo) -> &'a str {
        match self.by {
            Distinguish::Nothing => "",
            Distinguish::ByUser => &user.name,
            Distinguish::ByNamespace => &info.namespace,
        }
    }

    pub fn hash(&self, distinguisher: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&*self.name, distinguisher).hash(&mut hasher);
        hasher.finish()
    }
}

/// All schemas, by precedence and name. Never without `catch-all`.
#[derive(Default)]
pub(super) struct Table {
    pub schemas: Vec<Arc<Schema>>,
}

impl Table {
    pub fn find(&self, user: &UserInfo, info: &RequestInfo) -> Option<&Arc<Schema>> {
        self.schemas
            .iter()
            .find(|schema| schema.matches(user, info))
            .or_else(|| self.schemas.iter().find(|schema| &*schema.name == CATCH_ALL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(value: serde_json::Value) -> Rule {
        Rule::of(&serde_json::from_value(value).unwrap())
    }

    fn info(method: &str, path: &str) -> RequestInfo {
        RequestInfo::read(&method.parse().unwrap(), path, &[]).unwrap()
    }

    #[test]
    fn subjects() {
        let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]);
        let of =
            |subject: serde_json::Value| rule(json!({"subjects": [subject], "resourceRules": everything}));
        let pods = info("GET", "/api/v1/namespaces/a/pods");
        let jane = UserInfo::new("jane", &["devs"]);
        let robot = UserInfo::new("system:serviceaccount:a:robot", &[]);
        assert!(of(json!({"kind": "User", "user": {"name": "jane"}})).matches(&jane, &pods));
        assert!(of(json!({"kind": "User", "user": {"name": "*"}})).matches(&robot, &pods));
        assert!(!of(json!({"kind": "User", "user": {"name": "joe"}})).matches(&jane, &pods));
        assert!(of(json!({"kind": "Group", "group": {"name": "devs"}})).matches(&jane, &pods));
        assert!(!of(json!({"kind": "Group", "group": {"name": "ops"}})).matches(&jane, &pods));
        let account = |namespace: &str, name: &str| {
            of(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}}))
        };
        assert!(account("a", "robot").matches(&robot, &pods) && account("a", "*").matches(&robot, &pods));
        assert!(!account("a", "rob").matches(&robot, &pods) && !account("b", "*").matches(&robot, &pods));
    }

    #[test]
    fn scopes() {
        let all = json!([{"kind": "Group", "group": {"name": "*"}}]);
        let user = UserInfo::new("u", &[]);
        let status = rule(json!({"subjects": all, "resourceRules": [
            {"verbs": ["update"], "apiGroups": [""], "resources": ["nodes/status"], "clusterScope": true}]}));
        assert!(status.matches(&user, &info("PUT", "/api/v1/nodes/n/status")));
        assert!(!status.matches(&user, &info("PUT", "/api/v1/nodes/n")));
        assert!(!status.matches(&user, &info("PATCH", "/api/v1/nodes/n/status")));
        let spaces = rule(json!({"subjects": all, "resourceRules": [
            {"verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["a"]}]}));
        assert!(spaces.matches(&user, &info("GET", "/api/v1/namespaces/a/pods")));
        assert!(!spaces.matches(&user, &info("GET", "/api/v1/namespaces/b/pods")));
        assert!(!spaces.matches(&user, &info("GET", "/api/v1/pods")));
        let urls = rule(json!({"subjects": all, "nonResourceRules": [
            {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/x/*"]}]}));
        assert!(
            urls.matches(&user, &info("GET", "/healthz"))
                && urls.matches(&user, &info("GET", "/healthz/etcd"))
        );
        assert!(urls.matches(&user, &info("GET", "/x/y")) && !urls.matches(&user, &info("GET", "/healthzz")));
    }
}
