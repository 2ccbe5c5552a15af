//! The Kubernetes API as a client sees it: raw HTTPS with a kubeconfig, assertions on status codes, words and objects.
//!
//! The suite in `tests/` starts `ironclad server` by itself. `KUBECONFIG_UNDER_TEST` names any other cluster, which must
//! say that it may be tested (see [`subject`]). Only what an API server does by itself is asserted, so that a cluster
//! without controllers and nodes is a subject too; an assertion that upstream's server fails is a wrong assertion.

pub mod case;
pub mod hooks;
pub mod http;
pub mod kind;
pub mod policies;
pub mod service;
pub mod subject;
pub mod watch;

pub use case::{Case, Space, run};
pub use http::{Answer, Api, Call};

/// A case function as an entry of [`run`]'s list.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        &[$($crate::Case { name: stringify!($name), body: |space| Box::pin($name(space)) }),*]
    };
}
