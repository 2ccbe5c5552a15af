//! Admission policies in force for a case.

use crate::case::eventually;
use crate::{Answer, Space};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

pub const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// A policy and its binding, in force for one namespace's objects.
pub struct Policy<'a> {
    pub s: &'a Space,
    /// `validating` or `mutating`.
    pub kind: &'static str,
    pub name: String,
}

pub fn rules(operations: &[&str], group: &str, resource: &str) -> Value {
    json!([{"apiGroups": [group], "apiVersions": ["*"], "operations": operations, "resources": [resource]}])
}

impl<'a> Policy<'a> {
    /// `spec` and `binding` are added to what every policy here has.
    pub async fn start(
        s: &'a Space,
        kind: &'static str,
        name: &str,
        spec: Value,
        binding: Value,
    ) -> Result<Self> {
        let made = Self { s, kind, name: format!("{}-{name}", s.unique) };
        let mut policy = json!({"matchConstraints": {"resourceRules": rules(&["CREATE"], "", "configmaps")}});
        extend(&mut policy, &spec);
        let mut bound = json!({"policyName": made.name,
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": s.namespace}}}});
        if kind == "validating" {
            bound["validationActions"] = json!(["Deny"]);
        }
        extend(&mut bound, &binding);
        let (policies, bindings) = made.paths();
        s.api.post(&policies, &json!({"metadata": {"name": made.name}, "spec": policy})).is(201).await?;
        s.api.post(&bindings, &json!({"metadata": {"name": made.name}, "spec": bound})).is(201).await?;
        Ok(made)
    }

    pub fn paths(&self) -> (String, String) {
        (
            format!("{GROUP}/{}admissionpolicies", self.kind),
            format!("{GROUP}/{}admissionpolicybindings", self.kind),
        )
    }

    pub async fn end(self) -> Result<()> {
        let (policies, bindings) = self.paths();
        self.s.api.delete(&format!("{bindings}/{}", self.name)).is(200).await?;
        self.s.api.delete(&format!("{policies}/{}", self.name)).is(200).await.map(drop)
    }

    /// How refusals begin.
    pub fn by(&self) -> String {
        format!("ValidatingAdmissionPolicy '{0}' with binding '{0}' denied request", self.name)
    }
}

pub fn extend(object: &mut Value, more: &Value) {
    if let (Some(object), Some(more)) = (object.as_object_mut(), more.as_object()) {
        object.extend(more.clone());
    }
}

/// Upstream's server never again finds parameters of a kind that no policy names any more, so one goes on naming it.
pub async fn hold_params(s: &Space) -> Result<()> {
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "validations": [{"expression": "true"}],
                      "matchConstraints": {"resourceRules": rules(&["CREATE"], "example.com", "nothing")}});
    for (kind, spec) in [
        ("validating", spec.clone()),
        ("mutating", {
            let mut spec = spec;
            extend(&mut spec, &json!({"reinvocationPolicy": "Never", "mutations": [apply(MARK)]}));
            if let Some(spec) = spec.as_object_mut() {
                spec.remove("validations");
            }
            spec
        }),
    ] {
        let path = format!("{GROUP}/{kind}admissionpolicies");
        let object = json!({"metadata": {"name": "suite-names-config-maps"}, "spec": spec});
        let answer = s.api.post(&path, &object).send().await?;
        ensure!([201, 409].contains(&answer.code), "{}", answer.text());
        let binding = json!({"metadata": {"name": "suite-names-config-maps"}, "spec": {"policyName": "suite-names-config-maps"}});
        let mut binding = binding;
        if kind == "validating" {
            binding["spec"]["validationActions"] = json!(["Deny"]);
        }
        let answer = s.api.post(&format!("{GROUP}/{kind}admissionpolicybindings"), &binding).send().await?;
        ensure!([201, 409].contains(&answer.code), "{}", answer.text());
    }
    Ok(())
}

/// Creates, dry, until the answer is no plain success.
pub async fn refused(s: &Space, object: &Value) -> Result<Answer> {
    eventually("the policy", || async {
        let answer = s.api.post(&format!("{}?dryRun=All", s.core("configmaps")), object).send().await?;
        Ok((answer.code != 201).then_some(answer))
    })
    .await
}

pub async fn dry(s: &Space, object: &Value) -> Result<Answer> {
    s.api.post(&format!("{}?dryRun=All", s.core("configmaps")), object).send().await
}

pub fn with(s: &Space, name: &str, data: Value) -> Value {
    let mut map = s.map(name);
    map["data"] = data;
    map
}

/// A mutation by an apply configuration.
pub fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

/// One that leaves a mark.
pub const MARK: &str = "Object{data: {'mark': 'yes'}}";
