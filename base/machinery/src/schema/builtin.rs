//! The built-in kinds of Kubernetes v1.36, loaded from the table on first use and kept.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::model::{Schema, TypeId};
use super::table::{self, KindRow};

const TABLES: &[&str] =
    &[include_str!("../../schema/v1.36.txt"), include_str!("../../schema/apiregistration.txt")];

/// Kinds that every group and version accepts: request options and watch events.
const EVERYWHERE: &[&str] = &[
    "ListOptions",
    "GetOptions",
    "DeleteOptions",
    "CreateOptions",
    "UpdateOptions",
    "PatchOptions",
    "WatchEvent",
];

/// Kinds of `meta/v1` that stand under the plain `v1`.
const UNVERSIONED: &[&str] = &["Status", "APIVersions", "APIGroupList", "APIGroup", "APIResourceList"];

/// Every built-in kind, over one [`Schema`].
pub struct Builtin {
    pub schema: Schema,
    kinds: Vec<KindRow>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), TypeId>,
    by_name: HashMap<String, TypeId>,
}

/// The built-in kinds. The first call parses the table, which takes a few milliseconds.
pub fn builtin() -> &'static Builtin {
    static LOADED: OnceLock<Builtin> = OnceLock::new();
    LOADED.get_or_init(|| {
        let loaded =
            table::load(TABLES).unwrap_or_else(|e| panic!("the table inside this program is broken: {e}"));
        Builtin::new(loaded)
    })
}

impl Builtin {
    fn new(loaded: table::Loaded) -> Self {
        let mut by_kind = HashMap::with_capacity(loaded.kinds.len());
        let mut kinds = loaded.kinds;
        kinds.retain(|k| k.group != "-");
        for kind in &mut kinds {
            if kind.group == "meta.k8s.io" && UNVERSIONED.contains(&kind.kind) {
                kind.group = "";
            }
            by_kind.insert((kind.group, kind.version, kind.kind), kind.id);
        }
        Self { schema: loaded.schema, kinds, by_kind, by_name: loaded.names }
    }

    /// The type of a kind; lists (`PodList`), options and `Status` are kinds too.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        if let Some(id) = self.by_kind.get(&(group, version, kind)) {
            return Some(*id);
        }
        let meta = EVERYWHERE.contains(&kind) || (group == "meta.k8s.io" && version == "v1beta1");
        let group = if UNVERSIONED.contains(&kind) { "" } else { "meta.k8s.io" };
        if !meta {
            return None;
        }
        self.by_kind.get(&(group, "v1", kind)).copied()
    }

    /// The type of an OpenAPI definition, as `io.k8s.api.core.v1.Pod`.
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// Every registered kind, lists included, in the table's order.
    pub fn kinds(&self) -> impl Iterator<Item = &KindRow> {
        self.kinds.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{ListKind, Shape};

    #[test]
    fn kinds_lists_and_options_are_found() {
        let b = builtin();
        let pod = b.kind("", "v1", "Pod").expect("Pod");
        assert_eq!(Some(pod), b.by_name("io.k8s.api.core.v1.Pod"));
        assert!(b.kind("apps", "v1", "DeploymentList").is_some());
        assert_eq!(b.kind("apps", "v1", "DeleteOptions"), b.kind("", "v1", "DeleteOptions"));
        assert!(b.kind("", "v1", "Status").is_some());
        assert!(b.kind("apps", "v1", "Status").is_none());
        assert!(b.kind("meta.k8s.io", "v1beta1", "Table").is_some());
        assert!(b.kind("apiregistration.k8s.io", "v1", "APIService").is_some());
        assert!(b.kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").is_some());
        assert!(b.kind("apps", "v1beta1", "Deployment").is_none());
        assert!(b.kinds().filter(|k| k.group.is_empty() && k.kind == "Pod").count() == 1);
    }

    #[test]
    fn container_ports_are_keyed_by_port_and_protocol() {
        let b = builtin();
        let id = b.by_name("io.k8s.api.core.v1.Container").expect("Container");
        let ports = b.schema.get(id).field("ports").expect("ports");
        let Shape::List(list) = &ports.shape else { panic!("not a list") };
        assert_eq!(list.kind, ListKind::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.strategic.merge_key.as_deref(), Some("containerPort"));
    }

    #[test]
    fn embedded_structs_are_flat_with_their_numbers() {
        let b = builtin();
        let id = b.by_name("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations").expect("type");
        let groups = b.schema.get(id).field("apiGroups").expect("apiGroups");
        assert_eq!((groups.embed.as_slice(), groups.proto), (&[2, 2][..], 1));
    }
}
