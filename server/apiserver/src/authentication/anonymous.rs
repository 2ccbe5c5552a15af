//! Requests without credentials.

use super::{ALL_UNAUTHENTICATED, ANONYMOUS, UserInfo};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// Which paths may be asked for without credentials; authorization still decides what they may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Off,
    /// These paths exactly.
    Paths(Vec<String>),
    Everywhere,
}

impl Default for Anonymous {
    /// Health only: probes of load balancers and of the node have no identity.
    fn default() -> Self {
        Self::Paths(["/livez", "/readyz", "/healthz"].map(String::from).to_vec())
    }
}

impl Anonymous {
    pub fn user(&self, path: &str) -> Option<UserInfo> {
        let allowed = match self {
            Self::Off => false,
            Self::Paths(paths) => paths.iter().any(|p| p == path),
            Self::Everywhere => true,
        };
        allowed.then(|| UserInfo::new(ANONYMOUS, &[ALL_UNAUTHENTICATED]))
    }
}

/// The rule in force: shared by all who hold a clone, and replaced while the server runs.
#[derive(Clone, Debug, Default)]
pub struct AnonymousAccess(Arc<ArcSwap<Anonymous>>);

impl AnonymousAccess {
    pub fn replace(&self, rule: Anonymous) {
        self.0.store(Arc::new(rule));
    }

    pub fn user(&self, path: &str) -> Option<UserInfo> {
        self.0.load().user(path)
    }
}

impl From<Anonymous> for AnonymousAccess {
    fn from(rule: Anonymous) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(rule)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_sees_the_new_rule() {
        let rule = AnonymousAccess::from(Anonymous::Off);
        let seen = rule.clone();
        assert_eq!(seen.user("/livez"), None);
        rule.replace(Anonymous::Everywhere);
        assert_eq!(seen.user("/api").map(|u| u.name).as_deref(), Some(ANONYMOUS));
    }
}
