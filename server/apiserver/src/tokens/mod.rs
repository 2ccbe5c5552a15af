//! Service-account tokens: issuing, the TokenRequest subresource, OIDC discovery. Checking them is
//! `authentication`'s work, with [`Issuer::verify`] as its first step.

mod discovery;
pub mod jose;
mod jwt;
mod request;
pub mod tracking;

pub use discovery::{JWKS_PATH, OPENID_CONFIGURATION_PATH};
pub use jwt::{Claims, Issuer, JwtError, Kubernetes, LEGACY_ISSUER, LegacyClaims, Ref, Verified};
pub use request::{RequestError, TokenRequests};

/// `spec.expirationSeconds` of the token the ServiceAccount admission plugin mounts. Upstream extends exactly this
/// lifetime to a year for clients that read their token once and never again.
pub const MOUNTED_TOKEN_SECONDS: i64 = 3607;

/// What an extended token lives.
pub const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;
