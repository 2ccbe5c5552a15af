//! The Kubernetes API server.
//!
//! Reading the modules in this order reads a request's way through it: [`http`], [`chain`] (authenticate,
//! [`audit`], impersonate, wait for a seat of [`flow`], authorize), [`verbs`], [`schemas`] (decode, defaults, field owners), [`registry`], [`storage`],
//! [`cache`], [`encode`]; under the storage, where it is configured, [`encryption`]. A kind takes part through its row in [`resources`] and its strategy in the crate [`kinds`].
//!
//! ```text
//! let cache = Cache::start(store, Options::new(apiserver::selectable_fields())).await?;
//! let server = ApiServer::new(Config::new(cache, authenticators, authorizer, admission))?;
//! server.start().await?;                              // system namespaces, the kubernetes Service, CRDs
//! let client = kube::Client::new(server.in_process(user), "default");
//! tokio::spawn(server.serve(listener, tls, shutdown));
//! ```

pub mod admission;
pub mod aggregation;
pub mod audit;
pub mod authentication;
pub mod authorization;
pub mod bootstrap;
pub mod cache;
pub mod chain;
mod convert;
pub mod crd;
mod deprecations;
pub mod discovery;
mod encode;
pub mod encryption;
pub mod flow;
pub mod http;
pub mod metrics;
pub mod reader;
pub mod registry;
pub mod remote;
pub mod resolve;
pub mod resources;
pub mod schemas;
pub mod security;
pub mod server;
pub mod services;
pub mod status;
pub mod storage;
pub mod subresources;
mod system;
pub mod table;
pub mod tokens;
mod verbs;
mod virtuals;

pub use server::{ApiServer, BuildError, Check, Config, KubeletTls};

use cache::FieldsOf;
use std::collections::HashMap;
use std::sync::Arc;

/// The field-selector values of every built-in kind, for [`cache::Options`].
pub fn selectable_fields() -> FieldsOf {
    let mut strategies: HashMap<(&str, &str), Arc<dyn kinds::Strategy>> = HashMap::new();
    for row in resources::all() {
        let (group, version) = row.storage;
        if row.group == group && row.version == version {
            strategies.insert((group, row.plural), schemas::strategy(group, version, row.kind));
        }
    }
    Arc::new(move |resource, object| {
        strategies
            .get(&(&*resource.group, &*resource.resource))
            .map(|strategy| strategy.selectable_fields(object))
            .unwrap_or_default()
    })
}
