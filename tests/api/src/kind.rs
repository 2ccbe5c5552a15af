//! A custom kind of a case's own: `things.<unique>.example.com`, one version, with a schema of `spec`.

use crate::case::eventually;
use crate::{Answer, Space};
use anyhow::{Context, Result};
use serde_json::{Value, json};

pub const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A served kind.
pub struct Kind<'a> {
    pub s: &'a Space,
    pub group: String,
    pub path: String,
}

/// The definition of it, with this schema of `spec`; `status` may hold anything.
pub fn definition(group: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": format!("things.{group}")}, "spec": {"group": group, "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}})
}

impl<'a> Kind<'a> {
    pub async fn define(s: &'a Space, spec: Value) -> Result<Self> {
        Self::define_with(s, spec, |_| {}).await
    }

    /// `change` may change its only version before it is made.
    pub async fn define_with(s: &'a Space, spec: Value, change: impl FnOnce(&mut Value)) -> Result<Self> {
        let group = format!("{}.example.com", s.unique);
        let mut object = definition(&group, &spec);
        change(&mut object["spec"]["versions"][0]);
        s.api.post(CRDS, &object).is(201).await?;
        let path = s.path(&format!("{group}/v1"), "things");
        eventually("the kind", || async { Ok((s.api.get(&path).send().await?.code == 200).then_some(())) })
            .await?;
        Ok(Self { s, group, path })
    }

    pub fn thing(&self, name: &str, spec: &Value) -> Value {
        json!({"apiVersion": format!("{}/v1", self.group), "kind": "Thing", "metadata": {"name": name}, "spec": spec})
    }

    pub async fn dry(&self, spec: &Value) -> Result<Answer> {
        self.s.api.post(&format!("{}?dryRun=All", self.path), &self.thing("a", spec)).send().await
    }

    /// The spec as it would be stored.
    pub async fn accepts(&self, spec: Value) -> Result<Value> {
        Ok(self.dry(&spec).await?.is(201)?["spec"].clone())
    }

    pub async fn refuses(&self, spec: Value, words: &str) -> Result<()> {
        self.dry(&spec).await?.fails(422, "Invalid", &[words]).map(drop).with_context(|| spec.to_string())
    }

    /// The definition's path.
    pub fn definition(&self) -> String {
        format!("{CRDS}/things.{}", self.group)
    }

    pub async fn end(self) -> Result<()> {
        self.s.api.delete(&self.definition()).is(200).await.map(drop)
    }
}
