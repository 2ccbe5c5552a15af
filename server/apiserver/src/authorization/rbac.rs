//! RBAC: roles and bindings of the cluster, indexed by subject.
//!
//! The index follows the cache by [`Feeds`]: it is brought up to date when a question comes and something was
//! written since the last one, so a new binding works with the next request and roles are parsed once.

use super::rules::Rule;
use super::{Attributes, Authorizer, Decision};
use crate::authentication::{UserInfo, service_account_user};
use crate::reader::{Change, Feeds, Reader, items, parse, text};
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [(&str, &str); 4] =
    [(GROUP, "clusterroles"), (GROUP, "clusterrolebindings"), (GROUP, "roles"), (GROUP, "rolebindings")];

/// A role that a binding grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    pub cluster: bool,
    pub name: Box<str>,
}

impl RoleRef {
    pub fn read(value: &Value) -> Self {
        Self { cluster: text(value, "/kind") == "ClusterRole", name: text(value, "/name").into() }
    }
}

#[derive(Debug)]
struct Binding {
    namespace: Arc<str>,
    name: Arc<str>,
    role: RoleRef,
    users: Vec<String>,
    /// Service accounts are users with a long name; kept apart for the reason's wording.
    accounts: Vec<String>,
    groups: Vec<String>,
}

impl Binding {
    fn read(namespace: &Arc<str>, name: &Arc<str>, object: &Value) -> Self {
        let (mut users, mut accounts, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for subject in items(object, "/subjects") {
            let of = text(subject, "/name");
            match text(subject, "/kind") {
                "User" => users.push(of.to_owned()),
                "Group" => groups.push(of.to_owned()),
                "ServiceAccount" => {
                    let own = text(subject, "/namespace");
                    let scope = if own.is_empty() { namespace } else { own };
                    if !scope.is_empty() {
                        accounts.push(service_account_user(scope, of));
                    }
                }
                _ => {}
            }
        }
        let role = RoleRef::read(&object["roleRef"]);
        Self { namespace: namespace.clone(), name: name.clone(), role, users, accounts, groups }
    }
}

/// The bindings of one namespace, or of the cluster.
#[derive(Default)]
struct Scope {
    bindings: HashMap<Arc<str>, Arc<Binding>>,
    by_user: HashMap<String, Vec<Arc<Binding>>>,
    by_group: HashMap<String, Vec<Arc<Binding>>>,
}

impl Scope {
    fn remove(&mut self, name: &str) {
        let Some(old) = self.bindings.remove(name) else { return };
        let take = |index: &mut HashMap<String, Vec<Arc<Binding>>>, subject: &String| {
            if let Some(list) = index.get_mut(subject) {
                list.retain(|b| !Arc::ptr_eq(b, &old));
                if list.is_empty() {
                    index.remove(subject);
                }
            }
        };
        old.users.iter().chain(&old.accounts).for_each(|u| take(&mut self.by_user, u));
        old.groups.iter().for_each(|g| take(&mut self.by_group, g));
    }

    fn put(&mut self, binding: Binding) {
        self.remove(&binding.name.clone());
        let binding = Arc::new(binding);
        for user in binding.users.iter().chain(&binding.accounts) {
            self.by_user.entry(user.clone()).or_default().push(binding.clone());
        }
        for group in &binding.groups {
            self.by_group.entry(group.clone()).or_default().push(binding.clone());
        }
        self.bindings.insert(binding.name.clone(), binding);
    }

    /// The bindings of a user with, each, the group that matched (`None`: the user's own name).
    fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = (&'a Arc<Binding>, Option<&'a str>)> {
        let own = self.by_user.get(&user.name).into_iter().flatten().map(|b| (b, None));
        let groups = user.groups.iter().filter_map(|g| Some((self.by_group.get(g)?, g.as_str())));
        own.chain(groups.flat_map(|(list, group)| list.iter().map(move |b| (b, Some(group)))))
    }
}

type Rules = Arc<[Rule]>;

#[derive(Default)]
struct Index {
    cluster: Scope,
    namespaces: HashMap<Arc<str>, Scope>,
    cluster_roles: HashMap<Arc<str>, Rules>,
    roles: HashMap<Arc<str>, HashMap<Arc<str>, Rules>>,
}

impl Index {
    fn apply(&mut self, place: usize, change: Change) {
        match change {
            Change::Snapshot(all) => {
                match place {
                    0 => self.cluster_roles.clear(),
                    1 => self.cluster = Scope::default(),
                    2 => self.roles.clear(),
                    _ => self.namespaces.clear(),
                }
                all.into_iter().for_each(|entry| self.apply(place, Change::Put(entry)));
            }
            Change::Put(entry) => {
                let object = parse(&entry);
                let rules = || -> Rules { Rule::read_all(items(&object, "/rules")).into() };
                match place {
                    0 => drop(self.cluster_roles.insert(entry.name.clone(), rules())),
                    1 => self.cluster.put(Binding::read(&"".into(), &entry.name, &object)),
                    2 => {
                        let of = self.roles.entry(entry.namespace.clone()).or_default();
                        of.insert(entry.name.clone(), rules());
                    }
                    _ => {
                        let scope = self.namespaces.entry(entry.namespace.clone()).or_default();
                        scope.put(Binding::read(&entry.namespace, &entry.name, &object));
                    }
                }
            }
            Change::Delete { namespace, name } => match place {
                0 => drop(self.cluster_roles.remove(&name)),
                1 => self.cluster.remove(&name),
                2 => {
                    if let Some(of) = self.roles.get_mut(&namespace) {
                        of.remove(&name);
                        if of.is_empty() {
                            self.roles.remove(&namespace);
                        }
                    }
                }
                _ => {
                    if let Some(scope) = self.namespaces.get_mut(&namespace) {
                        scope.remove(&name);
                        if scope.bindings.is_empty() {
                            self.namespaces.remove(&namespace);
                        }
                    }
                }
            },
        }
    }

    fn role(&self, namespace: &str, role: &RoleRef) -> Option<&Rules> {
        if role.cluster {
            self.cluster_roles.get(&*role.name)
        } else {
            self.roles.get(namespace)?.get(&*role.name)
        }
    }

    /// Calls `visit` for every binding of the user that counts in `namespace`, cluster-wide ones first, until it
    /// returns false. Roles that do not exist are added to `missing`.
    fn visit<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &str,
        missing: &mut Vec<String>,
        mut visit: impl FnMut(&'a Binding, Option<&'a str>, &'a Rules) -> bool,
    ) {
        let local = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        for scope in std::iter::once(&self.cluster).chain(local) {
            for (binding, group) in scope.of(user) {
                match self.role(&binding.namespace, &binding.role) {
                    Some(rules) => {
                        if !visit(binding, group, rules) {
                            return;
                        }
                    }
                    None => {
                        let kind = if binding.role.cluster { "clusterrole" } else { "role" };
                        missing.push(format!("{kind}.{GROUP} {:?} not found", binding.role.name));
                    }
                }
            }
        }
    }
}

/// The RBAC authorizer.
pub struct Rbac {
    reader: Arc<dyn Reader>,
    feeds: Mutex<Feeds>,
    /// The reader's revision the index stands at; spares the lock when nothing was written.
    at: AtomicU64,
    index: RwLock<Index>,
}

impl Rbac {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        let feeds = Mutex::new(Feeds::new(reader.clone(), &RESOURCES));
        Self { reader, feeds, at: AtomicU64::new(u64::MAX), index: RwLock::default() }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        let revision = self.reader.revision();
        if self.at.load(Ordering::Acquire) != revision {
            let mut feeds = self.feeds.lock();
            let mut changes = Vec::new();
            feeds.drain(|place, change| changes.push((place, change)));
            if !changes.is_empty() {
                let mut index = self.index.write();
                changes.into_iter().for_each(|(place, change)| index.apply(place, change));
            }
            self.at.store(revision, Ordering::Release);
        }
        self.index.read()
    }

    /// Every rule the user has in `namespace` (empty: cluster-wide ones only), and the roles that were not found.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        self.index().visit(user, namespace, &mut missing, |_, _, of| {
            rules.extend(of.iter().cloned());
            true
        });
        (rules, missing)
    }

    /// The rules of a role; `None` when there is no such role.
    pub fn role_rules(&self, namespace: &str, role: &RoleRef) -> Option<Vec<Rule>> {
        self.index().role(namespace, role).map(|r| r.to_vec())
    }

    pub fn decide(&self, a: &Attributes) -> Decision {
        let mut missing = Vec::new();
        let mut reason = None;
        let namespace = if a.resource_request { a.namespace.as_str() } else { "" };
        let index = self.index();
        index.visit(&a.user, namespace, &mut missing, |binding, group, rules| {
            if !rules.iter().any(|rule| rule.allows(a)) {
                return true;
            }
            let kind = if binding.role.cluster { "ClusterRole" } else { "Role" };
            let (scope, name) = match &*binding.namespace {
                "" => ("ClusterRoleBinding", binding.name.to_string()),
                namespace => ("RoleBinding", format!("{}/{namespace}", binding.name)),
            };
            let subject = match group {
                Some(group) => format!("Group {group:?}"),
                None if binding.users.contains(&a.user.name) => format!("User {:?}", a.user.name),
                None => {
                    let account = crate::authentication::split_service_account(&a.user.name);
                    let (namespace, name) = account.unwrap_or_default();
                    format!("ServiceAccount \"{name}/{namespace}\"")
                }
            };
            reason = Some(format!(
                "RBAC: allowed by {scope} {name:?} of {kind} {:?} to {subject}",
                binding.role.name
            ));
            false
        });
        match (reason, missing.as_slice()) {
            (Some(reason), _) => Decision::Allow { reason },
            (None, []) => Decision::silent(),
            (None, [one]) => Decision::NoOpinion { reason: format!("RBAC: {one}") },
            (None, many) => Decision::NoOpinion { reason: format!("RBAC: [{}]", many.join(", ")) },
        }
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        self.decide(attributes)
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (rules, missing) = self.rules(user, namespace);
        let (mut resources, mut urls) = (Vec::new(), Vec::new());
        for rule in rules {
            let to = if rule.resources.is_empty() { &mut urls } else { &mut resources };
            to.push(rule.to_json());
        }
        (resources, urls, !missing.is_empty())
    }
}

#[cfg(test)]
mod tests;
