//! Label and field selectors over cached entries.

use crate::cache::Entry;
use crate::crd::Custom;
use crate::http::options::ListOptions;
use crate::resolve::Resource;
use crate::status::ApiError;
use machinery::{fields, labels};
use serde_json::Value;
use std::sync::Arc;

/// Both selectors of a request, checked against what the resource can select by.
#[derive(Clone, Default)]
pub struct Selection {
    labels: Option<labels::Selector>,
    fields: Option<fields::Selector>,
    /// The fields ask for more than name and namespace.
    deep: bool,
    /// Custom kinds read their selectable fields off the object.
    custom: Option<Arc<Custom>>,
}

impl Selection {
    pub fn read(resource: &Resource, options: &ListOptions) -> Result<Self, ApiError> {
        let mut out = Self { custom: resource.custom.clone(), ..Self::default() };
        if let Some(text) = &options.label_selector {
            let parsed = labels::Selector::parse(text).map_err(|e| ApiError::bad_request(e.to_string()))?;
            out.labels = (!parsed.is_empty()).then_some(parsed);
        }
        if let Some(text) = &options.field_selector {
            let parsed = fields::Selector::parse(text).map_err(|e| ApiError::bad_request(e.to_string()))?;
            let known = resource.strategy.selectable_fields(&Value::Null);
            for term in parsed.terms() {
                let plain = term.field == "metadata.name" || term.field == "metadata.namespace";
                if plain {
                    continue;
                }
                let custom = resource.custom.as_ref().is_some_and(|c| c.selects_by(&term.field));
                if !custom && !known.iter().any(|(name, _)| *name == term.field) {
                    return Err(ApiError::bad_request(if known.is_empty() && resource.custom.is_none() {
                        format!(
                            "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                            term.field
                        )
                    } else {
                        format!("field label not supported: {}", term.field)
                    }));
                }
                out.deep = true;
            }
            out.fields = (!parsed.is_empty()).then_some(parsed);
        }
        Ok(out)
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    /// Objects have to be converted before they can be matched.
    pub fn reads_versions(&self) -> bool {
        self.deep && self.custom.as_ref().is_some_and(|c| c.versions.asks())
    }

    /// The one name the selector allows, where it pins it.
    pub fn name(&self) -> Option<&str> {
        self.fields.as_ref().and_then(|f| f.required_value("metadata.name"))
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        if let Some(selector) = &self.labels
            && !selector.matches(entry.labels())
        {
            return false;
        }
        let Some(selector) = &self.fields else { return true };
        if self.deep
            && let Some(custom) = &self.custom
        {
            let Some(object) = custom.object(entry) else { return false };
            let values: Vec<(&str, String)> = selector
                .terms()
                .iter()
                .filter_map(|t| Some((t.field.as_str(), custom.field(&object, &t.field)?)))
                .collect();
            return selector.matches(|field| match field {
                "metadata.name" => Some(&*entry.name),
                "metadata.namespace" => Some(&*entry.namespace),
                other => values.iter().find(|(k, _)| *k == other).map(|(_, v)| v.as_str()),
            });
        }
        let deep = if self.deep { Some(entry.fields()) } else { None };
        selector.matches(|field| match field {
            "metadata.name" => Some(&*entry.name),
            "metadata.namespace" => Some(&*entry.namespace),
            other => deep.and_then(|all| all.iter().find(|(k, _)| *k == other)).map(|(_, v)| v.as_str()),
        })
    }
}
