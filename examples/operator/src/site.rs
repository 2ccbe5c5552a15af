//! The kind: what a user writes, and what is told of it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A page that is served.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "web.example.com",
    version = "v1",
    kind = "Site",
    namespaced,
    status = "SiteStatus",
    shortname = "st"
)]
#[kube(printcolumn = r#"{"name": "Title", "type": "string", "jsonPath": ".spec.title"}"#)]
#[kube(printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[0].status"}"#)]
#[kube(validation = "self.metadata.name.size() <= 40")]
#[serde(rename_all = "camelCase")]
pub struct SiteSpec {
    /// Stands in the index of the namespace.
    #[schemars(length(min = 1, max = 80))]
    pub title: String,
    /// HTML.
    pub page: String,
    /// How many servers.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 10))]
    pub replicas: i32,
}

fn one() -> i32 {
    1
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    #[serde(default)]
    pub observed_generation: i64,
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// As `metav1.Condition`, without the time, which nobody here asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

impl SiteStatus {
    /// What is to be said of a site of which so many replicas are ready.
    pub fn observed(site: &Site, ready: i32) -> Self {
        let (status, reason) =
            if ready >= site.spec.replicas { ("True", "Served") } else { ("False", "Deploying") };
        let message = format!("{ready} of {} replicas are ready", site.spec.replicas);
        let condition =
            Condition { kind: "Ready".into(), status: status.into(), reason: reason.into(), message };
        Self { observed_generation: site.metadata.generation.unwrap_or(0), conditions: vec![condition] }
    }

    pub fn is_ready(&self) -> bool {
        self.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }
}
