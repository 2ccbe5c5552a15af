//! Webhook configurations, read once for each revision of them.

use super::super::{Operation, Request};
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
    pub conditions: Conditions,
    exact: bool,
    rules: Vec<Rule>,
    namespace_selector: Result<Selector, String>,
    object_selector: Result<Selector, String>,
}

/// Whether a hook is to be called for a request.
pub(super) enum Interest {
    No,
    Yes,
    /// A selector that cannot be read: handled like a failed call.
    Unknown(String),
}

impl Hook {
    fn read(configuration: &str, value: &Value) -> Self {
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

    pub fn interest(&self, reader: &dyn Reader, r: &Request<'_>, object: Option<&Value>) -> Interest {
        if !self.rules.iter().any(|rule| rule.matches(r, self.exact)) {
            return Interest::No;
        }
        let namespaces = match &self.namespace_selector {
            Ok(selector) => selector,
            Err(error) => return Interest::Unknown(error.clone()),
        };
        if !namespaces.is_empty() {
            if r.group.is_empty() && r.resource == "namespaces" {
                if object.or(r.old).is_some_and(|o| !namespaces.matches_object(o)) {
                    return Interest::No;
                }
            } else if !r.namespace.is_empty() {
                match reader.get("", "namespaces", "", r.namespace) {
                    Some(entry) if namespaces.matches(entry.labels()) => {}
                    Some(_) => return Interest::No,
                    None => return Interest::Unknown(format!("namespaces {:?} not found", r.namespace)),
                }
            }
        }
        let objects = match &self.object_selector {
            Ok(selector) => selector,
            Err(error) => return Interest::Unknown(error.clone()),
        };
        if !objects.is_empty() && ![object, r.old].into_iter().flatten().any(|o| objects.matches_object(o)) {
            return Interest::No;
        }
        Interest::Yes
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

    /// `exact`: not through another version of the same resource.
    pub fn matches(&self, r: &Request<'_>, exact: bool) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|s| s == "*" || s == wanted);
        let cluster = r.namespace.is_empty() || (r.group.is_empty() && r.resource == "namespaces");
        let scope = match self.scope.as_str() {
            "Cluster" => cluster,
            "Namespaced" => !cluster,
            _ => true,
        };
        // An equivalent rule names another version of the same resource; the request is sent in its own.
        let version = !exact || has(&self.versions, r.version);
        scope
            && version
            && has(&self.groups, r.group)
            && has(&self.operations, r.operation.word())
            && self.resources.iter().any(|wanted| resource_matches(wanted, r.resource, r.subresource))
    }
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
            let hooks: Arc<[Arc<Hook>]> =
                items(&object, "/webhooks").iter().map(|h| Arc::new(Hook::read(&entry.name, h))).collect();
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
