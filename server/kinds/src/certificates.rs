//! The group `certificates.k8s.io`.

use super::kind::{Kind, carry};
use super::support::{at, int, items, same, text, texts};
use crate::user::UserInfo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{SecondsFormat, Utc};
use machinery::field::{FieldErrors, Path};
use serde_json::Value;

const GROUP: &str = "certificates.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::cluster(GROUP, "CertificateSigningRequest")
        .status()
        .attribute(requester)
        .on_update(update)
        .validate(validate)
        .validate_update(validate_update)
        .select(|o| vec![("spec.signerName", text(at(o, "spec"), "signerName").into())]),
    Kind::cluster(GROUP, "ClusterTrustBundle")
        .named(bundle_name)
        .validate(|o, errors| {
            if text(at(o, "spec"), "trustBundle").is_empty() {
                errors.invalid(
                    &Path::new("spec.trustBundle"),
                    "<value omitted>",
                    "at least one trust anchor must be provided",
                );
            }
        })
        .select(|o| vec![("spec.signerName", text(at(o, "spec"), "signerName").into())]),
    Kind::namespaced(GROUP, "PodCertificateRequest").status().select(|o| {
        let spec = at(o, "spec");
        vec![
            ("spec.signerName", text(spec, "signerName").into()),
            ("spec.podName", text(spec, "podName").into()),
            ("spec.nodeName", text(spec, "nodeName").into()),
        ]
    }),
];

/// `signer:name` or a plain name.
fn bundle_name(name: &str, prefix: bool) -> Vec<String> {
    machinery::names::name_is_subdomain(&name.replace(':', "."), prefix)
}

/// A request says who made it, whatever the client wrote there.
fn requester(object: &mut Value, user: &UserInfo) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for name in ["username", "uid", "groups", "extra"] {
        spec.remove(name);
    }
    spec.insert("username".into(), user.name.clone().into());
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        spec.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra = user.extra.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
        spec.insert("extra".into(), Value::Object(extra));
    }
}

/// The request itself never changes; conditions change by `/approval`, the certificate by `/status`.
fn update(object: &mut Value, old: &Value, subresource: &str) {
    carry(object, old, "spec");
    if subresource == "approval" {
        let wanted = at(at(object, "status"), "conditions").clone();
        carry(object, old, "status");
        if object.get("status").is_none_or(|s| !s.is_object()) {
            object["status"] = serde_json::json!({});
        }
        object["status"]["conditions"] = wanted;
    }
    if !subresource.is_empty() {
        stamp(object, old);
    }
}

/// Conditions that come without their times get them.
fn stamp(object: &mut Value, old: &Value) {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let before = items(at(old, "status"), "conditions");
    let Some(conditions) = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else {
        return;
    };
    for condition in conditions.iter_mut().filter(|c| c.is_object()) {
        if text(condition, "lastUpdateTime").is_empty() {
            condition["lastUpdateTime"] = now.clone().into();
        }
        if text(condition, "lastTransitionTime").is_empty() {
            let same = |c: &&Value| {
                ["type", "status"].iter().all(|member| text(c, member) == text(condition, member))
            };
            let known = before.iter().find(same).map(|c| text(c, "lastTransitionTime").to_owned());
            let time = known.filter(|t| !t.is_empty()).unwrap_or_else(|| now.clone());
            condition["lastTransitionTime"] = time.into();
        }
    }
}

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

fn validate(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = at(object, "spec");
    let request = text(spec, "request");
    let pem = STANDARD.decode(request).ok().filter(|pem| kit::pki::Request::from_pem(pem).is_ok());
    if pem.is_none() {
        errors.invalid(&path.child("request"), request, "PEM block type must be CERTIFICATE REQUEST");
    }
    if items(spec, "usages").is_empty() {
        errors.required(&path.child("usages"), "usages is required for certificates.k8s.io/v1 requests");
    }
    let usages = path.child("usages");
    let mut seen: Vec<&str> = Vec::new();
    for (i, usage) in texts(spec, "usages").enumerate() {
        if !USAGES.contains(&usage) {
            errors.not_supported(&usages.index(i), usage, USAGES);
        } else if seen.contains(&usage) {
            errors.duplicate(&usages.index(i), usage);
        }
        seen.push(usage);
    }
    let signer = text(spec, "signerName");
    let at_signer = path.child("signerName");
    match signer.split_once('/') {
        _ if signer.is_empty() => errors.required(&at_signer, ""),
        _ if signer == "kubernetes.io/legacy-unknown" => {
            errors.invalid(&at_signer, signer, "the legacy signerName is not allowed via this API version")
        }
        None => errors.invalid(
            &at_signer,
            signer,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ),
        Some((domain, _)) if !domain.contains('.') => {
            errors.invalid(
                &at_signer,
                domain,
                "should be a domain with at least two segments separated by dots",
            );
        }
        Some((domain, _)) => {
            errors.invalid_each(&at_signer, domain, machinery::names::dns1123_subdomain(domain))
        }
    }
    if let Some(n) = int(spec, "expirationSeconds").filter(|n| *n < 600) {
        errors.invalid(
            &path.child("expirationSeconds"),
            n,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    let path = Path::new("status.conditions");
    let (now, then) = (items(at(new, "status"), "conditions"), items(at(old, "status"), "conditions"));
    let of = |list: &[Value], kind: &str| {
        list.iter().filter(|c| text(c, "type") == kind).cloned().collect::<Vec<_>>()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        let (a, b) = (of(now, kind), of(then, kind));
        let mine = match subresource {
            "approval" => kind != "Failed",
            "status" => kind == "Failed",
            _ => false,
        };
        if a.len() < b.len() {
            errors.forbidden(
                &path,
                format!("updates may not remove a condition of type {}", machinery::field::quote(kind)),
            );
        } else if b.len() < a.len() && !mine {
            errors.forbidden(
                &path,
                format!("updates may not add a condition of type {}", machinery::field::quote(kind)),
            );
        } else if !mine && !same(Some(&Value::Array(a)), Some(&Value::Array(b))) {
            errors.forbidden(
                &path,
                format!("updates may not modify a condition of type {}", machinery::field::quote(kind)),
            );
        }
    }
    if !of(now, "Approved").is_empty() && !of(now, "Denied").is_empty() {
        errors.invalid(&path, "Approved", "Approved and Denied conditions are mutually exclusive");
    }
    let certificate = |o: &Value| text(at(o, "status"), "certificate").to_string();
    if subresource == "status" && !certificate(old).is_empty() && certificate(old) != certificate(new) {
        errors.forbidden(
            &Path::new("status.certificate"),
            "updates may not modify existing certificate content",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strategy, find};
    use super::*;
    use serde_json::json;

    #[test]
    fn checks() {
        let row = find(GROUP, "CertificateSigningRequest").unwrap();
        let csr = |spec: Value| json!({"metadata": {"name": "x"}, "spec": spec});
        let key = kit::pki::PrivateKey::generate().unwrap();
        let pem = kit::pki::new_request(&key, &kit::pki::Subject::new("x", &[]), &kit::pki::Sans::default());
        let good = csr(
            json!({"request": STANDARD.encode(pem.unwrap()), "signerName": "a.b/c", "usages": ["client auth"]}),
        );
        assert!(row.validate(&good).is_empty());
        let got: Vec<_> = row
            .validate(&csr(json!({"request": good["spec"]["request"], "signerName": "x", "usages": ["fly"]})))
            .0
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            got[0].starts_with(
                "spec.usages[0]: Unsupported value: \"fly\": supported values: \"any\", \"cert sign\""
            ),
            "{got:?}"
        );
        assert_eq!(
            got[1],
            "spec.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'"
        );
        let mut owned = good.clone();
        row.attribute(
            &mut owned,
            &UserInfo { name: "jane".into(), groups: vec!["dev".into()], ..UserInfo::default() },
        );
        assert_eq!((&owned["spec"]["username"], &owned["spec"]["groups"]), (&json!("jane"), &json!(["dev"])));
        let mut approved = good.clone();
        approved["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        assert!(row.validate_update(&approved, &good, "approval").is_empty());
        assert_eq!(
            row.validate_update(&approved, &good, "status").0[0].to_string(),
            "status.conditions: Forbidden: updates may not add a condition of type \"Approved\""
        );
        approved["status"]["certificate"] = "x".into();
        row.prepare_for_update(&mut approved, &good, "approval");
        assert!(
            approved["status"].get("certificate").is_none()
                && approved["status"]["conditions"][0]["type"] == "Approved"
        );
        let condition = approved["status"]["conditions"][0].clone();
        assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string());
        let garbage =
            csr(json!({"request": "eA==", "signerName": "kubernetes.io/legacy-unknown", "usages": ["any"]}));
        let got: Vec<_> = row.validate(&garbage).0.iter().map(ToString::to_string).collect();
        assert!(got[0].contains("PEM block type must be CERTIFICATE REQUEST"), "{got:?}");
        assert!(got[1].contains("the legacy signerName is not allowed via this API version"), "{got:?}");
    }
}
