//! May they.

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
    Allow { reason: String },
    Deny { reason: String },
    NoOpinion { reason: String },
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
