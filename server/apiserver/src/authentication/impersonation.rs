//! `Impersonate-*` headers: acting as somebody else, where authorization allows it.

use super::request_header::prefixed;
use super::{
    ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, SERVICE_ACCOUNTS_GROUP, UserInfo,
    split_service_account,
};
use crate::authorization::{Attributes, Authorizer, Decision};
use http::HeaderMap;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";

#[derive(Debug, thiserror::Error)]
pub enum ImpersonationError {
    /// Groups, uid or extra without a user: a broken client; upstream answers 500.
    #[error("requested {0} without impersonating a user")]
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
    let mut what = target.groups;
    what.extend(target.extra.into_keys());
    what.extend(Some(target.uid).filter(|u| !u.is_empty()));
    Err(ImpersonationError::WithoutUser(format!("[{}]", what.join(" "))))
}

/// Asks whether `user` may act as `target`, and completes the target's groups.
pub async fn allow(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    mut target: UserInfo,
) -> Result<UserInfo, ImpersonationError> {
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Attributes {
        user: user.clone(),
        verb: "impersonate".into(),
        api_group: group.into(),
        api_version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        resource_request: true,
        ..Attributes::default()
    };
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let mut questions = Vec::new();
    match split_service_account(&target.name) {
        Some((namespace, name)) => questions.push(ask("", "serviceaccounts", "", namespace, name)),
        None => questions.push(ask("", "users", "", "", &target.name)),
    }
    questions.extend(target.groups.iter().map(|group| ask("", "groups", "", "", group)));
    for (key, values) in &target.extra {
        questions.extend(values.iter().map(|value| ask(AUTHENTICATION, "userextras", key, "", value)));
    }
    if !target.uid.is_empty() {
        questions.push(ask(AUTHENTICATION, "uids", "", "", &target.uid));
    }
    for question in questions {
        match authorizer.authorize(&question).await {
            Decision::Allow { .. } => {}
            Decision::Deny { reason } | Decision::NoOpinion { reason } => {
                return Err(ImpersonationError::Forbidden { attributes: Box::new(question), reason });
            }
            Decision::Failed { error, .. } => {
                return Err(ImpersonationError::Forbidden { attributes: Box::new(question), reason: error });
            }
        }
    }
    if let (Some((namespace, _)), true) = (split_service_account(&target.name), target.groups.is_empty()) {
        target.groups = vec![SERVICE_ACCOUNTS_GROUP.into(), format!("{SERVICE_ACCOUNTS_GROUP}:{namespace}")];
    }
    let everyone = if target.name == ANONYMOUS { ALL_UNAUTHENTICATED } else { ALL_AUTHENTICATED };
    if !target.in_group(ALL_AUTHENTICATED) && !target.in_group(ALL_UNAUTHENTICATED) {
        target.groups.push(everyone.into());
    }
    Ok(target)
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
            let asked = format!("{}{}/{}", a.resource, a.subresource, a.name);
            if a.verb == "impersonate" && self.0.contains(&asked.as_str()) {
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

    fn target(pairs: &[(&'static str, &str)]) -> Result<Option<UserInfo>, ImpersonationError> {
        let pairs = pairs.iter().map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap()));
        requested(&pairs.collect())
    }

    #[tokio::test]
    async fn each_part_needs_its_permission() {
        let me = UserInfo::new("me", &[]);
        let jane = target(&[("impersonate-user", "jane"), ("impersonate-group", "dev")]).unwrap().unwrap();
        let allowed = allow(&Only(&["users/jane", "groups/dev"]), &me, jane.clone()).await.unwrap();
        assert_eq!(allowed.groups, ["dev", "system:authenticated"]);
        let refused = allow(&Only(&["users/jane"]), &me, jane).await.unwrap_err();
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
        let me = UserInfo::new("me", &[]);
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
        assert_eq!(error.to_string(), "requested [dev] without impersonating a user");
    }
}
