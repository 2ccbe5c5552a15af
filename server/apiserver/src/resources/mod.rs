//! The built-in resources of v1.36: groups and versions in discovery order, names, verbs and subresources.
//!
//! Data, not code: everything that routes, authorizes, stores or publishes a built-in kind starts from a row of
//! this table. Custom resources produce the same facts at run time (see `resolve`).

mod table;

/// Verb sets, sorted as discovery prints them.
pub(crate) mod verbs {
    pub const ALL: &[&str] =
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    pub const ENDING: &[&str] = &["delete", "deletecollection", "get", "list", "watch"];
    pub const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
    pub const CREATE: &[&str] = &["create"];
    pub const READ: &[&str] = &["get", "list"];
    pub const GET: &[&str] = &["get"];
    pub const UPDATE: &[&str] = &["update"];
    pub const GPU: &[&str] = &["get", "patch", "update"];
    pub const CONNECT: &[&str] = &["create", "get"];
    pub const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
}

/// One resource in one version.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// Group and version of the stored form; also names its place in the store.
    pub storage: (&'static str, &'static str),
}

/// A subresource and the kind it speaks; an empty version means "the parent's group and version".
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    pub name: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

impl Builtin {
    pub fn singular(&self) -> String {
        self.kind.to_ascii_lowercase()
    }

    /// Upstream serves stable versions by default; alpha and beta ones wait for `--runtime-config`.
    pub fn on_by_default(&self) -> bool {
        !self.version.contains("alpha") && !self.version.contains("beta")
    }

    const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    const fn categories(mut self, names: &'static [&'static str]) -> Self {
        self.categories = names;
        self
    }

    const fn subresources(mut self, subresources: &'static [Subresource]) -> Self {
        self.subresources = subresources;
        self
    }

    const fn stored_as(mut self, group: &'static str, version: &'static str) -> Self {
        self.storage = (group, version);
        self
    }
}

const fn row(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
    namespaced: bool,
) -> Builtin {
    Builtin {
        group,
        version,
        plural,
        kind,
        namespaced,
        short_names: &[],
        categories: &[],
        verbs,
        subresources: &[],
        storage: (group, version),
    }
}

const fn namespaced(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Builtin {
    row(group, version, plural, kind, verbs, true)
}

const fn cluster(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Builtin {
    row(group, version, plural, kind, verbs, false)
}

const fn sub(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, group, version, kind, verbs }
}

/// All rows in discovery order: the core group first, then the named groups.
pub fn all() -> &'static [Builtin] {
    table::ROWS
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The table against the published aggregated discovery document.
    #[test]
    fn table_is_what_upstream_publishes() {
        let path = "/work/shared/openapi/aggregated_v2.json";
        let Ok(text) = std::fs::read(path) else {
            println!("skipped: {path} is not on this machine");
            return;
        };
        let document: Value = serde_json::from_slice(&text).unwrap();
        let mut published = Vec::new();
        for group in document["items"].as_array().unwrap() {
            for version in group["versions"].as_array().unwrap() {
                for resource in version["resources"].as_array().unwrap() {
                    let subs: Vec<Value> = resource["subresources"].as_array().cloned().unwrap_or_default();
                    published.push(serde_json::json!([
                        group["metadata"]["name"],
                        version["version"],
                        resource["resource"],
                        resource["singularResource"],
                        resource["responseKind"]["kind"],
                        resource["scope"],
                        resource["shortNames"].as_array().cloned().unwrap_or_default(),
                        resource["categories"].as_array().cloned().unwrap_or_default(),
                        resource["verbs"],
                        subs.iter()
                            .map(|s| serde_json::json!([s["subresource"], s["responseKind"], s["verbs"]]))
                            .collect::<Vec<_>>(),
                    ]));
                }
            }
        }
        let ours: Vec<Value> = all()
            .iter()
            .filter(|r| !r.group.is_empty())
            .map(|r| {
                serde_json::json!([
                    r.group,
                    r.version,
                    r.plural,
                    r.singular(),
                    r.kind,
                    if r.namespaced { "Namespaced" } else { "Cluster" },
                    r.short_names,
                    r.categories,
                    r.verbs,
                    r.subresources
                        .iter()
                        .map(|s| serde_json::json!([
                            s.name,
                            {"group": s.group, "version": s.version, "kind": s.kind},
                            s.verbs
                        ]))
                        .collect::<Vec<_>>(),
                ])
            })
            .collect();
        assert_eq!(ours.len(), published.len());
        for (a, b) in ours.iter().zip(&published) {
            assert_eq!(a, b);
        }
    }

    #[test]
    fn every_storage_version_is_a_row() {
        for r in all() {
            let (group, version) = r.storage;
            assert!(
                all().iter().any(|s| s.group == group && s.version == version && s.plural == r.plural),
                "{}/{} {}",
                r.group,
                r.version,
                r.plural
            );
        }
    }
}
