//! Requests without credentials.

use super::{ALL_UNAUTHENTICATED, ANONYMOUS, UserInfo};

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
