//! The versions of a write's resource, for admission.

use super::Target;
use crate::admission::{Form, Kind, Versions};
use crate::resolve::Resource;
use crate::{ApiServer, convert, crd};
use async_trait::async_trait;
use serde_json::Value;

/// See [`Versions`].
pub struct Forms<'a> {
    server: &'a ApiServer,
    resource: &'a Resource,
    subresource: &'a str,
}

impl ApiServer {
    pub(crate) fn forms<'a>(&'a self, target: &Target<'a>) -> Forms<'a> {
        Forms { server: self, resource: target.resource, subresource: target.subresource }
    }
}

/// The kind of what is sent to a resource, or to a part of it.
fn kind_of(resource: &Resource, subresource: &str) -> Option<Kind> {
    if subresource.is_empty() {
        let (group, version) = (resource.group.clone(), resource.version.clone());
        return Some(Kind { group, version, kind: resource.kind.clone() });
    }
    let part = resource.subresource(subresource)?;
    // What names no group of its own is of the resource's.
    let (group, version) = match part.version.as_str() {
        "" => (resource.group.clone(), resource.version.clone()),
        version => (part.group.clone(), version.to_owned()),
    };
    Some(Kind { group, version, kind: part.kind.clone() })
}

#[async_trait]
impl Versions for Forms<'_> {
    fn kind(&self) -> Kind {
        kind_of(self.resource, self.subresource).unwrap_or_else(|| Kind {
            group: self.resource.group.clone(),
            version: self.resource.version.clone(),
            kind: self.resource.kind.clone(),
        })
    }

    fn others(&self) -> Vec<Form> {
        let own = self.resource;
        let index = self.server.index.load();
        let same = index.iter().filter(|r| {
            r.stored == own.stored
                && !(r.group == own.group && r.version == own.version && r.plural == own.plural)
        });
        let form = |r: &std::sync::Arc<Resource>| {
            Some(Form {
                group: r.group.clone(),
                version: r.version.clone(),
                resource: r.plural.clone(),
                kind: kind_of(r, self.subresource)?,
            })
        };
        same.filter_map(form).collect()
    }

    async fn convert(&self, object: &Value, to: &Form) -> Result<Value, String> {
        if object["apiVersion"] == to.kind.api_version().as_str() {
            return Ok(object.clone());
        }
        let found = self.server.index.load().find(&to.group, &to.version, &to.resource).cloned();
        let Some(to) = found else { return Err(format!("{} is not served", to.resource)) };
        match &self.resource.custom {
            Some(_) => crd::convert(self.server, &to, object.clone()).await.map_err(|e| e.message),
            None => Ok(convert::from_storage(&to, object.clone())),
        }
    }

    async fn back(&self, object: Value, from: &Form) -> Result<Value, String> {
        match &self.resource.custom {
            Some(_) if object["apiVersion"] == self.resource.api_version().as_str() => Ok(object),
            Some(_) => crd::convert(self.server, self.resource, object).await.map_err(|e| e.message),
            None => match self.server.index.load().find(&from.group, &from.version, &from.resource) {
                Some(from) if object["apiVersion"] == from.api_version().as_str() => {
                    Ok(convert::to_storage(from, object))
                }
                _ => Ok(object),
            },
        }
    }
}
