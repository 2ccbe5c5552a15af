//! Authorizers that say always the same, and one that can be replaced while the server runs.

use super::{Attributes, Authorizer, Decision};
use crate::authentication::UserInfo;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::Arc;

pub struct AlwaysAllow;
pub struct AlwaysDeny;

#[async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _: &Attributes) -> Decision {
        Decision::Allow { reason: String::new() }
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (
            vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
            vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
            false,
        )
    }
}

#[async_trait]
impl Authorizer for AlwaysDeny {
    async fn authorize(&self, _: &Attributes) -> Decision {
        Decision::NoOpinion { reason: "Everything is forbidden.".into() }
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        Default::default()
    }
}

/// The authorizer in force. A question that is being answered keeps the one it began with.
pub struct Reloadable(ArcSwap<Arc<dyn Authorizer>>);

impl Reloadable {
    pub fn new(first: Arc<dyn Authorizer>) -> Self {
        Self(ArcSwap::from_pointee(first))
    }

    pub fn replace(&self, next: Arc<dyn Authorizer>) {
        self.0.store(Arc::new(next));
    }
}

#[async_trait]
impl Authorizer for Reloadable {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let current = self.0.load_full();
        current.authorize(attributes).await
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let current = self.0.load_full();
        current.rules_for(user, namespace).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_question_goes_to_the_new_one() {
        let authorizer = Reloadable::new(Arc::new(AlwaysDeny));
        assert!(!authorizer.authorize(&Attributes::default()).await.is_allowed());
        assert!(authorizer.rules_for(&UserInfo::default(), "").await.0.is_empty());
        authorizer.replace(Arc::new(AlwaysAllow));
        assert!(authorizer.authorize(&Attributes::default()).await.is_allowed());
        assert_eq!(authorizer.rules_for(&UserInfo::default(), "").await.0.len(), 1);
    }
}
