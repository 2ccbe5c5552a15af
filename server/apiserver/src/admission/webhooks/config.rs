//! Webhook configurations, read once for each revision of them.

use super::super::{Denied, Form, Operation, Request};
use super::review::Review;
use super::transport::Endpoint;
use crate::cache::Entry;
use crate::reader::{Reader, items, parse, strings, text};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kinds::expressions::Conditions;
use kinds::expressions::environment::{Has, env};
use machinery::labels::Selector;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const GROUP: &str = "admissionregistration.k8s.io";

/// Which operations on which resources.
pub(in super::super) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// One webhook of one configuration.
pub(super) struct Hook {
    pub name: String,
    /// The object it stands in.
    pub configuration: String,
    /// `Err`: it can never be called, and why.
    pub endpoint: Result<Endpoint, String>,
    pub ignore_failure: bool,
    pub timeout: Duration,
    /// May be called for a dry run.
    pub dry_run: bool,
    pub reinvoke: bool,
    /// Unique among all hooks.
    pub key: String,
    /// The review it is sent.
    pub review: Option<Review>,
    pub conditions: Conditions,
    exact: bool,
    rules: Vec<Rule>,
    namespace_selector: Result<Selector, String>,
    object_selector: Result<Selector, String>,
}

/// The forms a request's object has, found when they are first asked for.
pub(in super::super) struct Forms<'a> {
    request: &'a Request<'a>,
    own: Form,
    others: std::sync::OnceLock<Vec<Form>>,
}

impl<'a> Forms<'a> {
    pub fn new(request: &'a Request<'a>, object: Option<&Value>) -> Self {
        Self { request, own: request.form(object), others: std::sync::OnceLock::new() }
    }

    pub fn own(&self) -> &Form {
        &self.own
    }

    /// The form that the rules are about: the request's, or an equivalent one.
    pub fn matching(&self, rules: &[Rule], exact: bool) -> Option<&Form> {
        let r = self.request;
        if rules.iter().any(|rule| rule.matches(r, &self.own)) {
            return Some(&self.own);
        }
        let versions = r.versions.filter(|_| !exact && rules.iter().any(|rule| rule.may_match(r)))?;
        let others = self.others.get_or_init(|| versions.others());
        rules.iter().find_map(|rule| others.iter().find(|form| rule.matches(r, form)))
    }
}

impl Hook {
    fn read(configuration: &str, index: usize, value: &Value) -> Self {
        let selector =
            |v: &Value| Selector::from_object(Some(v).filter(|v| v.is_object())).map_err(|e| e.to_string());
        let everything = |v: &Value| if v.is_object() { selector(v) } else { Ok(Selector::everything()) };
        let seconds = value["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30);
        Self {
            name: text(value, "/name").into(),
            configuration: configuration.into(),
            endpoint: endpoint(&value["clientConfig"]),
            ignore_failure: text(value, "/failurePolicy") == "Ignore",
            timeout: Duration::from_secs(seconds),
            dry_run: matches!(text(value, "/sideEffects"), "None" | "NoneOnDryRun"),
            reinvoke: text(value, "/reinvocationPolicy") == "IfNeeded",
            key: format!("{configuration}/{}/{index}", text(value, "/name")),
            review: Review::of(&strings(value, "/admissionReviewVersions")),
            conditions: match items(value, "/matchConditions") {
                [] => Conditions::default(),
                _ => Conditions::compile(value, &env(Has { authorizer: true, ..Has::default() })),
            },
            exact: text(value, "/matchPolicy") == "Exact",
            rules: items(value, "/rules").iter().map(Rule::read).collect(),
            namespace_selector: everything(&value["namespaceSelector"]),
            object_selector: everything(&value["objectSelector"]),
        }
    }

    /// The form it is to be asked about, if it is for this request at all.
    pub fn interest<'f>(
        &self,
        reader: &dyn Reader,
        r: &Request<'_>,
        object: Option<&Value>,
        forms: &'f Forms<'_>,
    ) -> Result<Option<&'f Form>, Denied> {
        let of_space = self.namespace(reader, r, object);
        if matches!(of_space, Ok(false)) {
            return Ok(None);
        }
        let of_object = match &self.object_selector {
            Ok(selector) if selector.is_empty() => Ok(true),
            Ok(selector) => Ok([object, r.old].into_iter().flatten().any(|o| selector.matches_object(o))),
            Err(error) => Err(Denied::internal(error)),
        };
        if matches!(of_object, Ok(false)) {
            return Ok(None);
        }
        let Some(form) = forms.matching(&self.rules, self.exact) else { return Ok(None) };
        of_space?;
        of_object?;
        Ok(Some(form))
    }

    fn namespace(
        &self,
        reader: &dyn Reader,
        r: &Request<'_>,
        object: Option<&Value>,
    ) -> Result<bool, Denied> {
        let selector = self.namespace_selector.as_ref().map_err(Denied::internal)?;
        let itself = r.group.is_empty() && r.resource == "namespaces";
        if selector.is_empty() || (r.namespace.is_empty() && !itself) {
            return Ok(true);
        }
        if itself && r.subresource.is_empty() && matches!(r.operation, Operation::Create | Operation::Update)
        {
            return Ok(object.is_some_and(|o| selector.matches_object(o)));
        }
        let name = if itself { r.name } else { r.namespace };
        match reader.get("", "namespaces", "", name) {
            Some(entry) => Ok(selector.matches(entry.labels())),
            None => Err(Denied::not_found("namespaces", name)),
        }
    }
}

impl Rule {
    pub fn read(r: &Value) -> Self {
        Self {
            operations: strings(r, "/operations"),
            groups: strings(r, "/apiGroups"),
            versions: strings(r, "/apiVersions"),
            resources: strings(r, "/resources"),
            scope: text(r, "/scope").into(),
        }
    }

    /// Whether it is about the request, as one of this form.
    pub fn matches(&self, r: &Request<'_>, form: &Form) -> bool {
        has(&self.groups, &form.group)
            && has(&self.versions, &form.version)
            && self.resources.iter().any(|wanted| resource_matches(wanted, &form.resource, r.subresource))
            && self.may_match(r)
    }

    /// What does not depend on the form.
    fn may_match(&self, r: &Request<'_>) -> bool {
        let cluster = r.namespace.is_empty() || (r.group.is_empty() && r.resource == "namespaces");
        let scope = match self.scope.as_str() {
            "Cluster" => cluster,
            "Namespaced" => !cluster,
            _ => true,
        };
        scope && has(&self.operations, r.operation.word())
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|s| s == "*" || s == wanted)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    let (wanted, sub) = rule.split_once('/').unwrap_or((rule, ""));
    (wanted == "*" || wanted == resource) && (sub == subresource || sub == "*")
}

fn endpoint(config: &Value) -> Result<Endpoint, String> {
    let ca = match text(config, "/caBundle") {
        "" => None,
        bundle => Some(STANDARD.decode(bundle).map_err(|_| "the caBundle is not base64".to_owned())?),
    };
    let url = text(config, "/url");
    if !url.is_empty() {
        return Endpoint::url(url, ca.as_deref());
    }
    let service = &config["service"];
    let (namespace, name) = (text(service, "/namespace"), text(service, "/name"));
    if name.is_empty() {
        return Err("clientConfig names neither url nor service".into());
    }
    let port = service["port"].as_u64().unwrap_or(443);
    let port = u16::try_from(port).map_err(|_| format!("port {port} is out of range"))?;
    Endpoint::service(namespace, name, port, text(service, "/path"), ca.as_deref())
}

/// All hooks of one kind of configuration, in upstream's order: by configuration name, then as listed.
pub(super) struct Configurations {
    resource: &'static str,
    read: Mutex<HashMap<String, (u64, Arc<[Arc<Hook>]>)>>,
}

impl Configurations {
    pub fn new(resource: &'static str) -> Self {
        Self { resource, read: Mutex::default() }
    }

    pub fn hooks(&self, reader: &dyn Reader) -> Vec<Arc<Hook>> {
        let mut entries = reader.list(GROUP, self.resource, None);
        if entries.is_empty() {
            return Vec::new();
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut read = self.read.lock();
        let of = |read: &mut HashMap<String, (u64, Arc<[Arc<Hook>]>)>, entry: &Entry| {
            if let Some((revision, hooks)) = read.get(&*entry.name)
                && *revision == entry.revision
            {
                return hooks.clone();
            }
            let object = parse(entry);
            let hooks: Arc<[Arc<Hook>]> = items(&object, "/webhooks")
                .iter()
                .enumerate()
                .map(|(at, h)| Arc::new(Hook::read(&entry.name, at, h)))
                .collect();
            read.insert(entry.name.to_string(), (entry.revision, hooks.clone()));
            hooks
        };
        read.retain(|name, _| entries.iter().any(|e| &*e.name == name));
        entries.iter().flat_map(|entry| of(&mut read, entry).to_vec()).collect()
    }
}

/// Webhooks never see the objects that configure them: nobody is to lock themselves out.
pub(super) fn exempt(r: &Request<'_>) -> bool {
    r.operation == Operation::Connect && r.resource.is_empty()
        || r.group == GROUP
            && matches!(
                r.resource,
                "validatingwebhookconfigurations"
                    | "mutatingwebhookconfigurations"
                    | "validatingadmissionpolicies"
                    | "validatingadmissionpolicybindings"
                    | "mutatingadmissionpolicies"
                    | "mutatingadmissionpolicybindings"
            )
}
