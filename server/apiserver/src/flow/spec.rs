//! FlowSchema and PriorityLevelConfiguration (flowcontrol.apiserver.k8s.io/v1), as far as they drive the server.

use super::queues::{MAX_HAND, Mode};
use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct FlowSchema {
    pub metadata: Metadata,
    pub spec: SchemaSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SchemaSpec {
    pub priority_level_configuration: Named,
    pub matching_precedence: i32,
    pub distinguisher_method: Option<Method>,
    pub rules: Vec<Rules>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Method {
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rules {
    pub subjects: Vec<Subject>,
    pub resource_rules: Vec<ResourceRule>,
    pub non_resource_rules: Vec<UrlRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subject {
    pub kind: String,
    pub user: Option<Named>,
    pub group: Option<Named>,
    pub service_account: Option<Named>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ResourceRule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub cluster_scope: bool,
    pub namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct UrlRule {
    pub verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub urls: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct PriorityLevel {
    pub metadata: Metadata,
    pub spec: LevelSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct LevelSpec {
    #[serde(rename = "type")]
    pub kind: String,
    pub limited: Option<Limited>,
    pub exempt: Option<Limited>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Limited {
    pub nominal_concurrency_shares: Option<u32>,
    pub lendable_percent: Option<u32>,
    pub borrowing_limit_percent: Option<u32>,
    pub limit_response: Option<Response>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Response {
    #[serde(rename = "type")]
    pub kind: String,
    pub queuing: Option<Queuing>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Queuing {
    pub queues: u32,
    pub hand_size: u32,
    pub queue_length_limit: u32,
}

pub(super) const EXEMPT: &str = "exempt";
pub(super) const CATCH_ALL: &str = "catch-all";

impl PriorityLevel {
    pub fn read(object: &Value) -> Option<Self> {
        Self::deserialize(object)
            .inspect_err(|error| tracing::warn!(%error, "priority level left out"))
            .ok()
            .filter(|level| level.mode().is_some())
    }

    /// How it limits; `None` for a broken one, which is taken as absent.
    pub fn mode(&self) -> Option<Mode> {
        let exempt = self.spec.kind == "Exempt";
        if exempt != (self.metadata.name == EXEMPT) || exempt == self.spec.limited.is_some() {
            return None;
        }
        if exempt {
            return Some(Mode::Exempt);
        }
        let response = self.spec.limited.as_ref()?.limit_response.as_ref()?;
        match (response.kind.as_str(), &response.queuing) {
            ("Reject", None) => Some(Mode::Reject),
            ("Queue", Some(q)) => {
                let (queues, hand) = (q.queues as usize, q.hand_size as usize);
                let sound = queues > 0 && queues <= 10_000_000 && (1..=MAX_HAND.min(queues)).contains(&hand);
                sound.then_some(Mode::Queue { queues, hand, length: q.queue_length_limit as usize })
            }
            _ => None,
        }
    }

    fn common(&self) -> Limited {
        self.spec.limited.clone().or_else(|| self.spec.exempt.clone()).unwrap_or_default()
    }

    pub fn shares(&self) -> u32 {
        let default = if self.spec.limited.is_some() { 30 } else { 0 };
        self.common().nominal_concurrency_shares.unwrap_or(default)
    }

    pub fn lendable(&self) -> u32 {
        self.common().lendable_percent.unwrap_or(0)
    }

    /// `None`: as much as there is.
    pub fn borrowing(&self) -> Option<u32> {
        self.common().borrowing_limit_percent
    }
}

impl FlowSchema {
    pub fn read(object: &Value) -> Option<Self> {
        Self::deserialize(object).inspect_err(|error| tracing::warn!(%error, "flow schema left out")).ok()
    }
}
