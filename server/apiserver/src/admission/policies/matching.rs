//! `matchConstraints` and `matchResources`: which requests a policy or a binding is for.

use super::super::webhooks::{Forms, Rule};
use super::super::{Form, Request};
use crate::reader::{Reader, items, strings, text};
use machinery::labels::Selector;
use serde_json::Value;

pub(super) struct Criteria {
    namespaces: Result<Selector, String>,
    objects: Result<Selector, String>,
    include: Vec<Named>,
    exclude: Vec<Named>,
    exact: bool,
}

struct Named {
    rule: Rule,
    /// Empty: any.
    names: Vec<String>,
}

impl Criteria {
    pub fn read(resources: &Value) -> Self {
        let selector = |v: &Value| match v.is_object() {
            true => Selector::from_object(Some(v)).map_err(|e| e.to_string()),
            false => Ok(Selector::everything()),
        };
        let rules = |list: &str| {
            let rules = items(resources, list).iter();
            rules.map(|r| Named { rule: Rule::read(r), names: strings(r, "/resourceNames") }).collect()
        };
        Self {
            namespaces: selector(&resources["namespaceSelector"]),
            objects: selector(&resources["objectSelector"]),
            include: rules("/resourceRules"),
            exclude: rules("/excludeResourceRules"),
            exact: text(resources, "/matchPolicy") == "Exact",
        }
    }

    /// The form of the request it is for, if it is for it. An error where a selector cannot be applied and nothing else excludes it.
    pub fn matches<'f>(
        &self,
        reader: &dyn Reader,
        r: &Request<'_>,
        object: Option<&Value>,
        forms: &'f Forms<'_>,
    ) -> Result<Option<&'f Form>, String> {
        let namespaces = self.namespace(reader, r, object);
        if namespaces == Ok(false) {
            return Ok(None);
        }
        let objects = match &self.objects {
            Ok(selector) if selector.is_empty() => Ok(true),
            Ok(selector) => Ok([object, r.old].into_iter().flatten().any(|o| selector.matches_object(o))),
            Err(why) => Err(why.clone()),
        };
        if objects == Ok(false) {
            return Ok(None);
        }
        let names = |named: &Named| named.names.is_empty() || named.names.iter().any(|n| n == r.name);
        let found = |list: &[Named]| {
            let mut of = list.iter().filter(|n| names(n));
            of.find_map(|n| forms.matching(std::slice::from_ref(&n.rule), self.exact))
        };
        if found(&self.exclude).is_some() {
            return Ok(None);
        }
        let form = if self.include.is_empty() { Some(forms.own()) } else { found(&self.include) };
        if form.is_none() {
            return Ok(None);
        }
        namespaces?;
        objects?;
        Ok(form)
    }

    fn namespace(
        &self,
        reader: &dyn Reader,
        r: &Request<'_>,
        object: Option<&Value>,
    ) -> Result<bool, String> {
        let selector = self.namespaces.as_ref().map_err(Clone::clone)?;
        if selector.is_empty() {
            return Ok(true);
        }
        if r.group.is_empty() && r.resource == "namespaces" {
            return Ok(object.or(r.old).is_none_or(|o| selector.matches_object(o)));
        }
        if r.namespace.is_empty() {
            return Ok(true);
        }
        match reader.get("", "namespaces", "", r.namespace) {
            Some(entry) => Ok(selector.matches(entry.labels())),
            None => Err(format!("namespaces {:?} not found", r.namespace)),
        }
    }
}
