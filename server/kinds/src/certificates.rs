//! The group `certificates.k8s.io`.

use super::kind::{Kind, carry};
use super::support::{at, int, items, same, text, texts};
use crate::user::UserInfo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{SecondsFormat, Utc};
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::names;
use serde_json::Value;

const GROUP: &str = "certificates.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::cluster(GROUP, "CertificateSigningRequest")
        .named(names::path_segment)
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

/// `signer:name`, the slashes of the signer colons too, or a plain name.
pub(super) fn bundle_name(name: &str, prefix: bool) -> Vec<String> {
    names::name_is_subdomain(name.rsplit(':').next().unwrap_or(name), prefix)
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
        match object.get_mut("status").and_then(Value::as_object_mut) {
            Some(status) if wanted.as_array().is_none_or(Vec::is_empty) => drop(status.remove("conditions")),
            Some(status) => drop(status.insert("conditions".into(), wanted)),
            None => {}
        }
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
        let shown = if request.is_empty() { Value::Null } else { request.into() };
        errors.invalid(&path.child("request"), shown, "PEM block type must be CERTIFICATE REQUEST");
    }
    if items(spec, "usages").is_empty() {
        errors.required(&path.child("usages"), "");
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
    if signer == "kubernetes.io/legacy-unknown" {
        errors.invalid(&at_signer, signer, "the legacy signerName is not allowed via this API version");
    } else {
        signer_name(signer, &at_signer, errors);
    }
    if let Some(n) = int(spec, "expirationSeconds").filter(|n| *n < 600) {
        errors.invalid(
            &path.child("expirationSeconds"),
            n,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

/// `domain/path`: a domain of two labels at least, and a path of subdomains between dots.
pub(super) fn signer_name(signer: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if signer.is_empty() {
        errors.required(path, "");
        return;
    }
    let Some((domain, own)) = signer.split_once('/').filter(|(_, own)| !own.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.invalid(path, signer, detail);
        return;
    };
    if domain.len() > 253 {
        errors.push(FieldError::too_long(path, 253));
    }
    labels(domain, names::dns1123_label, path, errors);
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    labels(own, names::dns1123_subdomain, path, errors);
    if own.len() > 317 {
        errors.push(FieldError::too_long(path, 317));
    }
}

/// The first bad part between dots is told, the others would say the same.
fn labels(segment: &str, check: fn(&str) -> Vec<String>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(label) = segment.split('.').find(|l| !check(l).is_empty()) else { return };
    for why in check(label) {
        let detail = format!("validating label {}: {why}", machinery::field::quote(label));
        errors.invalid(path, segment, detail);
    }
}

fn check_conditions(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status.conditions");
    let all = items(at(object, "status"), "conditions");
    for (i, condition) in all.iter().enumerate() {
        let at_i = path.index(i);
        let kind = text(condition, "type");
        if kind.is_empty() {
            errors.required(&at_i.child("type"), "");
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        crate::support::one_of(condition, "status", allowed, &at_i, errors);
        let against = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !against.is_empty() && all[..i].iter().any(|c| text(c, "type") == against) {
            errors.invalid(&path, kind, "Approved and Denied conditions are mutually exclusive");
        }
        if all[..i].iter().any(|c| text(c, "type") == kind) {
            errors.duplicate(&at_i.child("type"), kind);
        }
    }
}

fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        check_conditions(new, errors);
    }
    let path = Path::new("status.conditions");
    let (now, then) = (items(at(new, "status"), "conditions"), items(at(old, "status"), "conditions"));
    let of = |list: &[Value], kind: &str| {
        list.iter().filter(|c| text(c, "type") == kind).cloned().collect::<Vec<_>>()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        let (now, then) = (of(now, kind), of(then, kind));
        let mine = match subresource {
            "approval" => kind != "Failed",
            "status" => kind == "Failed",
            _ => false,
        };
        if now.len() < then.len() {
            errors.forbidden(
                &path,
                format!("updates may not remove a condition of type {}", machinery::field::quote(kind)),
            );
        } else if then.len() < now.len() && !mine {
            errors.forbidden(
                &path,
                format!("updates may not add a condition of type {}", machinery::field::quote(kind)),
            );
        } else if !mine && !same(Some(&Value::Array(now.clone())), Some(&Value::Array(then.clone()))) {
            errors.forbidden_change(
                &path,
                format!("updates may not modify a condition of type {}", machinery::field::quote(kind)),
                &Value::Array(then),
                &Value::Array(now),
            );
        }
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
