//! The objects a cluster has from its first second: namespaces, default RBAC, priority classes, flow control, and
//! the configuration extension servers authenticate with.
//!
//! Runs at every start. On the first one everything is written, concurrently, so that the store's group commit
//! makes a few batches of it; later ones only compare with the cache and write what is missing. What an
//! administrator changed stays: rules and subjects are added, never taken away, and not at all to objects whose
//! `rbac.authorization.kubernetes.io/autoupdate` is not "true".

mod aggregation;
mod authentication;
mod defaults;
mod flow;
mod roles;
mod writer;

pub use aggregation::Aggregation;
pub(crate) use flow::{ensure as ensure_flow, objects as flow_objects};
pub use roles::Defaults;
pub use writer::start;

use crate::authentication::HeaderNames;
use crate::authorization::{Rule, covers};
use crate::reader::{Reader, WriteError, Writer, items, parse, text};
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::sync::Arc;

const RBAC: &str = "rbac.authorization.k8s.io";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Writes under way at once.
const WIDTH: usize = 512;

/// What bootstrap publishes besides its tables.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// PEM of the authority of client certificates.
    pub client_ca: String,
    /// PEM of the front proxy's authority, and the names it trusts.
    pub front_proxy_ca: String,
    pub front_proxy: HeaderNames,
}

#[derive(Debug, thiserror::Error)]
#[error("bootstrapping {kind} {name:?}: {source}")]
pub struct BootstrapError {
    kind: String,
    name: String,
    source: WriteError,
}

/// How many objects were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub created: usize,
    pub updated: usize,
}

#[derive(Clone, Copy)]
struct Place {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
}

const fn place(group: &'static str, version: &'static str, resource: &'static str) -> Place {
    Place { group, version, resource }
}

/// Merges a wanted object into one that exists: `Some` when something has to be written.
type Reconcile = fn(&Value, &Value) -> Option<Value>;

fn leave(_: &Value, _: &Value) -> Option<Value> {
    None
}

/// The rules of the default role `system:node`, which the Node authorizer applies to every kubelet.
pub fn node_rules() -> Vec<Rule> {
    let defaults = Defaults::read();
    let node = defaults.cluster_roles.iter().find(|r| text(r, "/metadata/name") == "system:node");
    node.map(|r| Rule::read_all(items(r, "/rules"))).unwrap_or_default()
}

/// Makes sure all default objects are there. The cache behind `reader` must have been loaded. Idempotent; safe
/// beside another server that does the same. Cancelling leaves a part, which the next start completes.
pub async fn run(
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    published: &Published,
) -> Result<Report, BootstrapError> {
    let mut report = Report::default();
    // Namespaced objects are only admitted into namespaces that exist.
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"]
        .map(|n| (place("", "v1", "namespaces"), defaults::namespace(n), leave as Reconcile));
    apply(&reader, &writer, namespaces.to_vec(), &mut report).await?;
    let mut rest: Vec<(Place, Value, Reconcile)> = Vec::new();
    let mut add = |at: Place, objects: Vec<Value>, how: Reconcile| {
        rest.extend(objects.into_iter().map(|object| (at, object, how)));
    };
    let mut rbac = Defaults::read();
    aggregation::fill(&mut rbac.cluster_roles);
    add(place(RBAC, "v1", "clusterroles"), rbac.cluster_roles, role);
    add(place(RBAC, "v1", "clusterrolebindings"), rbac.cluster_role_bindings, binding);
    add(place(RBAC, "v1", "roles"), rbac.roles, role);
    add(place(RBAC, "v1", "rolebindings"), rbac.role_bindings, binding);
    add(place("scheduling.k8s.io", "v1", "priorityclasses"), defaults::priority_classes(), leave);
    rest.extend(flow::wanted());
    let mut add = |at: Place, objects: Vec<Value>, how: Reconcile| {
        rest.extend(objects.into_iter().map(|object| (at, object, how)));
    };
    add(place("", "v1", "configmaps"), vec![defaults::extension_authentication(published)], data);
    apply(&reader, &writer, rest, &mut report).await?;
    if report != Report::default() {
        tracing::info!(
            created = report.created,
            updated = report.updated,
            "bootstrapped the default objects"
        );
    }
    Ok(report)
}

/// Publishes what extension servers authenticate with, where it is not or is out of date.
async fn authentication(
    reader: &Arc<dyn Reader>,
    writer: &Arc<dyn Writer>,
    published: &Published,
) -> Result<(), BootstrapError> {
    let object = defaults::extension_authentication(published);
    one(reader.clone(), writer.clone(), place("", "v1", "configmaps"), object, data).await.map(|_| ())
}

async fn apply(
    reader: &Arc<dyn Reader>,
    writer: &Arc<dyn Writer>,
    objects: Vec<(Place, Value, Reconcile)>,
    report: &mut Report,
) -> Result<(), BootstrapError> {
    let mut work = futures::stream::iter(objects)
        .map(|(at, object, how)| one(reader.clone(), writer.clone(), at, object, how))
        .buffer_unordered(WIDTH);
    while let Some(done) = work.next().await {
        let (created, updated) = done?;
        report.created += usize::from(created);
        report.updated += usize::from(updated);
    }
    Ok(())
}

async fn one(
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
    at: Place,
    object: Value,
    how: Reconcile,
) -> Result<(bool, bool), BootstrapError> {
    let (namespace, name) = (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
    let fail = |source| BootstrapError { kind: text(&object, "/kind").into(), name: name.into(), source };
    let Some(entry) = reader.get(at.group, at.resource, namespace, name) else {
        return match writer.create(at.group, at.version, at.resource, object.clone()).await {
            Ok(()) => Ok((true, false)),
            // Another server was first.
            Err(WriteError::AlreadyExists) => Ok((false, false)),
            Err(source) => Err(fail(source)),
        };
    };
    let Some(merged) = how(&parse(&entry), &object) else { return Ok((false, false)) };
    match writer.update(at.group, at.version, at.resource, merged).await {
        Ok(()) => Ok((false, true)),
        // Somebody writes it just now; the next start looks again.
        Err(WriteError::Conflict) => Ok((false, false)),
        Err(source) => Err(fail(source)),
    }
}

fn protected(existing: &Value) -> bool {
    existing["metadata"]["annotations"][AUTO_UPDATE] != "true"
}

/// Adds members of `wanted`'s labels that are missing.
fn add_labels(merged: &mut Value, wanted: &Value) -> bool {
    let mut changed = false;
    for (key, value) in wanted["metadata"]["labels"].as_object().into_iter().flatten() {
        if merged["metadata"]["labels"][key].is_null() {
            merged["metadata"]["labels"][key] = value.clone();
            changed = true;
        }
    }
    changed
}

fn role(existing: &Value, wanted: &Value) -> Option<Value> {
    if protected(existing) {
        return None;
    }
    let mut merged = existing.clone();
    let mut changed = add_labels(&mut merged, wanted);
    if wanted["aggregationRule"].is_object() {
        // The rules of an aggregated role are its controller's.
        let add: Vec<Value> = items(wanted, "/aggregationRule/clusterRoleSelectors")
            .iter()
            .filter(|s| !items(existing, "/aggregationRule/clusterRoleSelectors").contains(s))
            .cloned()
            .collect();
        if !add.is_empty() {
            changed = true;
            if !merged["aggregationRule"].is_object() {
                merged["aggregationRule"] = json!({"clusterRoleSelectors": []});
            }
            if let Some(list) = merged["aggregationRule"]["clusterRoleSelectors"].as_array_mut() {
                list.extend(add);
            }
        }
        return changed.then_some(merged);
    }
    let held = Rule::read_all(items(existing, "/rules"));
    let missing: Vec<Value> = items(wanted, "/rules")
        .iter()
        .filter(|rule| !covers(&held, &[Rule::read(rule)]).is_empty())
        .cloned()
        .collect();
    if !missing.is_empty() {
        changed = true;
        let mut rules = items(existing, "/rules").to_vec();
        rules.extend(missing);
        merged["rules"] = rules.into();
    }
    changed.then_some(merged)
}

fn binding(existing: &Value, wanted: &Value) -> Option<Value> {
    if protected(existing) || existing["roleRef"] != wanted["roleRef"] {
        return None;
    }
    let mut merged = existing.clone();
    let mut changed = add_labels(&mut merged, wanted);
    let held = items(existing, "/subjects");
    let missing: Vec<Value> =
        items(wanted, "/subjects").iter().filter(|s| !held.contains(s)).cloned().collect();
    if !missing.is_empty() {
        changed = true;
        merged["subjects"] = held.iter().cloned().chain(missing).collect();
    }
    changed.then_some(merged)
}

/// A config map of ours: its data is what we say.
fn data(existing: &Value, wanted: &Value) -> Option<Value> {
    if existing["data"] == wanted["data"] {
        return None;
    }
    let mut merged = existing.clone();
    merged["data"] = wanted["data"].clone();
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authentication::UserInfo;
    use crate::authorization::{Attributes, Rbac};
    use crate::reader::fake::FakeCluster;

    fn published() -> Published {
        Published {
            client_ca: "CA".into(),
            front_proxy_ca: "FP".into(),
            front_proxy: HeaderNames { allowed: vec!["fp".into()], ..HeaderNames::default() },
        }
    }

    #[tokio::test]
    async fn the_first_start_writes_everything_and_the_second_nothing() {
        let cluster = FakeCluster::new();
        let first = run(cluster.clone(), cluster.clone(), &published()).await.unwrap();
        assert!(first.created > 150, "{first:?}");
        assert_eq!(run(cluster.clone(), cluster.clone(), &published()).await.unwrap(), Report::default());
        // A new authority reaches extension servers.
        let renewed = Published { client_ca: "CA2".into(), ..published() };
        let report = run(cluster.clone(), cluster.clone(), &renewed).await.unwrap();
        assert_eq!(report, Report { created: 0, updated: 1 });
    }

    #[tokio::test]
    async fn what_was_taken_away_is_added_again_unless_protected() {
        let cluster = FakeCluster::new();
        run(cluster.clone(), cluster.clone(), &published()).await.unwrap();
        let read = |name: &str| parse(&cluster.get(RBAC, "clusterroles", "", name).unwrap());
        let mut role = read("system:kube-dns");
        role["rules"] = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["extra"]}]);
        cluster.put(RBAC, "clusterroles", role.clone());
        assert_eq!(run(cluster.clone(), cluster.clone(), &published()).await.unwrap().updated, 1);
        assert_eq!(items(&read("system:kube-dns"), "/rules").len(), 2);
        role["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        cluster.put(RBAC, "clusterroles", role);
        assert_eq!(run(cluster.clone(), cluster.clone(), &published()).await.unwrap().updated, 0);
        let mut admin = parse(&cluster.get(RBAC, "clusterrolebindings", "", "cluster-admin").unwrap());
        admin["subjects"] = json!([{"kind": "User", "name": "jane"}]);
        cluster.put(RBAC, "clusterrolebindings", admin);
        run(cluster.clone(), cluster.clone(), &published()).await.unwrap();
        let admin = parse(&cluster.get(RBAC, "clusterrolebindings", "", "cluster-admin").unwrap());
        assert_eq!(items(&admin, "/subjects").len(), 2);
    }

    #[tokio::test]
    async fn the_defaults_let_components_do_their_work_and_no_more() {
        let cluster = FakeCluster::new();
        run(cluster.clone(), cluster.clone(), &published()).await.unwrap();
        let rbac = Rbac::new(cluster.clone());
        let can = |user: &UserInfo, verb: &str, group: &str, resource: &str, namespace: &str| {
            let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
            let a = Attributes {
                user: user.clone(),
                verb: verb.into(),
                api_group: group.into(),
                resource: resource.into(),
                subresource: sub.into(),
                namespace: namespace.into(),
                resource_request: true,
                ..Attributes::default()
            };
            rbac.decide(&a).is_allowed()
        };
        let scheduler = UserInfo::new("system:kube-scheduler", &["system:authenticated"]);
        assert!(can(&scheduler, "create", "", "pods/binding", "x"));
        assert!(!can(&scheduler, "create", "", "pods", "x"));
        let deployments = UserInfo::service_account("kube-system", "deployment-controller", "");
        assert!(can(&deployments, "create", "apps", "replicasets", "x"));
        assert!(!can(&deployments, "create", "", "pods", "x"));
        let anyone = UserInfo::new("jane", &["system:authenticated"]);
        assert!(can(&anyone, "create", "authorization.k8s.io", "selfsubjectaccessreviews", ""));
        assert!(!can(&anyone, "list", "", "pods", "x"));
        // The node role is bound to nobody: kubelets have their own authorizer.
        assert!(!can(&UserInfo::new("system:node:n", &["system:nodes"]), "list", "", "pods", "x"));
        // Aggregated roles work from the start: bind `view` and `admin`.
        let bind = |name: &str, role: &str, user: &str| {
            cluster.put(
                RBAC,
                "rolebindings",
                json!({"metadata": {"namespace": "x", "name": name},
                       "roleRef": {"kind": "ClusterRole", "name": role},
                       "subjects": [{"kind": "User", "name": user}]}),
            );
        };
        bind("v", "view", "viewer");
        bind("a", "admin", "admin");
        let (viewer, admin) = (UserInfo::new("viewer", &[]), UserInfo::new("admin", &[]));
        assert!(can(&viewer, "list", "apps", "deployments", "x"));
        assert!(!can(&viewer, "get", "", "secrets", "x"));
        assert!(can(&admin, "create", RBAC, "rolebindings", "x"));
        assert!(can(&admin, "delete", "", "secrets", "x") && can(&admin, "list", "", "pods", "x"));
        assert!(!can(&admin, "update", "", "resourcequotas", "x"));
    }
}
