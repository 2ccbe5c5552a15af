//! AdmissionReviews: made for a webhook, and its answers read. Source: apiserver's `admissionreview.go`.

use super::super::{Form, Request};
use super::transport::Answered;
use crate::aggregation::server_response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

/// The review versions this server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Review {
    V1,
    V1beta1,
}

impl Review {
    /// The first a webhook names that is known here.
    pub fn of(names: &[String]) -> Option<Self> {
        names.iter().find_map(|name| match name.as_str() {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1beta1),
            _ => None,
        })
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1beta1 => "admission.k8s.io/v1beta1",
        }
    }

    pub fn request(
        self,
        uid: &str,
        r: &Request<'_>,
        form: &Form,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Bytes {
        let mut request = json!({
            "uid": uid,
            "kind": form.kind.to_json(),
            "resource": form.resource_json(),
            "requestKind": r.sent_kind(object).to_json(),
            "requestResource": {"group": r.group, "version": r.version, "resource": r.resource},
            "operation": r.operation.word(),
            "userInfo": r.user.to_json(),
            "object": object,
            "oldObject": old,
            "dryRun": r.dry_run,
            "options": r.options,
        });
        for (key, value) in [
            ("subResource", r.subresource),
            ("requestSubResource", r.subresource),
            ("name", r.name),
            ("namespace", r.namespace),
        ] {
            if !value.is_empty() {
                request[key] = value.into();
            }
        }
        let review = json!({"apiVersion": self.api_version(), "kind": "AdmissionReview", "request": request});
        review.to_string().into()
    }

    /// The review that came back. The error is what follows `failed to call webhook: `.
    pub fn decode(self, answer: &Answered) -> Result<Value, String> {
        if !(200..300).contains(&answer.code) {
            return Err(server_response(answer.code, &answer.content_type, &answer.body));
        }
        let review = read(&answer.body)?;
        if !review.is_object() {
            let kind = match review {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Number(_) => "number",
                _ => "bool",
            };
            return Err(format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {kind} into Go value of type \
                 struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
                 \"json:\\\"kind,omitempty\\\"\" }}"
            ));
        }
        let said = |field: &str| review[field].as_str().unwrap_or_default();
        let (group_version, kind) = (said("apiVersion"), said("kind"));
        match (self, kind, group_version) {
            // Without a name it is read as what was asked for.
            (_, "" | "AdmissionReview", "") => {}
            (_, _, named) if kind == "AdmissionReview" && named == self.api_version() => {}
            (Self::V1, "AdmissionReview", "admission.k8s.io/v1beta1") => {
                return Err(
                    "converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion".into(),
                );
            }
            (Self::V1beta1, "AdmissionReview", "admission.k8s.io/v1") => {
                return Err(
                    "converting (v1.AdmissionReview) to (v1beta1.AdmissionReview): unknown conversion".into(),
                );
            }
            _ => {
                return Err(format!(
                    "no kind {kind:?} is registered for version {group_version:?} in scheme"
                ));
            }
        }
        typed(&review["response"])?;
        Ok(review)
    }

    /// The `response`, if it is one. The error is what follows `received invalid webhook response: `.
    pub fn verify(self, uid: &str, mutating: bool, mut review: Value) -> Result<Value, String> {
        let response = review["response"].take();
        if !response.is_object() {
            return Err("webhook response was absent".into());
        }
        let text = |field: &str| response[field].as_str();
        if self == Self::V1beta1 {
            return Ok(response);
        }
        let got = text("uid").unwrap_or_default();
        if got != uid {
            return Err(format!("expected response.uid={uid:?}, got {got:?}"));
        }
        let said = |field: &str| review[field].as_str().unwrap_or_default();
        if said("apiVersion") != self.api_version() || said("kind") != "AdmissionReview" {
            let (group, version) = said("apiVersion").split_once('/').unwrap_or(("", said("apiVersion")));
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group}/{version}, Kind={}",
                said("kind")
            ));
        }
        let patch = text("patch").is_some_and(|p| !p.is_empty());
        match (mutating, patch, text("patchType")) {
            (true, true, None) => Err("webhook returned response.patch but not response.patchType".into()),
            (true, false, Some(_)) => {
                Err("webhook returned response.patchType but not response.patch".into())
            }
            (true, _, Some("")) => Err("webhook returned invalid response.patchType of \"\"".into()),
            (false, true, _) => Err("validating webhook may not return response.patch".into()),
            (false, _, Some(_)) => Err("validating webhook may not return response.patchType".into()),
            _ => Ok(response),
        }
    }
}

/// JSON, or YAML, as upstream's decoder takes both.
fn read(body: &Bytes) -> Result<Value, String> {
    serde_json::from_slice(body).or_else(|error| {
        let looks_like_json = body.trim_ascii_start().first().is_some_and(|b| matches!(b, b'{' | b'['));
        match machinery::codec::yaml::decode(body) {
            Ok(value) if !looks_like_json => Ok(value),
            _ => {
                let why = machinery::codec::json::syntax_error(&error, body);
                Err(format!("couldn't get version/kind; json parse error: {why}"))
            }
        }
    })
}

/// The types of what is used of a response.
fn typed(response: &Value) -> Result<(), String> {
    let refuse = |field: &str, found: &Value, due: &str| {
        let kind = match found {
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            _ => "object",
        };
        Err(format!(
            "json: cannot unmarshal {kind} into Go struct field AdmissionResponse.response.{field} of type {due}"
        ))
    };
    for (field, due) in [("uid", "types.UID"), ("patchType", "v1.PatchType"), ("patch", "[]uint8")] {
        let value = &response[field];
        if !(value.is_null() || value.is_string()) {
            return refuse(field, value, due);
        }
    }
    let allowed = &response["allowed"];
    if !(allowed.is_null() || allowed.is_boolean()) {
        return refuse("allowed", allowed, "bool");
    }
    let bad = |c: &u8| !(c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=' | b'\n' | b'\r'));
    if let Some(patch) = response["patch"].as_str()
        && STANDARD.decode(patch.replace(['\n', '\r'], "")).is_err()
    {
        let at = patch.bytes().position(|c| bad(&c)).unwrap_or(patch.len());
        return Err(format!("illegal base64 data at input byte {at}"));
    }
    Ok(())
}
