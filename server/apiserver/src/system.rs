//! What a cluster cannot be without: the system namespaces, and the `kubernetes` Service with its endpoints.

use crate::ApiServer;
use crate::authentication::UserInfo;
use crate::cache::{Filter, GroupResource};
use crate::http::options::{FieldValidation, WriteOptions};
use crate::registry::update::{Mode, Wanted};
use crate::registry::{Target, meta};
use crate::resolve::Resource;
use crate::status::ApiError;
use futures::future::{BoxFuture, try_join_all};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// The identity of the server's own writes.
static USER: LazyLock<UserInfo> = LazyLock::new(|| UserInfo {
    name: "system:apiserver".into(),
    groups: vec!["system:masters".into(), "system:authenticated".into()],
    ..UserInfo::default()
});

static OPTIONS: LazyLock<WriteOptions> = LazyLock::new(|| WriteOptions {
    dry_run: false,
    field_manager: "kube-apiserver".into(),
    field_validation: FieldValidation::Ignore,
    force: None,
});

/// What the server itself writes to; `namespace` and `subresource` may be empty.
pub(crate) fn target<'a>(
    resource: &'a Arc<Resource>,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
) -> Target<'a> {
    let manager = OPTIONS.field_manager.clone();
    Target { resource, subresource, namespace, name, user: &USER, options: &OPTIONS, manager }
}

/// Puts the `kubernetes` Service and its endpoints back when someone removes or changes them.
pub(crate) fn keep(server: &ApiServer) {
    for (group, plural) in [("", "services"), ("", "endpoints"), ("discovery.k8s.io", "endpointslices")] {
        let server = server.clone();
        let filter = Filter {
            namespace: Some("default".into()),
            name: Some("kubernetes".into()),
            ..Filter::default()
        };
        let cache = server.storage.cache().resource(&GroupResource::new(group, plural));
        tokio::spawn(async move {
            let mut watcher = cache.watch(None, filter.clone());
            loop {
                let next = async {
                    match &mut watcher {
                        Ok(watcher) => watcher.next().await.map(|_| ()),
                        Err(error) => Err(error.clone()),
                    }
                };
                tokio::select! {
                    () = server.shutdown.wait() => return,
                    event = next => {
                        if event.is_err() {
                            // Too slow, or reloaded: begin again and look once.
                            watcher = cache.watch(None, filter.clone());
                        }
                    }
                }
                if let Err(error) = bootstrap(&server).await {
                    tracing::warn!(%error, "the kubernetes Service could not be restored");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        });
    }
}

pub(crate) async fn bootstrap(server: &ApiServer) -> Result<(), ApiError> {
    // Together, so that they share one commit.
    let mut all: Vec<BoxFuture<'_, Result<(), ApiError>>> = Vec::new();
    for name in NAMESPACES {
        let namespace = json!({
            "kind": "Namespace", "apiVersion": "v1",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        });
        all.push(Box::pin(ensure(server, "", "namespaces", namespace, |_| None)));
    }
    try_join_all(all).await?;
    let mut all: Vec<BoxFuture<'_, Result<(), ApiError>>> = Vec::new();
    all.push(Box::pin(ensure(server, "", "services", service(server), |_| None)));
    all.push(Box::pin(service_range(server)));
    // A loopback address is of no use to pods, and no valid endpoint.
    if let Some((ip, port)) = server.config.advertise.filter(|(ip, _)| !ip.is_loopback()) {
        let endpoints = json!({
            "kind": "Endpoints", "apiVersion": "v1",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{
                "addresses": [{"ip": ip.to_string()}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            }],
        });
        let wanted = endpoints["subsets"].clone();
        all.push(Box::pin(ensure(server, "", "endpoints", endpoints, move |old| {
            replace(old, "subsets", &wanted)
        })));
        let slice = json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": if ip.is_ipv6() { "IPv6" } else { "IPv4" },
            "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        });
        let (endpoints, ports) = (slice["endpoints"].clone(), slice["ports"].clone());
        all.push(Box::pin(ensure(server, "discovery.k8s.io", "endpointslices", slice, move |old| {
            let changed = replace(old, "endpoints", &endpoints);
            let base = changed.as_ref().unwrap_or(old);
            replace(base, "ports", &ports).or(changed)
        })));
    }
    try_join_all(all).await.map(|_| ())
}

/// The ServiceCIDR that stands for the configured range, ready from the start.
async fn service_range(server: &ApiServer) -> Result<(), ApiError> {
    const GROUP: &str = "networking.k8s.io";
    let range = json!({
        "kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [server.config.service_cidr.to_string()]},
    });
    ensure(server, GROUP, "servicecidrs", range, |_| None).await?;
    let Some(resource) = server.index.load().stored(GROUP, "servicecidrs").cloned() else { return Ok(()) };
    let target = target(&resource, "status", "", "kubernetes");
    let change = Box::new(|old: &Value| {
        let mut new = old.clone();
        if old["status"]["conditions"].as_array().is_none_or(Vec::is_empty) {
            new["status"]["conditions"] = json!([{
                "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": meta::now(),
                "message": "Kubernetes default Service CIDR is ready",
            }]);
        }
        Ok(Wanted::plain(new))
    });
    server.update(&target, change, Mode::default(), &mut Vec::new()).await.map(|_| ())
}

fn service(server: &ApiServer) -> Value {
    let port = server.config.advertise.map_or(443, |(_, port)| port);
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": server.services.first().to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            "sessionAffinity": "None",
        },
    })
}

/// The object with one member replaced, if that changes it.
fn replace(old: &Value, member: &str, wanted: &Value) -> Option<Value> {
    if contains(&old[member], wanted) {
        return None;
    }
    let mut new = old.clone();
    new[member] = wanted.clone();
    Some(new)
}

/// `wanted` is in `have`, defaults that were added aside.
fn contains(have: &Value, wanted: &Value) -> bool {
    match (have, wanted) {
        (Value::Object(h), Value::Object(w)) => {
            w.iter().all(|(k, v)| h.get(k).is_some_and(|h| contains(h, v)))
        }
        (Value::Array(h), Value::Array(w)) => {
            h.len() == w.len() && h.iter().zip(w).all(|(h, w)| contains(h, w))
        }
        _ => have == wanted,
    }
}

/// Creates the object, or corrects the one there is.
pub(crate) async fn ensure(
    server: &ApiServer,
    group: &str,
    plural: &str,
    object: Value,
    correct: impl Fn(&Value) -> Option<Value> + Send + Sync,
) -> Result<(), ApiError> {
    let resource = server
        .index
        .load()
        .stored(group, plural)
        .cloned()
        .ok_or_else(|| ApiError::not_found(group, "resources", plural))?;
    let name = meta::name(&object).to_owned();
    let namespace = meta::namespace(&object).to_owned();
    let target = target(&resource, "", &namespace, &name);
    let mut warnings = Vec::new();
    if let Some(existing) = server.storage.get(&resource, &namespace, &name).await? {
        let old = existing.object().map_err(ApiError::internal)?;
        if correct(&old).is_some() {
            let change =
                Box::new(|old: &Value| Ok(Wanted::plain(correct(old).unwrap_or_else(|| old.clone()))));
            server.update(&target, change, Mode::default(), &mut warnings).await?;
        }
        return Ok(());
    }
    match server.create(&target, object, false, &mut warnings).await {
        Ok(_) => Ok(()),
        Err(e) if e.reason == "AlreadyExists" => Ok(()),
        Err(e) => Err(e),
    }
}
