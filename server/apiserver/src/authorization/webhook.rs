//! Authorization by a webhook: it is sent a SubjectAccessReview, and its answers are remembered for a while.

use super::config::{WebhookConfig, duration};
use super::{Attributes, Authorizer, Decision};
use crate::authentication::UserInfo;
use crate::authentication::expressions::{Compiler, NO_COMPILER, Program, Scope, Yields};
use crate::reader::text;
use crate::remote::kubeconfig::{self, Service};
use crate::remote::retry::{self, Backoff};
use async_trait::async_trait;
use machinery::labels::{Operator, Selector};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const REMEMBERED: usize = 8192;
/// Questions whose own words are longer are not remembered: the asker chose the length.
const LONGEST: usize = 10_000;

/// What a webhook is besides an address.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    pub name: String,
    /// `v1` or `v1beta1`.
    pub version: String,
    pub timeout: Duration,
    /// `None`: not remembered.
    pub allowed_for: Option<Duration>,
    pub refused_for: Option<Duration>,
    /// Whether a webhook that cannot be asked means no.
    pub deny_on_failure: bool,
}

struct Remembered {
    status: Value,
    until: Instant,
}

pub struct WebhookAuthorizer {
    service: Service,
    options: WebhookOptions,
    conditions: Vec<(String, Arc<dyn Program>)>,
    seen: Mutex<HashMap<String, Remembered>>,
}

impl WebhookAuthorizer {
    pub fn new(service: Service, options: WebhookOptions) -> Self {
        Self { service, options, conditions: Vec::new(), seen: Mutex::default() }
    }

    /// From a validated configuration.
    pub fn from_config(
        name: &str,
        config: &WebhookConfig,
        compiler: Option<&dyn Compiler>,
    ) -> Result<Self, String> {
        let Some(file) = config.connection_info.kube_config_file.as_deref() else {
            return Err(format!("authorizer {name:?}: connectionInfo.type InClusterConfig is not supported"));
        };
        let service = kubeconfig::load(Path::new(file)).map_err(|e| format!("authorizer {name:?}: {e}"))?;
        let time = |text: &str| duration(text).unwrap_or_default();
        let cached = |on: Option<bool>, text: &str| on.unwrap_or(true).then(|| time(text));
        let options = WebhookOptions {
            name: name.into(),
            version: config.subject_access_review_version.clone(),
            timeout: time(&config.timeout),
            allowed_for: cached(config.cache_authorized_requests, &config.authorized_ttl),
            refused_for: cached(config.cache_unauthorized_requests, &config.unauthorized_ttl),
            deny_on_failure: config.failure_policy == "Deny",
        };
        let mut out = Self::new(service, options);
        for condition in &config.match_conditions {
            let text = condition.expression.as_str();
            let compiler = compiler.ok_or_else(|| format!("authorizer {name:?}: {NO_COMPILER}"))?;
            let program = compiler
                .compile(text, Scope::Request, Yields::Bool)
                .map_err(|e| format!("authorizer {name:?}: matchConditions: Invalid value: {text:?}: {e}"))?;
            out.conditions.push((text.to_owned(), program));
        }
        Ok(out)
    }

    fn failed(&self, error: String) -> Decision {
        Decision::Failed { error, deny: self.options.deny_on_failure }
    }

    /// Whether the conditions let this question through to the webhook.
    fn matches(&self, spec: &Value) -> Result<bool, String> {
        let mut errors = Vec::new();
        for (text, program) in &self.conditions {
            match program.evaluate(spec) {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => errors.push(format!(
                    "cel evaluation error: expression '{text}' eval result type should be bool"
                )),
                Err(error) => errors
                    .push(format!("cel evaluation error: expression '{text}' resulted in error: {error}")),
            }
        }
        if errors.is_empty() { Ok(true) } else { Err(errors.join(", ")) }
    }

    async fn ask(&self, spec: Value) -> Result<Value, String> {
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{}", self.options.version),
            "kind": "SubjectAccessReview",
            "metadata": {"creationTimestamp": null},
            "spec": spec,
            "status": {"allowed": false},
        });
        let asked = retry::post(&self.service, &review, Backoff::default(), self.options.timeout).await;
        asked.map(|mut r| r["status"].take()).map_err(|error| {
            tracing::warn!(%error, authorizer = self.options.name, "the authorization webhook cannot be asked");
            error.to_string()
        })
    }
}

#[async_trait]
impl Authorizer for WebhookAuthorizer {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let spec = review_spec(attributes);
        match self.matches(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::silent(),
            Err(error) => return self.failed(error),
        }
        let key = spec.to_string();
        let now = Instant::now();
        let known = self.seen.lock().get(&key).filter(|r| r.until > now).map(|r| r.status.clone());
        let status = match known {
            Some(status) => status,
            None => {
                let status = match self.ask(spec).await {
                    Ok(status) => status,
                    Err(error) => return self.failed(error),
                };
                let allowed = status["allowed"] == true;
                let keep = if allowed { self.options.allowed_for } else { self.options.refused_for };
                if let Some(keep) = keep.filter(|_| asked_length(attributes) < LONGEST) {
                    let mut seen = self.seen.lock();
                    if seen.len() >= REMEMBERED {
                        seen.retain(|_, r| r.until > now);
                        if seen.len() >= REMEMBERED {
                            seen.clear();
                        }
                    }
                    seen.insert(key, Remembered { status: status.clone(), until: now + keep });
                }
                status
            }
        };
        let reason = text(&status, "/reason").to_owned();
        match (status["allowed"] == true, status["denied"] == true) {
            (true, true) => Decision::Failed {
                error: "webhook subject access review returned both allow and deny response".into(),
                deny: true,
            },
            (_, true) => Decision::Deny { reason },
            (true, _) => Decision::Allow { reason },
            _ => Decision::NoOpinion { reason },
        }
    }

    /// A webhook cannot list what it would allow.
    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), true)
    }
}

fn asked_length(a: &Attributes) -> usize {
    [&a.namespace, &a.verb, &a.api_group, &a.api_version, &a.resource, &a.subresource, &a.name, &a.path]
        .iter()
        .map(|s| s.len())
        .sum()
}

/// `SubjectAccessReviewSpec`, empty members left out.
fn review_spec(a: &Attributes) -> Value {
    let mut spec = Map::new();
    let put = |to: &mut Map<String, Value>, name: &str, value: &str| {
        if !value.is_empty() {
            to.insert(name.into(), value.into());
        }
    };
    if a.resource_request {
        let mut of = Map::new();
        put(&mut of, "namespace", &a.namespace);
        put(&mut of, "verb", &a.verb);
        put(&mut of, "group", &a.api_group);
        put(&mut of, "version", &a.api_version);
        put(&mut of, "resource", &a.resource);
        put(&mut of, "subresource", &a.subresource);
        put(&mut of, "name", &a.name);
        for (name, selector) in
            [("fieldSelector", field_requirements(a)), ("labelSelector", label_requirements(a))]
        {
            if !selector.is_empty() {
                of.insert(name.into(), json!({"requirements": selector}));
            }
        }
        spec.insert("resourceAttributes".into(), of.into());
    } else {
        let mut of = Map::new();
        put(&mut of, "path", &a.path);
        put(&mut of, "verb", &a.verb);
        spec.insert("nonResourceAttributes".into(), of.into());
    }
    put(&mut spec, "user", &a.user.name);
    put(&mut spec, "uid", &a.user.uid);
    if !a.user.groups.is_empty() {
        spec.insert("groups".into(), json!(a.user.groups));
    }
    if !a.user.extra.is_empty() {
        spec.insert("extra".into(), json!(a.user.extra));
    }
    spec.into()
}

/// Selectors only narrow, so what cannot be read is left out.
fn field_requirements(a: &Attributes) -> Vec<Value> {
    let Some(Ok(selector)) = a.field_selector.as_deref().map(machinery::fields::Selector::parse) else {
        return Vec::new();
    };
    let one = |t: &machinery::fields::Term| {
        let operator = if t.negated { "NotIn" } else { "In" };
        json!({"key": t.field, "operator": operator, "values": [t.value]})
    };
    selector.terms().iter().map(one).collect()
}

fn label_requirements(a: &Attributes) -> Vec<Value> {
    let Some(Ok(selector)) = a.label_selector.as_deref().map(Selector::parse) else { return Vec::new() };
    let one = |r: &machinery::labels::Requirement| {
        let operator = match r.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
            Operator::NotIn | Operator::NotEquals => "NotIn",
            Operator::Exists => "Exists",
            Operator::NotExists => "DoesNotExist",
            _ => return None,
        };
        let mut out = json!({"key": r.key, "operator": operator});
        if !r.values.is_empty() {
            out["values"] = json!(r.values);
        }
        Some(out)
    };
    selector.requirements().iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::testing::TestService;

    async fn world(deny_on_failure: bool) -> (TestService, WebhookAuthorizer) {
        let service = TestService::start().await;
        service.handle("/authorize", |review| {
            let spec = &review["spec"];
            let status = match spec["user"].as_str().unwrap_or_default() {
                "jane" => json!({"allowed": true, "reason": "is jane"}),
                "eve" => json!({"allowed": false, "denied": true, "reason": "is eve"}),
                "both" => json!({"allowed": true, "denied": true}),
                "broken" => return (400, json!({})),
                _ => json!({"allowed": false, "reason": "who?"}),
            };
            let mut answer = review.clone();
            answer["status"] = status;
            (200, answer)
        });
        let (_keep, file) = service.kubeconfig("/authorize");
        let options = WebhookOptions {
            name: "test".into(),
            version: "v1".into(),
            timeout: Duration::from_secs(5),
            allowed_for: Some(Duration::from_secs(60)),
            refused_for: None,
            deny_on_failure,
        };
        let authorizer = WebhookAuthorizer::new(kubeconfig::load(&file).unwrap(), options);
        (service, authorizer)
    }

    fn question(user: &str) -> Attributes {
        Attributes {
            user: UserInfo::new(user, &["g"]),
            verb: "list".into(),
            namespace: "n".into(),
            resource: "pods".into(),
            resource_request: true,
            field_selector: Some("spec.nodeName=a,status.phase!=Failed".into()),
            label_selector: Some("app in (x,y),!gone".into()),
            ..Attributes::default()
        }
    }

    #[tokio::test]
    async fn answers_are_decisions_and_allowed_ones_are_remembered() {
        let (service, authorizer) = world(false).await;
        for _ in 0..3 {
            let decision = authorizer.authorize(&question("jane")).await;
            assert_eq!(decision, Decision::Allow { reason: "is jane".into() });
        }
        assert_eq!(service.asked("/authorize"), 1);
        assert_eq!(authorizer.authorize(&question("eve")).await, Decision::Deny { reason: "is eve".into() });
        for _ in 0..2 {
            let decision = authorizer.authorize(&question("joe")).await;
            assert_eq!(decision, Decision::NoOpinion { reason: "who?".into() });
        }
        assert_eq!(service.asked("/authorize"), 4);
        assert!(matches!(authorizer.authorize(&question("both")).await, Decision::Failed { deny: true, .. }));
        let asked = &service.bodies()[0];
        assert_eq!(
            (&asked["apiVersion"], &asked["kind"]),
            (&json!("authorization.k8s.io/v1"), &json!("SubjectAccessReview"))
        );
        assert_eq!(
            asked["spec"],
            json!({"user": "jane", "groups": ["g"], "resourceAttributes": {
                "namespace": "n", "verb": "list", "resource": "pods",
                "fieldSelector": {"requirements": [
                    {"key": "spec.nodeName", "operator": "In", "values": ["a"]},
                    {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]}]},
                "labelSelector": {"requirements": [
                    {"key": "app", "operator": "In", "values": ["x", "y"]},
                    {"key": "gone", "operator": "DoesNotExist"}]}}})
        );
    }

    #[tokio::test]
    async fn a_webhook_that_is_away_fails_as_its_policy_says() {
        for deny in [false, true] {
            let (_service, authorizer) = world(deny).await;
            let Decision::Failed { error, deny: said } = authorizer.authorize(&question("broken")).await
            else {
                panic!("a failure was expected")
            };
            assert!(said == deny && error.contains("400"), "{error}");
        }
    }

    struct Says(Result<bool, String>);

    impl Program for Says {
        fn evaluate(&self, _: &Value) -> Result<Value, String> {
            self.0.clone().map(Value::Bool)
        }
    }

    #[tokio::test]
    async fn conditions_decide_whether_it_is_asked() {
        for (conditions, asked) in [
            (vec![Ok(true), Ok(true)], Some(true)),
            (vec![Err("x".to_owned()), Ok(false)], Some(false)),
            (vec![Ok(true), Err("x".to_owned())], None),
        ] {
            let (service, mut authorizer) = world(true).await;
            for condition in conditions {
                authorizer.conditions.push(("expr".into(), Arc::new(Says(condition))));
            }
            let decision = authorizer.authorize(&question("jane")).await;
            match asked {
                Some(true) => assert!(decision.is_allowed()),
                Some(false) => assert_eq!(decision, Decision::silent()),
                None => assert!(matches!(decision, Decision::Failed { deny: true, .. }), "{decision:?}"),
            }
            assert_eq!(service.asked("/authorize"), usize::from(asked == Some(true)));
        }
    }
}
