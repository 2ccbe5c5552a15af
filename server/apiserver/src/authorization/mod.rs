//! May they.
//!
//! [`Union`] asks, in upstream's order: the privileged group, the Node authorizer, RBAC. The first allow (or deny)
//! decides; the reasons of those without an opinion are joined.

mod build;
pub mod config;
pub mod escalation;
mod node;
mod rbac;
mod reload;
pub mod review;
mod rules;
mod union;
mod webhook;

pub use build::Lasting;
pub use node::NodeAuthorizer;
pub use rbac::Rbac;
pub use reload::{AlwaysAllow, AlwaysDeny, Reloadable};
pub use rules::{Rule, covers};
pub use union::Union;
pub use webhook::{WebhookAuthorizer, WebhookOptions};

use crate::authentication::UserInfo;
use async_trait::async_trait;

/// `authorizer.Attributes`.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub user: UserInfo,
    pub verb: String,
    pub namespace: String,
    pub api_group: String,
    pub api_version: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    pub resource_request: bool,
    /// For non-resource requests.
    pub path: String,
    /// Selectors of a list, watch or deletecollection, for selector-aware authorization.
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow {
        reason: String,
    },
    Deny {
        reason: String,
    },
    NoOpinion {
        reason: String,
    },
    /// Nobody allowed it and somebody could not be asked; a `deny` ends the question there.
    Failed {
        error: String,
        deny: bool,
    },
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    fn silent() -> Self {
        Self::NoOpinion { reason: String::new() }
    }
}

#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    async fn authorize(&self, attributes: &Attributes) -> Decision;
    /// Rules the user has in a namespace, for SelfSubjectRulesReview; `(resource rules, non-resource rules,
    /// incomplete)` as JSON values of authorization.k8s.io/v1.
    async fn rules_for(
        &self,
        user: &UserInfo,
        namespace: &str,
    ) -> (Vec<serde_json::Value>, Vec<serde_json::Value>, bool);
}

/// The message of a 403 after `<resource> is forbidden: `, in upstream's words.
pub fn forbidden_message(a: &Attributes, reason: &str) -> String {
    let user = &a.user.name;
    let mut out = if a.resource_request {
        let slash = if a.subresource.is_empty() { "" } else { "/" };
        let place = match a.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!(
            "User {user:?} cannot {} resource \"{}{slash}{}\" in API group {:?} {place}",
            a.verb, a.resource, a.subresource, a.api_group
        )
    } else {
        format!("User {user:?} cannot {} path {:?}", a.verb, a.path)
    };
    if !reason.is_empty() {
        out.push_str(": ");
        out.push_str(reason);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_worded_like_upstream() {
        let mut a = Attributes {
            user: UserInfo::new("x", &[]),
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            resource_request: true,
            ..Attributes::default()
        };
        assert_eq!(
            forbidden_message(&a, ""),
            "User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        a.subresource = "log".into();
        a.namespace.clear();
        assert_eq!(
            forbidden_message(&a, "why"),
            "User \"x\" cannot list resource \"pods/log\" in API group \"\" at the cluster scope: why"
        );
        a.resource_request = false;
        a.verb = "get".into();
        a.path = "/metrics".into();
        assert_eq!(forbidden_message(&a, ""), "User \"x\" cannot get path \"/metrics\"");
    }
}
