//! From a configuration to authorizers.

use super::config::AuthorizationConfiguration;
use super::{AlwaysAllow, AlwaysDeny, Authorizer, Union, WebhookAuthorizer};
use crate::authentication::expressions::Compiler;
use std::sync::Arc;

/// The authorizers that live as long as the server, whatever configuration names them.
#[derive(Clone)]
pub struct Lasting {
    pub node: Arc<dyn Authorizer>,
    pub rbac: Arc<dyn Authorizer>,
    pub compiler: Option<Arc<dyn Compiler>>,
}

impl Lasting {
    /// The chain that a validated configuration describes, in its order; system:masters comes before it.
    pub fn chain(&self, config: &AuthorizationConfiguration) -> Result<Union, String> {
        let mut chain: Vec<Arc<dyn Authorizer>> = Vec::new();
        for authorizer in &config.authorizers {
            chain.push(match (authorizer.kind.as_str(), &authorizer.webhook) {
                ("Node", _) => self.node.clone(),
                ("RBAC", _) => self.rbac.clone(),
                ("AlwaysAllow", _) => Arc::new(AlwaysAllow),
                ("AlwaysDeny", _) => Arc::new(AlwaysDeny),
                ("Webhook", Some(webhook)) => Arc::new(WebhookAuthorizer::from_config(
                    &authorizer.name,
                    webhook,
                    self.compiler.as_deref(),
                )?),
                (other, _) => return Err(format!("unknown authorization mode {other} specified")),
            });
        }
        Ok(Union(chain))
    }
}
