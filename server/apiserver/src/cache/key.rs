//! Storage keys: `/registry[/<group>]/<resource>[/<namespace>]/<name>`.
//!
//! The core group has no group segment and cluster-scoped objects no namespace segment, so three segments are
//! ambiguous by shape alone. The core group is closed (every later API has a group), which settles it.

use std::fmt;
use std::sync::Arc;

/// What every key starts with, trailing slash included.
pub const ROOT: &str = "/registry/";

const CORE_RESOURCES: &[&str] = &[
    "bindings",
    "componentstatuses",
    "configmaps",
    "endpoints",
    "events",
    "limitranges",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "serviceaccounts",
    "services",
];

/// A resource as storage knows it: no version. The core group is the empty string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupResource {
    pub group: Arc<str>,
    pub resource: Arc<str>,
}

impl GroupResource {
    pub fn new(group: &str, resource: &str) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.group {
            "" => f.write_str(&self.resource),
            group => write!(f, "{}.{group}", self.resource),
        }
    }
}

/// The key of one object; `namespace` is empty for cluster-scoped resources.
pub fn storage_key(resource: &GroupResource, namespace: &str, name: &str) -> String {
    let mut key = String::with_capacity(
        ROOT.len() + resource.group.len() + resource.resource.len() + namespace.len() + name.len() + 3,
    );
    key.push_str(ROOT);
    for segment in [&resource.group, &*resource.resource, namespace] {
        if !segment.is_empty() {
            key.push_str(segment);
            key.push('/');
        }
    }
    key.push_str(name);
    key
}

/// The parts of a storage key, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    pub group: &'a str,
    pub resource: &'a str,
    /// `namespace/name`, or the bare name of a cluster-scoped object: the object's key within its resource.
    pub path: &'a str,
}

impl<'a> Parts<'a> {
    /// `None` for a key that is no object's: other data may live under the root.
    pub fn parse(key: &'a [u8]) -> Option<Self> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
        let (first, rest) = rest.split_once('/')?;
        let (group, resource, path) = if CORE_RESOURCES.contains(&first) {
            ("", first, rest)
        } else {
            let (resource, path) = rest.split_once('/')?;
            (first, resource, path)
        };
        let well_formed =
            !resource.is_empty() && path.split('/').count() <= 2 && !path.split('/').any(str::is_empty);
        well_formed.then_some(Self { group, resource, path })
    }

    pub fn namespace(&self) -> &'a str {
        self.path.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &'a str {
        self.path.split_once('/').map_or(self.path, |(_, name)| name)
    }
}

/// The key of an object within its resource.
pub(super) fn path(namespace: &str, name: &str) -> String {
    match namespace {
        "" => name.to_owned(),
        namespace => [namespace, "/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_round_trips() {
        for (group, resource, namespace, name, key) in [
            ("", "pods", "default", "web-0", "/registry/pods/default/web-0"),
            ("", "namespaces", "", "default", "/registry/namespaces/default"),
            ("apps", "deployments", "default", "web", "/registry/apps/deployments/default/web"),
            ("example.com", "pods", "", "p", "/registry/example.com/pods/p"),
            ("apps", "things", "", "web", "/registry/apps/things/web"),
        ] {
            let gr = GroupResource::new(group, resource);
            assert_eq!(storage_key(&gr, namespace, name), key);
            let parts = Parts::parse(key.as_bytes()).unwrap();
            assert_eq!((parts.group, parts.resource), (group, resource));
            assert_eq!((parts.namespace(), parts.name()), (namespace, name));
            assert_eq!(parts.path, path(namespace, name));
        }
    }

    #[test]
    fn foreign_keys_are_nobodys() {
        for key in [
            "/registry/",
            "/registry/pods",
            "/registry/pods/",
            "/other/pods/a/b",
            "/registry/pods/a/b/c",
            "/registry/pods//b",
        ] {
            assert_eq!(Parts::parse(key.as_bytes()), None, "{key}");
        }
        assert_eq!(Parts::parse(b"/registry/pods/a/\xff"), None);
    }
}
