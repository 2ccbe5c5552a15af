//! What the server serves: the preferred version of every resource, read from discovery.

use std::sync::Arc;

use kube::Client;
use kube::api::ApiResource;
use kube::core::GroupVersionKind;
use serde::Deserialize;
use tracing::debug;

use crate::Error;

/// One resource in its group's preferred version that has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Served {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    pub fn group_resource(&self) -> String {
        if self.resource.group.is_empty() {
            self.resource.plural.clone()
        } else {
            format!("{}.{}", self.resource.plural, self.resource.group)
        }
    }
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    versions: Vec<Version>,
    preferred_version: Option<Version>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    group_version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    namespaced: bool,
    kind: String,
    #[serde(default)]
    verbs: Vec<String>,
}

async fn get<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, Error> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|e| Error::Config(e.to_string()))?;
    client.request(request).await.map_err(Error::Discovery)
}

/// Everything served, sub-resources left out. A group that fails to answer (an aggregated one, say) is left out and
/// named in the second part.
pub async fn discover(client: &Client) -> Result<(Arc<Vec<Served>>, Vec<String>), Error> {
    let mut all: Vec<Served> = Vec::new();
    let mut failed = Vec::new();
    let list: ResourceList = get(client, "/api/v1").await?;
    add(&mut all, "v1", list);
    let groups: GroupList = get(client, "/apis").await?;
    for group in groups.groups {
        let preferred = group.preferred_version.map(|v| v.group_version);
        let rest =
            group.versions.into_iter().map(|v| v.group_version).filter(|v| Some(v) != preferred.as_ref());
        for version in preferred.clone().into_iter().chain(rest) {
            match get::<ResourceList>(client, &format!("/apis/{version}")).await {
                Ok(list) => add(&mut all, &version, list),
                Err(error) => {
                    debug!(%error, version, "group does not answer discovery");
                    failed.push(version);
                }
            }
        }
    }
    Ok((Arc::new(all), failed))
}

/// Adds resources that no earlier, more preferred version of the group has.
fn add(all: &mut Vec<Served>, group_version: &str, list: ResourceList) {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    for r in list.resources {
        if r.name.contains('/')
            || all.iter().any(|s| s.resource.group == group && s.resource.plural == r.name)
        {
            continue;
        }
        let gvk = GroupVersionKind::gvk(group, version, &r.kind);
        all.push(Served {
            resource: ApiResource::from_gvk_with_plural(&gvk, &r.name),
            namespaced: r.namespaced,
            verbs: r.verbs,
        });
    }
}
