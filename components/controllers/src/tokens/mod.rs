//! Tokens that live in Secrets: those of service accounts, and those with which nodes join.

pub mod bootstrap;
pub mod clean;
pub mod secrets;

use client::Scope;

pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
pub(crate) const ACCOUNT: &str = "kubernetes.io/service-account.name";
pub(crate) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Secrets of service accounts.
fn token_secrets() -> Scope {
    Scope { fields: Some(format!("type={TYPE}")), ..Scope::default() }
}
