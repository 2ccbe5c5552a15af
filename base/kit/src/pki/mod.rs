//! The cluster's public key infrastructure: authorities on disk, leaf certificates, live rotation, kubeconfigs.
//!
//! Everything is ECDSA P-256 with `ring`, chosen explicitly; no process-wide crypto provider is installed.
//! Contracts: files are created atomically with mode 0600 in a 0700 directory and reused on restart; a private
//! key never appears in logs or errors; certificates can be replaced under open listeners and clients.

mod certificate;
mod der;
mod directory;
mod key;
mod kubeconfig;
pub mod pem;
mod tls;

pub use certificate::{LeafSpec, Request, Sans, Subject, Usages, YEAR, new_request};
pub use directory::{Authority, Leaf, Pki, not_after};
pub use key::{PrivateKey, verify_fixed};
pub use kubeconfig::{Credentials, Kubeconfig};
pub use tls::{ClientVerifier, RotatingCertificate, client_config, provider, server_config};

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("no readable {0} in the PEM data")]
    Pem(&'static str),
    #[error("malformed {0}")]
    Malformed(&'static str),
    #[error("{0} failed")]
    Crypto(&'static str),
    #[error("{path}: {operation}")]
    Io { path: PathBuf, operation: &'static str, source: std::io::Error },
    #[error("{path} is missing beside its certificate; restore it, or remove both to make a new authority")]
    MissingKey { path: PathBuf },
    #[error("{path} does not belong to the key beside it")]
    Mismatch { path: PathBuf },
    #[error("{path} has expired; remove it and its key to make a new authority")]
    Expired { path: PathBuf },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: Box<PkiError> },
    #[error("tls set-up")]
    Tls(#[from] rustls::Error),
}
