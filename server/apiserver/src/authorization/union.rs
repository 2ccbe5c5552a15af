//! Several authorizers as one.

use super::{Attributes, Authorizer, Decision};
use crate::authentication::{PRIVILEGED_GROUP, UserInfo};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::Arc;

pub struct Union(pub Vec<Arc<dyn Authorizer>>);

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        // system:masters cannot be locked out by objects in the cluster.
        if attributes.user.in_group(PRIVILEGED_GROUP) {
            return Decision::Allow { reason: String::new() };
        }
        let mut reasons = String::new();
        let mut errors: Vec<String> = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(attributes).await {
                Decision::NoOpinion { reason } => {
                    if !reason.is_empty() && !reasons.is_empty() {
                        reasons.push('\n');
                    }
                    reasons.push_str(&reason);
                }
                Decision::Failed { error, deny: false } => errors.push(error),
                decided => return decided,
            }
        }
        match errors.as_slice() {
            [] => Decision::NoOpinion { reason: reasons },
            [one] => Decision::Failed { error: one.clone(), deny: false },
            many => Decision::Failed { error: format!("[{}]", many.join(", ")), deny: false },
        }
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (mut resources, mut urls, mut incomplete) = (Vec::new(), Vec::new(), false);
        if user.in_group(PRIVILEGED_GROUP) {
            resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            urls.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        for authorizer in &self.0 {
            let (r, u, i) = authorizer.rules_for(user, namespace).await;
            resources.extend(r);
            urls.extend(u);
            incomplete |= i;
        }
        (resources, urls, incomplete)
    }
}
