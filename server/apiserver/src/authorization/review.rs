//! SubjectAccessReview and its kin: authorization as an answer.

use super::{Attributes, Authorizer, Decision};
use crate::authentication::UserInfo;
use crate::reader::{items, strings, text};
use machinery::field::{ErrorKind, FieldError};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// 422 with these causes.
    #[error("{} fields are invalid", .0.len())]
    Invalid(Vec<FieldError>),
    /// 400.
    #[error("{0}")]
    BadRequest(String),
}

/// The kinds this module answers, all of authorization.k8s.io.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Subject,
    /// With the namespace of the request's path.
    LocalSubject,
    SelfSubject,
}

/// Answers a SubjectAccessReview, LocalSubjectAccessReview or SelfSubjectAccessReview: `object` with its status.
pub async fn access_review(
    authorizer: &dyn Authorizer,
    kind: Kind,
    user: &UserInfo,
    namespace: &str,
    object: &Value,
) -> Result<Value, ReviewError> {
    let spec = &object["spec"];
    let mut errors = Vec::new();
    let error = |kind, path: &str, bad_value: Value, detail: &str| FieldError {
        kind,
        path: path.into(),
        bad_value,
        detail: detail.into(),
    };
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() && path.is_object() {
        let detail = "cannot be specified in combination with resourceAttributes";
        errors.push(error(ErrorKind::Invalid, "spec.nonResourceAttributes", path.clone(), detail));
    }
    if !resource.is_object() && !path.is_object() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(error(ErrorKind::Invalid, "spec.resourceAttributes", resource.clone(), detail));
    }
    if kind != Kind::SelfSubject && text(spec, "/user").is_empty() && items(spec, "/groups").is_empty() {
        let detail = "at least one of user or group must be specified";
        errors.push(error(ErrorKind::Invalid, "spec.user", json!(""), detail));
    }
    if kind == Kind::LocalSubject && path.is_object() {
        let detail = "disallowed on this kind of request";
        errors.push(error(ErrorKind::Invalid, "spec.nonResourceAttributes", path.clone(), detail));
    }
    if !errors.is_empty() {
        return Err(ReviewError::Invalid(errors));
    }
    if kind == Kind::LocalSubject && text(resource, "/namespace") != namespace {
        return Err(ReviewError::BadRequest(format!(
            "spec.resourceAttributes.namespace must match namespace: {namespace}"
        )));
    }
    let who = if kind == Kind::SelfSubject { user.clone() } else { subject(spec) };
    let decision = authorizer.authorize(&attributes(who, resource, path)).await;
    let mut status = Map::new();
    let (allowed, denied, reason) = match decision {
        Decision::Allow { reason } => (true, false, reason),
        Decision::Deny { reason } => (false, true, reason),
        Decision::NoOpinion { reason } => (false, false, reason),
        Decision::Failed { error, deny } => {
            status.insert("evaluationError".into(), error.into());
            (false, deny, String::new())
        }
    };
    status.insert("allowed".into(), allowed.into());
    if denied {
        status.insert("denied".into(), true.into());
    }
    if !reason.is_empty() {
        status.insert("reason".into(), reason.into());
    }
    let mut out = object.clone();
    out["status"] = status.into();
    Ok(out)
}

fn subject(spec: &Value) -> UserInfo {
    let values = |v: &Value| {
        v.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let extra: BTreeMap<String, Vec<String>> =
        spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.to_lowercase(), values(v))).collect();
    UserInfo {
        name: text(spec, "/user").into(),
        uid: text(spec, "/uid").into(),
        groups: strings(spec, "/groups"),
        extra,
    }
}

fn attributes(user: UserInfo, resource: &Value, path: &Value) -> Attributes {
    if !resource.is_object() {
        return Attributes {
            user,
            verb: text(path, "/verb").into(),
            path: text(path, "/path").into(),
            ..Attributes::default()
        };
    }
    Attributes {
        user,
        verb: text(resource, "/verb").into(),
        namespace: text(resource, "/namespace").into(),
        api_group: text(resource, "/group").into(),
        api_version: text(resource, "/version").into(),
        resource: text(resource, "/resource").into(),
        subresource: text(resource, "/subresource").into(),
        name: text(resource, "/name").into(),
        resource_request: true,
        path: String::new(),
        field_selector: selector(&resource["fieldSelector"]),
        label_selector: selector(&resource["labelSelector"]),
    }
}

/// A selector of an access review, as the query parameter it stands for.
fn selector(value: &Value) -> Option<String> {
    let raw = text(value, "/rawSelector");
    if !raw.is_empty() {
        return Some(raw.into());
    }
    let requirements = items(value, "/requirements");
    if requirements.is_empty() {
        return None;
    }
    let one = |r: &Value| {
        let (key, values) = (text(r, "/key"), strings(r, "/values").join(","));
        match text(r, "/operator") {
            "In" if !values.contains(',') => format!("{key}={values}"),
            "In" => format!("{key} in ({values})"),
            "NotIn" if !values.contains(',') => format!("{key}!={values}"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        }
    };
    Some(requirements.iter().map(one).collect::<Vec<_>>().join(","))
}

/// Answers a SelfSubjectRulesReview.
pub async fn rules_review(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    object: &Value,
) -> Result<Value, ReviewError> {
    let namespace = text(object, "/spec/namespace");
    if namespace.is_empty() {
        return Err(ReviewError::BadRequest("no namespace on request".into()));
    }
    let (resources, urls, incomplete) = authorizer.rules_for(user, namespace).await;
    let mut out = object.clone();
    out["status"] = json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": incomplete});
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;

    /// Says yes to jane reading, and repeats in the reason what it was asked.
    struct Echo;

    #[async_trait]
    impl Authorizer for Echo {
        async fn authorize(&self, a: &Attributes) -> Decision {
            let reason =
                format!("{} {} {}{} {:?}", a.user.name, a.verb, a.resource, a.path, a.field_selector);
            if a.user.name == "jane" && a.verb == "get" {
                return Decision::Allow { reason };
            }
            if a.verb == "deny" {
                Decision::Deny { reason }
            } else {
                Decision::NoOpinion { reason: String::new() }
            }
        }
        async fn rules_for(&self, _: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
            (vec![json!({"verbs": [namespace]})], vec![], true)
        }
    }

    async fn ask(kind: Kind, spec: Value) -> Result<Value, ReviewError> {
        let me = UserInfo::new("jane", &[]);
        access_review(&Echo, kind, &me, "default", &json!({"spec": spec}))
            .await
            .map(|mut o| o["status"].take())
    }

    #[tokio::test]
    async fn answers() {
        let get = json!({"verb": "get", "resource": "pods", "namespace": "default"});
        let own = ask(Kind::SelfSubject, json!({"resourceAttributes": get})).await.unwrap();
        assert_eq!(own, json!({"allowed": true, "reason": "jane get pods None"}));
        let other = ask(Kind::Subject, json!({"user": "joe", "resourceAttributes": get})).await.unwrap();
        assert_eq!(other, json!({"allowed": false}));
        let deny = json!({"user": "joe", "nonResourceAttributes": {"verb": "deny", "path": "/x"}});
        let denied = ask(Kind::Subject, deny).await.unwrap();
        assert_eq!((&denied["allowed"], &denied["denied"]), (&json!(false), &json!(true)));
        let local = json!({"groups": ["g"], "resourceAttributes": get});
        assert_eq!(ask(Kind::LocalSubject, local).await.unwrap()["allowed"], false);
        let selected = json!({"verb": "get", "resource": "pods", "fieldSelector": {"requirements":
            [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]}});
        let answer = ask(Kind::SelfSubject, json!({"resourceAttributes": selected})).await.unwrap();
        assert_eq!(answer["reason"], "jane get pods Some(\"spec.nodeName=n\")");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        for (kind, spec, path) in [
            (Kind::SelfSubject, json!({}), "spec.resourceAttributes"),
            (Kind::Subject, json!({"nonResourceAttributes": {}}), "spec.user"),
            (
                Kind::SelfSubject,
                json!({"nonResourceAttributes": {}, "resourceAttributes": {}}),
                "spec.nonResourceAttributes",
            ),
            (
                Kind::LocalSubject,
                json!({"user": "x", "nonResourceAttributes": {}}),
                "spec.nonResourceAttributes",
            ),
        ] {
            let Err(ReviewError::Invalid(errors)) = ask(kind, spec.clone()).await else { panic!("{spec}") };
            assert_eq!(errors[0].path, path, "{spec}");
        }
        let elsewhere = json!({"user": "x", "resourceAttributes": {"namespace": "other"}});
        assert!(matches!(ask(Kind::LocalSubject, elsewhere).await, Err(ReviewError::BadRequest(_))));
    }

    #[tokio::test]
    async fn rules_are_listed() {
        let me = UserInfo::new("jane", &[]);
        let answer = rules_review(&Echo, &me, &json!({"spec": {"namespace": "a"}})).await.unwrap();
        assert_eq!(answer["status"]["resourceRules"], json!([{"verbs": ["a"]}]));
        assert_eq!(answer["status"]["incomplete"], true);
        assert!(rules_review(&Echo, &me, &json!({"spec": {}})).await.is_err());
    }
}
