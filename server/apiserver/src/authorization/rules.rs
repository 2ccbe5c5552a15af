//! One RBAC rule: what it allows, and what it covers.

use super::Attributes;
use crate::reader::strings;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

type Strings = Box<[Box<str>]>;

/// `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub verbs: Strings,
    pub api_groups: Strings,
    pub resources: Strings,
    pub resource_names: Strings,
    pub non_resource_urls: Strings,
}

fn has(set: &[Box<str>], wanted: &str) -> bool {
    set.iter().any(|s| &**s == wanted)
}

fn matches(set: &[Box<str>], wanted: &str) -> bool {
    set.iter().any(|s| &**s == "*" || &**s == wanted)
}

impl Rule {
    /// From a `PolicyRule` in JSON.
    pub fn read(value: &Value) -> Self {
        let list = |pointer: &str| strings(value, pointer).into_iter().map(String::into_boxed_str).collect();
        Self {
            verbs: list("/verbs"),
            api_groups: list("/apiGroups"),
            resources: list("/resources"),
            resource_names: list("/resourceNames"),
            non_resource_urls: list("/nonResourceURLs"),
        }
    }

    pub fn read_all(rules: &[Value]) -> Vec<Self> {
        rules.iter().map(Self::read).collect()
    }

    /// As `ResourceRule` or `NonResourceRule` of authorization.k8s.io; `PolicyRule` has the same members.
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        let mut put = |key: &str, list: &Strings| {
            if !list.is_empty() {
                out.insert(key.into(), list.iter().map(|s| Value::from(&**s)).collect());
            }
        };
        put("verbs", &self.verbs);
        put("apiGroups", &self.api_groups);
        put("resources", &self.resources);
        put("resourceNames", &self.resource_names);
        put("nonResourceURLs", &self.non_resource_urls);
        out.into()
    }

    pub fn allows(&self, a: &Attributes) -> bool {
        if !matches(&self.verbs, &a.verb) {
            return false;
        }
        if !a.resource_request {
            return self.non_resource_urls.iter().any(|url| url_covers(url, &a.path));
        }
        matches(&self.api_groups, &a.api_group)
            && self.resources.iter().any(|r| resource_covers(r, &a.resource, &a.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, &a.name))
    }
}

fn resource_covers(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some((r, s)) => s == subresource && (r == "*" || r == resource),
        None => false,
    }
}

/// `*` at the end of the owner's path stands for any rest.
fn url_covers(owner: &str, path: &str) -> bool {
    owner == path || (owner.ends_with('*') && path.starts_with(owner.trim_end_matches('*')))
}

/// The part of `wanted` that `held` does not cover, in single steps (one group, resource, name and verb, or one URL
/// and verb); empty when everything is covered.
pub fn covers(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing = Vec::new();
    for step in wanted.iter().flat_map(steps) {
        if !held.iter().any(|rule| rule_covers(rule, &step)) {
            missing.push(step);
        }
    }
    missing
}

fn steps(rule: &Rule) -> Vec<Rule> {
    let one = |s: &str| -> Strings { Box::new([s.into()]) };
    let mut out = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let step = Rule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: one(verb),
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    out.push(step);
                } else {
                    let names = rule.resource_names.iter();
                    out.extend(names.map(|name| Rule { resource_names: one(name), ..step.clone() }));
                }
            }
        }
    }
    for url in &rule.non_resource_urls {
        for verb in &rule.verbs {
            out.push(Rule { non_resource_urls: one(url), verbs: one(verb), ..Rule::default() });
        }
    }
    out
}

fn rule_covers(owner: &Rule, step: &Rule) -> bool {
    let all = |set: &Strings, wanted: &Strings| has(set, "*") || wanted.iter().all(|w| has(set, w));
    let resource = |wanted: &str| {
        has(&owner.resources, "*")
            || has(&owner.resources, wanted)
            || wanted.split_once('/').is_some_and(|(_, sub)| has(&owner.resources, &format!("*/{sub}")))
    };
    let names = owner.resource_names.is_empty()
        || (!step.resource_names.is_empty()
            && step.resource_names.iter().all(|n| has(&owner.resource_names, n)));
    all(&owner.verbs, &step.verbs)
        && all(&owner.api_groups, &step.api_groups)
        && step.resources.iter().all(|r| resource(r))
        && names
        && step.non_resource_urls.iter().all(|u| owner.non_resource_urls.iter().any(|o| url_covers(o, u)))
}

/// Missing steps as upstream lists them: verbs of one resource joined, lines sorted.
pub(super) fn describe(missing: &[Rule]) -> String {
    let mut simple: BTreeMap<Rule, Vec<Box<str>>> = BTreeMap::new();
    let mut lines = BTreeSet::new();
    for step in missing {
        if step.non_resource_urls.is_empty() {
            let key = Rule { verbs: Box::default(), ..step.clone() };
            simple.entry(key).or_default().extend(step.verbs.iter().cloned());
        } else {
            lines.insert(line(step));
        }
    }
    for (rule, verbs) in simple {
        lines.insert(line(&Rule { verbs: verbs.into(), ..rule }));
    }
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

fn line(rule: &Rule) -> String {
    let mut out = String::from("{");
    let mut part = |name: &str, list: &Strings| {
        if !list.is_empty() {
            let separator = if out.len() > 1 { ", " } else { "" };
            let _ = write!(out, "{separator}{name}:{}", go_list(list));
        }
    };
    part("APIGroups", &rule.api_groups);
    part("Resources", &rule.resources);
    part("NonResourceURLs", &rule.non_resource_urls);
    part("ResourceNames", &rule.resource_names);
    part("Verbs", &rule.verbs);
    out.push('}');
    out
}

/// Go's `%q` of a list of strings.
pub(super) fn go_list<S: AsRef<str>>(list: &[S]) -> String {
    let quoted: Vec<String> = list.iter().map(|s| format!("{:?}", s.as_ref())).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn rule(value: Value) -> Rule {
        Rule::read(&value)
    }

    fn attributes(verb: &str, group: &str, resource: &str, sub: &str, name: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            api_group: group.into(),
            resource: resource.into(),
            subresource: sub.into(),
            name: name.into(),
            resource_request: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn resources_subresources_and_names() {
        let pods = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
        assert!(pods.allows(&attributes("get", "", "pods", "", "p")));
        assert!(!pods.allows(&attributes("get", "", "pods", "log", "p")));
        assert!(!pods.allows(&attributes("get", "apps", "pods", "", "p")));
        assert!(!pods.allows(&attributes("list", "", "pods", "", "")));
        let scale = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/scale"]}));
        assert!(scale.allows(&attributes("update", "apps", "deployments", "scale", "d")));
        assert!(!scale.allows(&attributes("update", "apps", "deployments", "", "d")));
        let named = rule(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}),
        );
        assert!(named.allows(&attributes("get", "", "secrets", "", "a")));
        assert!(!named.allows(&attributes("get", "", "secrets", "", "b")));
        assert!(!named.allows(&attributes("get", "", "secrets", "", "")));
    }

    #[test]
    fn urls() {
        let rule = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]}));
        let path = |p: &str| Attributes { verb: "get".into(), path: p.into(), ..Attributes::default() };
        assert!(rule.allows(&path("/healthz")) && rule.allows(&path("/apis/apps")));
        assert!(!rule.allows(&path("/healthz/etcd")) && !rule.allows(&path("/apis")));
        // A rule of URLs allows no resource and the other way round.
        assert!(!rule.allows(&attributes("get", "", "pods", "", "")));
    }

    #[test]
    fn missing_rights_read_like_upstream() {
        let wanted =
            rule(json!({"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods"]}));
        let held = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*"]}));
        let text = describe(&covers(&[held], &[wanted]));
        assert_eq!(
            text,
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}\n\
             {APIGroups:[\"apps\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}"
        );
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let pick = |from: &'static [&'static str]| {
            proptest::sample::subsequence(from.to_vec(), 0..=from.len())
                .prop_map(|v| v.into_iter().map(Box::from).collect::<Strings>())
        };
        (
            pick(&["get", "list", "*"]),
            pick(&["", "apps", "*"]),
            pick(&["pods", "pods/log", "*/log", "*"]),
            pick(&["a", "b"]),
        )
            .prop_map(|(verbs, api_groups, resources, resource_names)| Rule {
                verbs,
                api_groups,
                resources,
                resource_names,
                ..Rule::default()
            })
    }

    proptest! {
        /// What is covered grants nothing new: the law that escalation checks stand on.
        #[test]
        fn covered_rules_allow_nothing_that_was_not_allowed(
            held in proptest::collection::vec(any_rule(), 0..4),
            wanted in proptest::collection::vec(any_rule(), 0..3),
        ) {
            if covers(&held, &wanted).is_empty() {
                for verb in ["get", "list", "watch"] {
                    for group in ["", "apps", "batch"] {
                        for (resource, sub) in [("pods", ""), ("pods", "log"), ("jobs", "log"), ("jobs", "")] {
                            for name in ["", "a", "b", "c"] {
                                let a = attributes(verb, group, resource, sub, name);
                                if wanted.iter().any(|r| r.allows(&a)) {
                                    prop_assert!(held.iter().any(|r| r.allows(&a)), "{a:?}");
                                }
                            }
                        }
                    }
                }
            }
        }

        #[test]
        fn everyone_covers_themselves(rules in proptest::collection::vec(any_rule(), 0..4)) {
            prop_assert!(covers(&rules, &rules).is_empty());
        }
    }
}
