//! Secrets.

use super::config::{MAX_SIZE, decoded_len, frozen};
use crate::kind::{Kind, Metadata};
use crate::support::{at, immutable, map_mut, members, preset, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::field::{FieldError, FieldErrors, Path};
use machinery::{meta, names};
use serde_json::Value;

pub(super) const KIND: Kind = Kind::namespaced("", "Secret")
    .metadata(Metadata::Both)
    .changes_first()
    .default(default)
    .validate(validate)
    .validate_update(validate_update)
    .select(|o| vec![("type", text(o, "type").into())])
    .warn(|o, _| certificate_warning(o).into_iter().collect());

/// What is plainly no key pair, in the words of Go's reader of them.
fn certificate_warning(object: &Value) -> Option<String> {
    if text(object, "type") != "kubernetes.io/tls" {
        return None;
    }
    let has_pem = |key: &str| {
        let bytes = STANDARD.decode(text(at(object, "data"), key)).unwrap_or_default();
        bytes.windows(11).any(|w| w == b"-----BEGIN ")
    };
    let which = ["tls.crt", "tls.key"].into_iter().find(|k| !has_pem(k))?;
    let input = if which == "tls.crt" { "certificate" } else { "key" };
    Some(format!("tls: failed to find any PEM data in {input} input"))
}

/// `stringData` is write-only: it goes into `data`, over what is there.
fn default(object: &mut Value) {
    preset(object, "type", "Opaque");
    let sent = object.as_object_mut().and_then(|o| o.remove("stringData"));
    let Some(Value::Object(sent)) = sent else { return };
    if sent.is_empty() {
        return;
    }
    if let Some(data) = map_mut(object, "data") {
        for (key, value) in sent {
            let encoded = STANDARD.encode(value.as_str().unwrap_or(""));
            data.insert(key, encoded.into());
        }
    }
}

const ACCOUNT: &str = "kubernetes.io/service-account.name";

fn validate(object: &Value, errors: &mut FieldErrors) {
    let data = Path::new("data");
    let mut size = 0;
    for (key, value) in members(object, "data") {
        errors.invalid_each(&data.key(key), key, names::config_key(key));
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long(&data, MAX_SIZE));
    }
    let missing = |key: &str| at(object, "data").get(key).is_none();
    let need = |keys: &[&str], errors: &mut FieldErrors| {
        for key in keys.iter().filter(|k| missing(k)) {
            errors.required(&data.key(key), "");
        }
    };
    match text(object, "type") {
        "kubernetes.io/service-account-token"
            if meta::annotation(object, ACCOUNT).is_none_or(str::is_empty) =>
        {
            errors.required(&Path::new("metadata.annotations").key(ACCOUNT), "");
        }
        "kubernetes.io/dockercfg" => docker(object, ".dockercfg", &data, errors),
        "kubernetes.io/dockerconfigjson" => docker(object, ".dockerconfigjson", &data, errors),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            need(&["username", "password"], errors);
        }
        "kubernetes.io/ssh-auth" => need(&["ssh-privatekey"], errors),
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"], errors),
        _ => {}
    }
}

fn docker(object: &Value, key: &str, data: &Path<'_>, errors: &mut FieldErrors) {
    let Some(value) = at(object, "data").get(key).and_then(Value::as_str) else {
        errors.required(&data.key(key), "");
        return;
    };
    let parsed = STANDARD.decode(value).ok().map(|bytes| serde_json::from_slice::<Value>(&bytes));
    if let Some(Err(e)) = parsed {
        let why = if e.is_eof() { "unexpected end of JSON input".to_string() } else { e.to_string() };
        errors.invalid(&data.key(key), "<secret contents redacted>", why);
    }
}

fn validate_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    immutable(at(new, "type"), at(old, "type"), &Path::new("type"), errors);
    frozen(new, old, &["data"], errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;
    use serde_json::json;

    static SECRET: Kind = KIND;

    #[test]
    fn checks() {
        let meta = json!({"name": "c", "namespace": "d"});
        let mut object = json!({"metadata": meta, "stringData": {"a": "b"}});
        (&SECRET).default(&mut object);
        assert_eq!(
            (&object["type"], &object["data"]["a"], object.get("stringData")),
            (&json!("Opaque"), &json!("Yg=="), None)
        );
        let errors = |o: Value| (&SECRET).validate(&o).0.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            errors(json!({"metadata": meta, "type": "kubernetes.io/tls"})),
            ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
        );
        assert_eq!(
            errors(
                json!({"metadata": meta, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": ""}})
            ),
            [
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input"
            ]
        );
        let new = json!({"metadata": meta, "type": "b"});
        let old = json!({"metadata": meta, "type": "a"});
        assert_eq!(
            (&SECRET).validate_update(&new, &old, "").0[0].to_string(),
            "type: Invalid value: \"b\": field is immutable"
        );
    }
}
