//! `Impersonate-*` headers: acting as somebody else, where authorization allows it.
//!
//! Constrained impersonation (KEP-5284) is tried first: a mode that fits whom the headers name (the node the caller
//! runs on, any node, a service account, a plain user), which needs the right to do *this request* in that mode
//! (`impersonate-on:<mode>:<verb>`) and to take that identity in it (`impersonate:<mode>`). The old right
//! `impersonate`, which allows everything the other may do, is tried last.

use super::request_header::prefixed;
use super::{
    ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, NODES_GROUP, PRIVILEGED_GROUP, SERVICE_ACCOUNTS_GROUP,
    UserInfo, split_service_account,
};
use crate::authorization::{Attributes, Authorizer, Decision};
use http::HeaderMap;
use std::collections::BTreeMap;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";

#[derive(Debug, thiserror::Error)]
pub enum ImpersonationError {
    /// Groups, uid or extra without a user: 400.
    #[error("requested {0} without impersonating a user name")]
    WithoutUser(String),
    /// 403; the attributes that were refused, for the message.
    #[error("forbidden")]
    Forbidden { attributes: Box<Attributes>, reason: String },
}

/// Whom the headers ask to act as, not yet allowed.
pub fn requested(headers: &HeaderMap) -> Result<Option<UserInfo>, ImpersonationError> {
    let first = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let target = UserInfo {
        name: first(USER),
        uid: first(UID),
        groups: headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect(),
        extra: prefixed(headers, EXTRA_PREFIX),
    };
    if !target.name.is_empty() {
        return Ok(Some(target));
    }
    if target == UserInfo::default() {
        return Ok(None);
    }
    Err(ImpersonationError::WithoutUser(go_value(&target)))
}

/// As Go prints the structure with `%#v`.
fn go_value(user: &UserInfo) -> String {
    let list = |values: &[String]| -> String {
        let quoted: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
        format!("[]string{{{}}}", quoted.join(", "))
    };
    let groups = if user.groups.is_empty() { "[]string(nil)".into() } else { list(&user.groups) };
    let extra = if user.extra.is_empty() {
        "map[string][]string(nil)".into()
    } else {
        let pairs: Vec<String> = user.extra.iter().map(|(k, v)| format!("{k:?}:{}", list(v))).collect();
        format!("map[string][]string{{{}}}", pairs.join(", "))
    };
    format!("&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}", user.name, user.uid)
}

const AUTHENTICATION: &str = "authentication.k8s.io";
/// From this many single questions on, one for all of them is asked first.
const MANY: usize = 4;
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Asks whether the maker of `request` may make it as `target`, and completes the target's groups.
pub async fn allow(
    authorizer: &dyn Authorizer,
    request: &Attributes,
    target: UserInfo,
) -> Result<UserInfo, ImpersonationError> {
    let mut first = None;
    for mode in modes(&request.user, &target) {
        match mode.check(authorizer, request, &target).await {
            Ok(allowed) => return Ok(allowed),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| ImpersonationError::WithoutUser(go_value(&target))))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix("system:node:").filter(|n| machinery::names::name_is_subdomain(n, false).is_empty())
}

/// The modes that fit, in the order they are tried.
fn modes(user: &UserInfo, target: &UserInfo) -> Vec<Mode> {
    let only_name = target.uid.is_empty() && target.groups.is_empty() && target.extra.is_empty();
    let mut modes = Vec::with_capacity(3);
    let (node, account) = (node_of(&target.name), split_service_account(&target.name));
    if let Some(node) = node.filter(|_| only_name) {
        let own = user.extra.get(NODE_NAME).is_some_and(|v| v.len() == 1 && v[0] == node);
        if own && split_service_account(&user.name).is_some() {
            modes.push(Mode::AssociatedNode);
        }
        modes.push(Mode::ArbitraryNode);
    }
    if account.is_some() && only_name {
        modes.push(Mode::ServiceAccount);
    }
    if node.is_none() && account.is_none() {
        modes.push(Mode::UserInfo);
    }
    modes.push(Mode::Legacy);
    modes
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn verb(self) -> String {
        match self {
            Self::Legacy => "impersonate".into(),
            mode => format!("impersonate:{}", mode.name()),
        }
    }

    async fn check(
        self,
        authorizer: &dyn Authorizer,
        request: &Attributes,
        target: &UserInfo,
    ) -> Result<UserInfo, ImpersonationError> {
        let user = self.asker(&request.user);
        if self != Self::Legacy {
            let verb = format!("impersonate-on:{}:{}", self.name(), request.verb);
            ask(authorizer, Attributes { user: user.clone(), verb, ..request.clone() }).await?;
        }
        let mut acting = target.clone();
        self.take_name(authorizer, &user, &mut acting).await?;
        if !target.uid.is_empty() {
            let question =
                Attributes { name: target.uid.clone(), ..self.question(&user, AUTHENTICATION, "uids") };
            ask(authorizer, question).await?;
        }
        self.take_groups(authorizer, &user, &target.groups).await?;
        self.take_extra(authorizer, &user, &target.extra).await?;
        if acting.name == ANONYMOUS {
            if !acting.in_group(ALL_UNAUTHENTICATED) {
                acting.groups.push(ALL_UNAUTHENTICATED.into());
            }
        } else if !acting.in_group(ALL_UNAUTHENTICATED) && !acting.in_group(ALL_AUTHENTICATED) {
            acting.groups.push(ALL_AUTHENTICATED.into());
        }
        Ok(acting)
    }

    /// Who asks: for its own node, a service account shows what it knows of the node and not its values.
    fn asker(self, user: &UserInfo) -> UserInfo {
        let mut user = user.clone();
        if self == Self::AssociatedNode {
            let keys: Vec<String> = user.extra.into_keys().collect();
            user.extra =
                BTreeMap::from([("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)]);
        }
        user
    }

    fn question(self, user: &UserInfo, group: &str, resource: &str) -> Attributes {
        Attributes {
            user: user.clone(),
            verb: self.verb(),
            api_group: group.into(),
            api_version: "v1".into(),
            resource: resource.into(),
            resource_request: true,
            ..Attributes::default()
        }
    }

    /// The group of users, groups and accounts: the core one in the old mode.
    fn group(self) -> &'static str {
        if self == Self::Legacy { "" } else { AUTHENTICATION }
    }

    async fn take_name(
        self,
        authorizer: &dyn Authorizer,
        user: &UserInfo,
        acting: &mut UserInfo,
    ) -> Result<(), ImpersonationError> {
        let mut question = self.question(user, self.group(), "users");
        question.name = acting.name.clone();
        if let Some(node) = node_of(&acting.name).filter(|_| self != Self::Legacy) {
            question.resource = "nodes".into();
            question.name = if self == Self::AssociatedNode { "*".into() } else { node.to_owned() };
            acting.groups = vec![NODES_GROUP.into()];
        }
        if let Some((namespace, name)) = split_service_account(&acting.name) {
            question.resource = "serviceaccounts".into();
            question.namespace = namespace.into();
            question.name = name.into();
            if acting.groups.is_empty() {
                acting.groups =
                    vec![SERVICE_ACCOUNTS_GROUP.into(), format!("{SERVICE_ACCOUNTS_GROUP}:{namespace}")];
            }
        }
        ask(authorizer, question).await
    }

    async fn take_groups(
        self,
        authorizer: &dyn Authorizer,
        user: &UserInfo,
        groups: &[String],
    ) -> Result<(), ImpersonationError> {
        let about =
            |name: &str| Attributes { name: name.into(), ..self.question(user, self.group(), "groups") };
        if self != Self::Legacy {
            for (group, why) in [
                ("", "impersonating the empty string group is not allowed"),
                (PRIVILEGED_GROUP, "impersonating the system:masters group is not allowed"),
            ] {
                if groups.iter().any(|g| g == group) {
                    return Err(forbidden(about(group), why.into()));
                }
            }
            if groups.len() >= MANY && ask(authorizer, about("*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            ask(authorizer, about(group)).await?;
        }
        Ok(())
    }

    async fn take_extra(
        self,
        authorizer: &dyn Authorizer,
        user: &UserInfo,
        extra: &BTreeMap<String, Vec<String>>,
    ) -> Result<(), ImpersonationError> {
        let about = |key: &str, value: &str| Attributes {
            subresource: key.into(),
            name: value.into(),
            ..self.question(user, AUTHENTICATION, "userextras")
        };
        if self != Self::Legacy && !extra.is_empty() {
            if let Some(why) = bad_extra(extra) {
                return Err(forbidden(about("", ""), why));
            }
            let many = extra.len() >= MANY || extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && ask(authorizer, about("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                ask(authorizer, about(key, value)).await?;
            }
        }
        Ok(())
    }
}

fn bad_extra(extra: &BTreeMap<String, Vec<String>>) -> Option<String> {
    extra.iter().find_map(|(key, values)| {
        if key.is_empty() {
            return Some("impersonating the empty string key in extra is not allowed".to_owned());
        }
        let prefixed = key.split_once('/').is_some_and(|(domain, path)| {
            !path.is_empty() && machinery::names::dns1123_subdomain(domain).is_empty()
        });
        if !prefixed {
            return Some(format!(
                "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: must be a \
                 domain-prefixed path (such as \"acme.io/foo\")"
            ));
        }
        let empty = values.iter().any(String::is_empty);
        empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
    })
}

fn forbidden(attributes: Attributes, reason: String) -> ImpersonationError {
    ImpersonationError::Forbidden { attributes: Box::new(attributes), reason }
}

async fn ask(authorizer: &dyn Authorizer, question: Attributes) -> Result<(), ImpersonationError> {
    match authorizer.authorize(&question).await {
        Decision::Allow { .. } => Ok(()),
        Decision::Deny { reason } | Decision::NoOpinion { reason } => Err(forbidden(question, reason)),
        Decision::Failed { error, .. } => Err(forbidden(question, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;

    /// Allows to impersonate exactly these `resource/name`.
    struct Only(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, a: &Attributes) -> Decision {
            let mut asked = format!("{}{}/{}", a.resource, a.subresource, a.name);
            if a.verb != "impersonate" {
                asked = format!("{} {asked}", a.verb);
            }
            if self.0.contains(&asked.as_str()) {
                return Decision::Allow { reason: String::new() };
            }
            Decision::NoOpinion { reason: String::new() }
        }
        async fn rules_for(
            &self,
            _: &UserInfo,
            _: &str,
        ) -> (Vec<serde_json::Value>, Vec<serde_json::Value>, bool) {
            Default::default()
        }
    }

    /// A list of pods.
    fn request(user: UserInfo) -> Attributes {
        Attributes {
            user,
            verb: "list".into(),
            resource: "pods".into(),
            resource_request: true,
            ..Attributes::default()
        }
    }

    fn target(pairs: &[(&'static str, &str)]) -> Result<Option<UserInfo>, ImpersonationError> {
        let pairs = pairs.iter().map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap()));
        requested(&pairs.collect())
    }

    #[tokio::test]
    async fn each_part_needs_its_permission() {
        let me = request(UserInfo::new("me", &[]));
        let jane = target(&[("impersonate-user", "jane"), ("impersonate-group", "dev")]).unwrap().unwrap();
        let allowed = allow(&Only(&["users/jane", "groups/dev"]), &me, jane.clone()).await.unwrap();
        assert_eq!(allowed.groups, ["dev", "system:authenticated"]);
        // What is said is what the first mode that fits was missing.
        let refused = allow(&Only(&["users/jane"]), &me, jane.clone()).await.unwrap_err();
        assert!(matches!(refused, ImpersonationError::Forbidden { attributes, .. }
            if attributes.verb == "impersonate-on:user-info:list" && attributes.resource == "pods"));
        const ON: &str = "impersonate-on:user-info:list pods/";
        let refused = allow(&Only(&[ON, "impersonate:user-info users/jane"]), &me, jane).await.unwrap_err();
        assert!(
            matches!(refused, ImpersonationError::Forbidden { attributes, .. } if attributes.resource == "groups")
        );
        let extra =
            target(&[("impersonate-user", "jane"), ("impersonate-extra-scopes", "view")]).unwrap().unwrap();
        assert!(allow(&Only(&["users/jane"]), &me, extra.clone()).await.is_err());
        allow(&Only(&["users/jane", "userextrasscopes/view"]), &me, extra).await.unwrap();
    }

    #[tokio::test]
    async fn service_accounts_get_their_groups_and_anonymous_its_own() {
        let me = request(UserInfo::new("me", &[]));
        let account = target(&[("impersonate-user", "system:serviceaccount:a:b")]).unwrap().unwrap();
        let account = allow(&Only(&["serviceaccounts/b"]), &me, account).await.unwrap();
        assert_eq!(
            account.groups,
            ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]
        );
        let nobody = target(&[("impersonate-user", "system:anonymous")]).unwrap().unwrap();
        let nobody = allow(&Only(&["users/system:anonymous"]), &me, nobody).await.unwrap();
        assert_eq!(nobody.groups, ["system:unauthenticated"]);
    }

    #[test]
    fn parts_without_a_user_are_an_error() {
        assert!(target(&[]).unwrap().is_none());
        let error = target(&[("impersonate-group", "dev")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, \
             Extra:map[string][]string(nil)} without impersonating a user name"
        );
    }

    #[tokio::test]
    async fn constrained_modes_need_the_request_and_the_identity() {
        let me = request(UserInfo::new("me", &[]));
        let jane = target(&[("impersonate-user", "jane")]).unwrap().unwrap();
        const ON: &str = "impersonate-on:user-info:list pods/";
        let both = Only(&[ON, "impersonate:user-info users/jane"]);
        assert_eq!(allow(&both, &me, jane.clone()).await.unwrap().groups, ["system:authenticated"]);
        assert!(allow(&Only(&["impersonate:user-info users/jane"]), &me, jane.clone()).await.is_err());
        let mut get = me.clone();
        get.verb = "get".into();
        assert!(allow(&both, &get, jane.clone()).await.is_err());
        // Nobody becomes system:masters this way, whatever the rules say.
        let master = UserInfo { groups: vec!["system:masters".into()], ..jane };
        let rules =
            Only(&[ON, "impersonate:user-info users/jane", "impersonate:user-info groups/system:masters"]);
        let refused = allow(&rules, &me, master).await.unwrap_err();
        assert!(matches!(refused, ImpersonationError::Forbidden { reason, .. }
            if reason == "impersonating the system:masters group is not allowed"));
    }

    #[tokio::test]
    async fn a_pod_may_speak_for_its_own_node() {
        let mut account = UserInfo::service_account("a", "agent", "");
        account.extra.insert(NODE_NAME.into(), vec!["n1".into()]);
        let me = request(account);
        let own = Only(&["impersonate-on:associated-node:list pods/", "impersonate:associated-node nodes/*"]);
        let node = |name: &str| UserInfo::new(format!("system:node:{name}"), &[]);
        let allowed = allow(&own, &me, node("n1")).await.unwrap();
        assert_eq!((allowed.name.as_str(), &allowed.groups[0][..]), ("system:node:n1", "system:nodes"));
        assert!(allow(&own, &me, node("n2")).await.is_err());
        let any = Only(&["impersonate-on:arbitrary-node:list pods/", "impersonate:arbitrary-node nodes/n2"]);
        assert!(allow(&any, &me, node("n2")).await.is_ok() && allow(&any, &me, node("n1")).await.is_err());
    }
}
