//! The versions of what a request is about: webhooks and policies may be told of another one than was sent.

use super::{Denied, Request};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::borrow::Cow;

/// Group, version and kind of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl Kind {
    pub fn api_version(&self) -> String {
        crate::resolve::join(&self.group, &self.version)
    }

    /// As reviews have it.
    pub fn to_json(&self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.kind})
    }
}

/// A resource in one version, and the kind of what is sent to it (a subresource's may be of another group).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub kind: Kind,
}

impl Form {
    /// As reviews have it.
    pub fn resource_json(&self) -> Value {
        json!({"group": self.group, "version": self.version, "resource": self.resource})
    }
}

/// What the registry knows of a resource's versions.
#[async_trait]
pub trait Versions: Send + Sync {
    /// The kind of what was sent.
    fn kind(&self) -> Kind;
    /// The other served forms of the same stored objects, with the request's subresource.
    fn others(&self) -> Vec<Form>;
    /// An object in any version, in another. The object is not changed where it is of that version already.
    async fn convert(&self, object: &Value, to: &Form) -> Result<Value, String>;
    /// The way back: into the version the registry works in.
    async fn back(&self, object: Value, from: &Form) -> Result<Value, String>;
}

/// The object as that form has it.
pub(super) async fn in_form<'a>(
    r: &Request<'_>,
    object: Option<&'a Value>,
    form: &Form,
) -> Result<Option<Cow<'a, Value>>, Denied> {
    match (object, r.versions) {
        (None, _) => Ok(None),
        (Some(object), Some(versions)) if object["apiVersion"] != form.kind.api_version().as_str() => {
            versions.convert(object, form).await.map(Cow::Owned).map(Some).map_err(Denied::internal)
        }
        (Some(object), _) => Ok(Some(Cow::Borrowed(object))),
    }
}

/// The way back into the version the registry works in.
pub(super) async fn out_of_form(r: &Request<'_>, object: Value, form: &Form) -> Result<Value, Denied> {
    match r.versions {
        Some(versions) => versions.back(object, form).await.map_err(Denied::internal),
        None => Ok(object),
    }
}
