//! Which resource a request means: built-in rows and custom resources behind one type.

use crate::aggregation::Extension;
use crate::cache::{Cache, GroupResource, ResourceCache, storage_key};
use crate::resources::{self, Builtin};
use crate::schemas::{self, SchemaRef};
use kinds::Strategy;
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

    /// The version the registry works in is the request's. Built-in kinds are also stored in it; for custom ones
    /// see `crd::versions`.
    pub fn is_storage_version(&self) -> bool {
        self.storage.0 == self.group && self.storage.1 == self.version
    }

    /// What discovery says may be done with it: of a definition that ends, nothing new.
    pub fn published_verbs(&self) -> &'static [&'static str] {
        match &self.custom {
            Some(custom) if custom.terminating => resources::verbs::ENDING,
            _ => self.verbs,
        }
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
    /// Group versions another server answers for.
    extensions: HashMap<String, Arc<Extension>>,
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
    /// Who answers for it, where that is not this server.
    pub extension: Option<Arc<Extension>>,
}

/// What the index is made of. Whoever changes a part has the whole built anew.
#[derive(Default)]
pub struct Parts {
    pub builtin: Vec<Arc<Resource>>,
    pub custom: Vec<Arc<Resource>>,
    pub extensions: Vec<Arc<Extension>>,
}

impl Parts {
    /// The built-in resources; `all_versions` adds alpha and beta ones.
    pub fn builtin(cache: &Cache, all_versions: bool) -> Self {
        let rows = resources::all().iter().filter(|row| all_versions || row.on_by_default());
        Self { builtin: rows.map(|row| Arc::new(from_row(cache, row))).collect(), ..Self::default() }
    }

    pub fn index(&self, generation: u64) -> Index {
        let mut index = Index { generation, ..Index::default() };
        for resource in self.builtin.iter().chain(&self.custom) {
            index.add(resource.clone());
        }
        for extension in &self.extensions {
            index.delegate(extension.clone());
        }
        if !(self.custom.is_empty() && self.extensions.is_empty()) {
            index.sort();
        }
        index
    }
}

impl Index {
    /// Adds one resource at the end of its group and version, creating both as needed.
    pub fn add(&mut self, resource: Arc<Resource>) {
        self.version_mut(&resource.group, &resource.version).resources.push(resource.clone());
        self.by_path.insert(path_key(&resource.group, &resource.version, &resource.plural), resource);
    }

    /// Hands a whole group version to another server. What this one served there is no longer reached.
    pub fn delegate(&mut self, extension: Arc<Extension>) {
        let version = self.version_mut(&extension.group, &extension.version);
        let hidden = std::mem::take(&mut version.resources);
        version.extension = Some(extension.clone());
        for resource in hidden {
            self.by_path.remove(&path_key(&resource.group, &resource.version, &resource.plural));
        }
        self.extensions.insert(path_key(&extension.group, &extension.version, ""), extension);
    }

    fn version_mut(&mut self, group: &str, version: &str) -> &mut Version {
        let at = self.groups.iter().position(|g| g.name == group).unwrap_or_else(|| {
            self.groups.push(Group { name: group.to_owned(), versions: Vec::new() });
            self.groups.len() - 1
        });
        let versions = &mut self.groups[at].versions;
        let at = versions.iter().position(|v| v.name == version).unwrap_or_else(|| {
            versions.push(Version { name: version.to_owned(), resources: Vec::new(), extension: None });
            versions.len() - 1
        });
        &mut versions[at]
    }

    /// Upstream's order: groups by their highest priority, then by name; versions by priority, then by age.
    fn sort(&mut self) {
        use crate::aggregation::priorities;
        let of = |group: &str, version: &Version| match &version.extension {
            Some(extension) => (extension.group_priority, extension.version_priority),
            None => priorities::of(group, &version.name),
        };
        for group in &mut self.groups {
            let Group { name, versions } = group;
            versions.sort_by_cached_key(|v| (std::cmp::Reverse(of(name, v).1), priorities::rank(&v.name)));
        }
        self.groups.sort_by_cached_key(|g| {
            let highest = g.versions.iter().map(|v| of(&g.name, v).0).max().unwrap_or(0);
            (std::cmp::Reverse(highest), g.name.clone())
        });
    }

    /// The server behind a group version, where that is another one.
    pub fn extension(&self, group: &str, version: &str) -> Option<&Arc<Extension>> {
        if self.extensions.is_empty() {
            return None;
        }
        self.extensions.get(&path_key(group, version, ""))
    }

    /// All of them, one a group version.
    pub fn extensions(&self) -> impl Iterator<Item = &Arc<Extension>> {
        self.extensions.values()
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
        let stored = |r: &&Arc<Resource>| match &r.custom {
            Some(custom) => custom.versions.storage() == r.version,
            None => r.is_storage_version(),
        };
        of_group().find(stored).or_else(|| of_group().next())
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
        strategy: schemas::strategy_of(row.group, row.storage, row.kind),
        ephemeral: row.verbs == ["create"] || row.kind == "ComponentStatus",
        custom: None,
    }
}
