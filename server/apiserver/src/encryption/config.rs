//! The file `--encryption-provider-config` names (apiserver.config.k8s.io/v1 EncryptionConfiguration).

use super::ciphers::Cipher;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::field::{FieldErrors, Path};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    resources: Vec<Entry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<ProviderConfig>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProviderConfig {
    pub aesgcm: Option<Keys>,
    pub aescbc: Option<Keys>,
    pub secretbox: Option<Keys>,
    pub identity: Option<Value>,
    pub kms: Option<KmsConfig>,
}

impl std::fmt::Debug for ProviderConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProviderConfig")
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Keys {
    pub keys: Vec<Key>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Key {
    pub name: String,
    pub secret: String,
}

impl Key {
    pub fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(&self.secret).unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct KmsConfig {
    pub api_version: String,
    pub name: String,
    #[serde(rename = "cachesize")]
    pub cache_size: Option<i64>,
    pub endpoint: String,
    pub timeout: Option<String>,
}

impl KmsConfig {
    pub fn timeout(&self) -> Duration {
        let nanos = self.timeout.as_deref().map(machinery::codec::parse_duration);
        match nanos {
            Some(Ok(nanos)) if nanos > 0 => Duration::from_nanos(nanos.unsigned_abs()),
            _ => Duration::from_secs(3),
        }
    }
}

/// Resources (as `resource`, `group`; `*` is any) and the providers for them, in the file's order.
#[derive(Debug)]
pub(super) struct Config {
    pub entries: Vec<(Vec<(String, String)>, Vec<ProviderConfig>)>,
}

const PROVIDERS: &str =
    "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";

impl Config {
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let value = machinery::codec::yaml::decode(bytes).map_err(|e| e.to_string())?;
        let file = File::deserialize(&value).map_err(|e| e.to_string())?;
        if file.api_version != "apiserver.config.k8s.io/v1" || file.kind != "EncryptionConfiguration" {
            return Err(format!(
                "no kind {:?} is registered for version {:?}; expected EncryptionConfiguration of apiserver.config.k8s.io/v1",
                file.kind, file.api_version
            ));
        }
        let mut errors = FieldErrors(Vec::new());
        file.check(&mut errors);
        match errors.0.as_slice() {
            [] => {}
            [one] => return Err(one.to_string()),
            many => {
                let all: Vec<String> = many.iter().map(ToString::to_string).collect();
                return Err(format!("[{}]", all.join(", ")));
            }
        }
        let mut seen: HashSet<(String, String)> = HashSet::new();
        let mut entries = Vec::new();
        for entry in file.resources {
            let resources: Vec<_> = entry.resources.iter().map(|r| group_resource(r)).collect();
            for (resource, group) in &resources {
                for mask in [("*".to_owned(), group.clone()), ("*".to_owned(), "*".to_owned())] {
                    if seen.contains(&mask) {
                        let shown = |(r, g): (&str, &str)| {
                            if g.is_empty() && r != "*" { r.to_owned() } else { format!("{r}.{g}") }
                        };
                        return Err(format!(
                            "resource {:?} is masked by earlier rule {:?}",
                            shown((resource, group)),
                            shown((&mask.0, &mask.1))
                        ));
                    }
                }
            }
            seen.extend(resources.iter().cloned());
            entries.push((resources, entry.providers));
        }
        Ok(Self { entries })
    }
}

/// `secrets`, `pandas.awesome.bears`, `*.`, `*.apps`, `*.*`.
fn group_resource(text: &str) -> (String, String) {
    let (resource, group) = text.split_once('.').unwrap_or((text, ""));
    (resource.to_owned(), group.to_owned())
}

impl File {
    fn check(&self, errors: &mut FieldErrors) {
        let root = Path::new("resources");
        if self.resources.is_empty() {
            errors.required(&root, "at least one resources is required");
            return;
        }
        let mut kms_names = HashSet::new();
        for (i, entry) in self.resources.iter().enumerate() {
            let at = root.index(i);
            let (resources, providers) = (at.child("resources"), at.child("providers"));
            if entry.resources.is_empty() {
                errors.required(
                    &resources,
                    format!("at least one resources[{i}].resources is required").as_str(),
                );
            }
            check_overlap(&entry.resources, &resources, errors);
            for (j, resource) in entry.resources.iter().enumerate() {
                if let Some(why) = bad_resource(resource) {
                    errors.invalid(&resources.index(j), resource.as_str(), why);
                }
            }
            if entry.providers.is_empty() {
                errors.required(
                    &providers,
                    format!("at least one resources[{i}].providers is required").as_str(),
                );
            }
            for (j, provider) in entry.providers.iter().enumerate() {
                provider.check(&providers.index(j), &mut kms_names, errors);
            }
        }
    }
}

fn check_overlap(resources: &[String], path: &Path<'_>, errors: &mut FieldErrors) {
    let all: Vec<_> = resources.iter().map(|r| group_resource(r)).collect();
    let pairs = || (0..all.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    if pairs().any(|(i, j)| all[i] == all[j]) {
        errors.invalid(path, json!(resources), "the same resource cannot be specified multiple times");
    }
    let everything = |i: usize| all[i].0 == "*" && all[i].1 == "*";
    let masks = |i: usize, j: usize| all[i].1 == all[j].1 && (all[i].0 == "*" || all[j].0 == "*");
    if pairs().any(|(i, j)| all[i] != all[j] && (everything(i) || everything(j) || masks(i, j))) {
        errors.invalid(
            path,
            json!(resources),
            "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked",
        );
    }
}

fn bad_resource(resource: &str) -> Option<&'static str> {
    let (name, group) = group_resource(resource);
    if resource.chars().any(char::is_uppercase) {
        Some("resource name should not contain capital letters")
    } else if resource == "*" {
        Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
    } else if ["apiserveripinfo", "serviceipallocations", "servicenodeportallocations"].contains(&resource) {
        Some("resources which do not have REST API/s cannot be encrypted")
    } else if group == "events.k8s.io" {
        Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        )
    } else if group == "extensions" {
        Some("'extensions' group has been removed and cannot be used for encryption")
    } else if group == "*" && name != "*" {
        Some("encrypting the same resource across groups is not supported")
    } else {
        None
    }
}

impl ProviderConfig {
    fn check(&self, path: &Path<'_>, kms_names: &mut HashSet<String>, errors: &mut FieldErrors) {
        let given = [
            self.kms.is_some(),
            self.aesgcm.is_some(),
            self.aescbc.is_some(),
            self.secretbox.is_some(),
            self.identity.is_some(),
        ];
        match given.iter().filter(|g| **g).count() {
            0 => return errors.invalid(path, json!({}), PROVIDERS),
            1 => {}
            _ => {
                let why = "more than one provider specified in a single element, should split into different list elements";
                return errors.invalid(path, json!({}), why);
            }
        }
        let aes: &[usize] = &[16, 24, 32];
        for (name, keys, sizes) in [
            ("aesgcm", &self.aesgcm, aes),
            ("aescbc", &self.aescbc, aes),
            ("secretbox", &self.secretbox, &[32]),
        ] {
            if let Some(keys) = keys {
                keys.check(&path.child(name).child("keys"), sizes, errors);
            }
        }
        if let Some(kms) = &self.kms {
            kms.check(&path.child("kms"), kms_names, errors);
        }
    }
}

impl Keys {
    fn check(&self, path: &Path<'_>, sizes: &[usize], errors: &mut FieldErrors) {
        if self.keys.is_empty() {
            errors.required(path, "at least one keys is required");
        }
        for (i, key) in self.keys.iter().enumerate() {
            let at = path.index(i);
            let secret = at.child("secret");
            if key.name.is_empty() {
                errors.required(&at.child("name"), "name is a mandatory field for a key");
            }
            if key.secret.is_empty() {
                errors.required(&secret, "secret is a mandatory field for a key");
                continue;
            }
            match STANDARD.decode(&key.secret) {
                Err(_) => errors.invalid(&secret, "REDACTED", "secrets must be base64 encoded"),
                Ok(bytes) if !sizes.contains(&bytes.len()) => {
                    let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
                    let why = format!(
                        "secret is not of the expected length, got {}, expected one of [{}]",
                        bytes.len(),
                        sizes.join(" ")
                    );
                    errors.invalid(&secret, "REDACTED", &why);
                }
                Ok(_) => {}
            }
        }
    }

    /// Each key with the prefix its values carry.
    pub fn ciphers(&self, make: fn(&[u8]) -> Option<Cipher>) -> Vec<(String, Cipher)> {
        let keys = self.keys.iter();
        keys.filter_map(|key| Some((format!("{}:", key.name), make(&key.bytes())?))).collect()
    }
}

impl KmsConfig {
    fn check(&self, path: &Path<'_>, names: &mut HashSet<String>, errors: &mut FieldErrors) {
        let name = path.child("name");
        if self.name.is_empty() {
            errors.required(&name, "name is a mandatory field for a provider");
        } else if self.name.contains(':') {
            let why = format!("invalid KMS provider name {}, must not contain ':'", self.name);
            errors.invalid(&name, self.name.as_str(), &why);
        } else if !names.insert(self.name.clone()) {
            let why = format!("duplicate KMS provider name {}, names must be unique", self.name);
            errors.invalid(&name, self.name.as_str(), &why);
        }
        if let Some(timeout) = &self.timeout
            && !machinery::codec::parse_duration(timeout).is_ok_and(|nanos| nanos > 0)
        {
            errors.invalid(&path.child("timeout"), timeout.as_str(), "timeout should be a positive value");
        }
        let endpoint = path.child("endpoint");
        if self.endpoint.is_empty() {
            errors.invalid(&endpoint, "", "endpoint is a mandatory field for a kms");
        } else if !self.endpoint.starts_with("unix:") {
            let scheme = self.endpoint.split_once(':').map_or("", |(scheme, _)| scheme);
            let why = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
            errors.invalid(&endpoint, self.endpoint.as_str(), &why);
        }
        if let Some(size) = self.cache_size
            && self.api_version != "v1"
        {
            errors.invalid(&path.child("cachesize"), size, "cachesize is not supported in v2");
        }
        match self.api_version.as_str() {
            "v2" => {}
            "" | "v1" => errors.invalid(
                &path.child("apiVersion"),
                self.api_version.as_str(),
                "KMSv1 is deprecated and not supported by this server. Use KMSv2 instead",
            ),
            other => {
                let why =
                    format!("unsupported apiVersion {other} for KMS provider, only v1 and v2 are supported");
                errors.invalid(&path.child("apiVersion"), other, &why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(resources: &str) -> Result<Config, String> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
        Config::read(format!("{head}resources: {resources}").as_bytes())
    }

    #[test]
    fn files_are_checked_as_upstream_checks_them() {
        let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let good = format!(
            "[{{resources: [secrets, '*.apps'], providers: [{{secretbox: {{keys: [{{name: a, secret: {key}}}]}}}}, {{identity: {{}}}}]}}]"
        );
        let config = read(&good).unwrap();
        assert_eq!(config.entries[0].0, [("secrets".into(), String::new()), ("*".into(), "apps".into())]);
        let identity = "providers: [{identity: {}}]";
        for (resources, why) in [
            ("[]".to_owned(), "resources: Required value: at least one resources is required"),
            (format!("[{{resources: [Secrets], {identity}}}]"), "should not contain capital letters"),
            (format!("[{{resources: ['*'], {identity}}}]"), "use '*.' to encrypt all the resources"),
            (format!("[{{resources: ['pods.*'], {identity}}}]"), "encrypting the same resource across groups"),
            (format!("[{{resources: [secrets, '*.'], {identity}}}]"), "using overlapping resources"),
            (format!("[{{resources: [secrets, secrets], {identity}}}]"), "cannot be specified multiple times"),
            (
                format!("[{{resources: ['*.'], {identity}}}, {{resources: [secrets], {identity}}}]"),
                "resource \"secrets\" is masked by earlier rule \"*.\"",
            ),
            ("[{resources: [secrets], providers: [{}]}]".into(), PROVIDERS),
            (
                "[{resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: YQ==}]}}]}]".into(),
                "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 1, expected one of [16 24 32]",
            ),
            (
                "[{resources: [secrets], providers: [{kms: {apiVersion: v2, name: 'a:b', endpoint: 'tcp://x'}}]}]".into(),
                "must not contain ':'",
            ),
        ] {
            let error = read(&resources).map(|_| ()).unwrap_err();
            assert!(error.contains(why), "{resources}: {error}");
        }
        assert!(Config::read(b"kind: Pod\napiVersion: v1").is_err());
    }
}
