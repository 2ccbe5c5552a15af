//! The versions of what a request is about: webhooks and policies may be told of another one than was sent.

use async_trait::async_trait;
use serde_json::{Value, json};

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
