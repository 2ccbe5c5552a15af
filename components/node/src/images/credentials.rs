//! Registry credentials out of image pull secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use runtime::RegistryAuth;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Clone, Debug)]
pub struct Credential {
    /// Host, port and path prefix it is for; the host may hold `*`.
    pub place: String,
    pub auth: RegistryAuth,
}

/// Every credential of a `dockerconfigjson` or `dockercfg` secret; what does not parse is left out.
pub fn from_secret(secret: &Secret) -> Vec<Credential> {
    let get = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|ByteString(b)| b.as_slice());
    let entries = match (get(".dockerconfigjson"), get(".dockercfg")) {
        (Some(raw), _) => serde_json::from_slice::<ConfigJson>(raw).map(|c| c.auths),
        (None, Some(raw)) => serde_json::from_slice(raw),
        (None, None) => return Vec::new(),
    };
    let entries = entries.unwrap_or_else(|error| {
        tracing::warn!(%error, secret = secret.metadata.name, "image pull secret does not parse");
        BTreeMap::new()
    });
    entries.into_iter().map(|(place, e)| Credential { place: normal(&place), auth: auth(e) }).collect()
}

fn auth(e: Entry) -> RegistryAuth {
    let mut out = RegistryAuth {
        username: e.username,
        password: e.password,
        identity_token: e.identitytoken,
        registry_token: e.registrytoken,
    };
    if out.username.is_empty()
        && let Ok(plain) = STANDARD.decode(e.auth.trim())
        && let Some((user, password)) = String::from_utf8_lossy(&plain).trim_end_matches('\0').split_once(':')
    {
        out.username = user.to_owned();
        out.password = password.to_owned();
    }
    out
}

fn normal(place: &str) -> String {
    let place = place.trim_start_matches("https://").trim_start_matches("http://");
    let place =
        place.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2").trim_end_matches('/');
    match place {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        other => other.to_owned(),
    }
}

/// Those for this image, the most specific place first.
pub fn matching(all: &[Credential], image: &str) -> Vec<RegistryAuth> {
    let full = full_name(image);
    let mut hits: Vec<&Credential> = all.iter().filter(|c| fits(&c.place, &full)).collect();
    hits.sort_by_key(|c| std::cmp::Reverse(c.place.len()));
    hits.into_iter().map(|c| c.auth.clone()).collect()
}

fn full_name(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains('.') || host.contains(':') || host == "localhost" => image
            .strip_prefix("index.docker.io/")
            .map_or_else(|| image.to_owned(), |r| format!("docker.io/{r}")),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

fn fits(place: &str, image: &str) -> bool {
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let (image_host, image_path) = image.split_once('/').unwrap_or((image, ""));
    let split =
        |h: &str| h.split_once(':').map_or((h.to_owned(), None), |(a, b)| (a.to_owned(), Some(b.to_owned())));
    let ((want, want_port), (have, have_port)) = (split(host), split(image_host));
    let (want, have): (Vec<&str>, Vec<&str>) = (want.split('.').collect(), have.split('.').collect());
    want.len() == have.len()
        && want_port == have_port
        && want.iter().zip(&have).all(|(w, h)| glob(w, h))
        && image_path.starts_with(path)
}

/// `*` matches any run of characters within one label.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|i| rest.is_char_boundary(i) && glob(tail, &rest[i..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_matches() {
        let json = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"dTpw"},
            "registry.example.com:5000/team":{"username":"a","password":"b"},
            "*.example.com:5000":{"username":"w","password":"x"}}}"#;
        let secret = Secret {
            data: Some(BTreeMap::from([(".dockerconfigjson".to_owned(), ByteString(json.into()))])),
            ..Default::default()
        };
        let all = from_secret(&secret);
        assert_eq!(matching(&all, "nginx")[0].username, "u");
        assert_eq!(matching(&all, "docker.io/library/nginx:1")[0].password, "p");
        let hits = matching(&all, "registry.example.com:5000/team/app:1");
        assert_eq!(hits.iter().map(|a| a.username.as_str()).collect::<Vec<_>>(), ["a", "w"]);
        assert!(matching(&all, "registry.example.com/team/app").is_empty());
    }
}
