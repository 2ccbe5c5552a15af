//! Which resource a request means: built-in rows and custom resources behind one type.

use crate::cache::{Cache, GroupResource, ResourceCache, storage_key};
use crate::kinds::Strategy;
use crate::resources::{self, Builtin};
use crate::schemas::{self, SchemaRef};
use machinery::schema::{Schema, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

/// One resource in one served version, with everything the registry needs to know about it.
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub verbs: &'static [&'static str],
    pub subresources: Vec<Subresource>,
    /// Group and version of the stored form.
    pub storage: (String, String),
    /// Where its objects are stored and cached.
    pub stored: GroupResource,
    pub cache: Arc<ResourceCache>,
    /// Types of this version. `None` for kinds the schema table does not know.
    pub schema: Option<(SchemaRef, TypeId)>,
    pub strategy: Arc<dyn Strategy>,
    /// Objects have a protobuf form.
    pub protobuf: bool,
    /// Never stored: reviews, bindings, component statuses.
    pub ephemeral: bool,
    pub custom: Option<Arc<crate::crd::Custom>>,
}

#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: &'static [&'static str],
}

impl Resource {
    pub fn api_version(&self) -> String {
        join(&self.group, &self.version)
    }

    pub fn storage_api_version(&self) -> String {
        join(&self.storage.0, &self.storage.1)
    }

    /// The request's version is the stored one, so stored bytes are the answer.
    pub fn is_storage_version(&self) -> bool {
        self.storage.0 == self.group
            && self.storage.1 == self.version
            && self.custom.as_ref().is_none_or(|c| !c.mixed)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// `/registry/<group>/<resource>/<namespace>/<name>`.
    pub fn key(&self, namespace: &str, name: &str) -> bytes::Bytes {
        storage_key(&self.stored, if self.namespaced { namespace } else { "" }, name).into()
    }

    pub fn shape(&self) -> Option<(&Schema, TypeId)> {
        self.schema.as_ref().map(|(s, t)| (&**s, *t))
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.group, self.version, self.plural)
    }
}

pub fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// All resources served at one moment. Immutable; replaced as a whole when a CRD changes.
#[derive(Default)]
pub struct Index {
    /// Groups in discovery order, each with its versions in order.
    pub groups: Vec<Group>,
    by_path: HashMap<String, Arc<Resource>>,
    /// Grows with every replacement; caches of derived documents compare it.
    pub generation: u64,
}

pub struct Group {
    pub name: String,
    pub versions: Vec<Version>,
}

pub struct Version {
    pub name: String,
    pub resources: Vec<Arc<Resource>>,
}

impl Index {
    /// The built-in resources; `all_versions` adds alpha and beta ones.
    pub fn builtin(cache: &Cache, all_versions: bool) -> Self {
        let mut index = Self::default();
        for row in resources::all() {
            if all_versions || row.on_by_default() {
                index.add(Arc::new(from_row(cache, row)));
            }
        }
        index
    }

    /// Adds one resource at the end of its group and version, creating both as needed.
    pub fn add(&mut self, resource: Arc<Resource>) {
        let group = match self.groups.iter().position(|g| g.name == resource.group) {
            Some(at) => &mut self.groups[at],
            None => {
                self.groups.push(Group { name: resource.group.clone(), versions: Vec::new() });
                let last = self.groups.len() - 1;
                &mut self.groups[last]
            }
        };
        let version = match group.versions.iter().position(|v| v.name == resource.version) {
            Some(at) => &mut group.versions[at],
            None => {
                group.versions.push(Version { name: resource.version.clone(), resources: Vec::new() });
                let last = group.versions.len() - 1;
                &mut group.versions[last]
            }
        };
        version.resources.push(resource.clone());
        self.by_path.insert(path_key(&resource.group, &resource.version, &resource.plural), resource);
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&path_key(group, version, plural))
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }

    pub fn version(&self, group: &str, version: &str) -> Option<&Version> {
        self.group(group)?.versions.iter().find(|v| v.name == version)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups.iter().flat_map(|g| &g.versions).flat_map(|v| &v.resources)
    }

    /// The resource of a kind, in any served version of its group if `version` is empty.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.iter()
            .find(|r| r.group == group && r.kind == kind && (version.is_empty() || r.version == version))
    }

    /// The stored resource of a group, in its storage version if that is served.
    pub fn stored(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        let of_group = || self.iter().filter(move |r| r.group == group && r.plural == plural);
        of_group().find(|r| r.is_storage_version()).or_else(|| of_group().next())
    }
}

fn path_key(group: &str, version: &str, plural: &str) -> String {
    let mut key = String::with_capacity(group.len() + version.len() + plural.len() + 2);
    key.push_str(group);
    key.push('/');
    key.push_str(version);
    key.push('/');
    key.push_str(plural);
    key
}

fn from_row(cache: &Cache, row: &Builtin) -> Resource {
    let stored = GroupResource::new(row.storage.0, row.plural);
    let schema = schemas::builtin(row.group, row.version, row.kind);
    Resource {
        group: row.group.into(),
        version: row.version.into(),
        plural: row.plural.into(),
        singular: row.singular(),
        kind: row.kind.into(),
        list_kind: format!("{}List", row.kind),
        namespaced: row.namespaced,
        short_names: row.short_names.iter().map(|s| (*s).to_owned()).collect(),
        categories: row.categories.iter().map(|s| (*s).to_owned()).collect(),
        verbs: row.verbs,
        subresources: row
            .subresources
            .iter()
            .map(|s| Subresource {
                name: s.name.into(),
                group: s.group.into(),
                version: s.version.into(),
                kind: s.kind.into(),
                verbs: s.verbs,
            })
            .collect(),
        storage: (row.storage.0.into(), row.storage.1.into()),
        cache: cache.resource(&stored),
        stored,
        protobuf: schema.is_some(),
        schema,
        strategy: schemas::strategy(row.storage.0, row.storage.1, row.kind),
        ephemeral: row.verbs == ["create"] || row.kind == "ComponentStatus",
        custom: None,
    }
}
