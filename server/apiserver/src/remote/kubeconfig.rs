//! Kubeconfig files that name a webhook: the current context's cluster is the service, its user is this server.

use super::{Identity, Remote, RemoteError, Trust};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kit::pki::pem;
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Content { path: PathBuf, reason: String },
    #[error("{path}: {source}")]
    Client { path: PathBuf, source: RemoteError },
}

/// A webhook: whom to call, and where.
pub struct Service {
    pub remote: Remote,
    /// `clusters[].cluster.server`, path included: requests go to exactly this address.
    pub url: String,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({})", self.url)
    }
}

/// Reads the file, and the certificates and keys it names (relative to its own folder).
pub fn load(path: &Path) -> Result<Service, KubeconfigError> {
    let bad = |reason: String| KubeconfigError::Content { path: path.to_owned(), reason };
    let bytes =
        std::fs::read(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
    let config = machinery::codec::yaml::decode(&bytes).map_err(|e| bad(e.to_string()))?;
    let named = |list: &str, member: &str, name: &str| -> Result<Value, KubeconfigError> {
        let all = config[list].as_array().into_iter().flatten();
        let mut found = all.filter(|e| e["name"] == name);
        let missing = || bad(format!("there is no {member} {name:?}"));
        found.next().map(|e| e[member].clone()).ok_or_else(missing)
    };
    let current = config["current-context"].as_str().unwrap_or_default();
    let context = if current.is_empty() {
        return Err(bad("current-context is not set".into()));
    } else {
        named("contexts", "context", current)?
    };
    let cluster = named("clusters", "cluster", context["cluster"].as_str().unwrap_or_default())?;
    let user = match context["user"].as_str().filter(|u| !u.is_empty()) {
        Some(user) => named("users", "user", user)?,
        None => Value::Null,
    };
    let url = cluster["server"].as_str().unwrap_or_default().to_owned();
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(bad(format!("the cluster's server {url:?} is not a URL such as https://host/path")));
    }
    for unsupported in ["proxy-url"] {
        if !cluster[unsupported].is_null() {
            return Err(bad(format!("{unsupported} is not supported")));
        }
    }
    for unsupported in ["exec", "auth-provider", "as"] {
        if !user[unsupported].is_null() {
            return Err(bad(format!("{unsupported} is not supported for a webhook's user")));
        }
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    // `<name>-data` holds the content in base64 and comes before the file `<name>`.
    let content = |of: &Value, name: &str| -> Result<Option<Vec<u8>>, KubeconfigError> {
        if let Some(data) = of[format!("{name}-data")].as_str().filter(|d| !d.is_empty()) {
            return STANDARD.decode(data).map(Some).map_err(|_| bad(format!("{name}-data is not base64")));
        }
        let Some(file) = of[name].as_str().filter(|f| !f.is_empty()) else { return Ok(None) };
        let file = folder.join(file);
        std::fs::read(&file).map(Some).map_err(|source| KubeconfigError::Read { path: file, source })
    };
    let trust = match content(&cluster, "certificate-authority")? {
        _ if cluster["insecure-skip-tls-verify"] == true => Trust::Nobody,
        Some(text) => Trust::Bundle(pem::certificates(&text).map_err(|e| bad(e.to_string()))?),
        None => Trust::System,
    };
    let certificate = match (content(&user, "client-certificate")?, content(&user, "client-key")?) {
        (Some(chain), Some(key)) => Some((
            pem::certificates(&chain).map_err(|e| bad(e.to_string()))?,
            pem::private_key(&key).map_err(|e| bad(e.to_string()))?,
        )),
        (None, None) => None,
        _ => return Err(bad("client-certificate and client-key belong together".into())),
    };
    let text = |name: &str| user[name].as_str().filter(|t| !t.is_empty());
    let authorization = match (text("token"), text("tokenFile"), text("username")) {
        (Some(token), _, _) => Some(format!("Bearer {token}")),
        (None, Some(file), _) => {
            let file = folder.join(file);
            let token = std::fs::read_to_string(&file)
                .map_err(|source| KubeconfigError::Read { path: file, source })?;
            Some(format!("Bearer {}", token.trim()))
        }
        (None, None, Some(name)) => {
            let pair = format!("{name}:{}", text("password").unwrap_or_default());
            Some(format!("Basic {}", STANDARD.encode(pair)))
        }
        _ => None,
    };
    let server_name = cluster["tls-server-name"].as_str().filter(|n| !n.is_empty()).map(str::to_owned);
    let remote = Remote::new(&trust, Identity { certificate, authorization, server_name })
        .map_err(|source| KubeconfigError::Client { path: path.to_owned(), source })?;
    Ok(Service { remote, url })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kit::pki::{Authority, LeafSpec};

    fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("webhook.kubeconfig");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn config(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: a\n  cluster: {cluster}\nusers:\n- name: b\n  user: {user}\n\
             contexts:\n- name: c\n  context: {{cluster: a, user: b}}\ncurrent-context: c\n"
        )
    }

    #[test]
    fn a_service_is_read_with_its_certificates() {
        let ca = Authority::generate("ca").unwrap();
        let leaf = ca.issue(&LeafSpec::client("kube-apiserver", &[])).unwrap();
        let cluster =
            r#"{server: "https://authz.example.com/authorize", certificate-authority: ca.pem}"#.to_owned();
        let user = format!(
            "{{client-certificate-data: {}, client-key-data: {}}}",
            STANDARD.encode(leaf.certificate_pem()),
            STANDARD.encode(leaf.key_pem())
        );
        let (dir, path) = write(&config(&cluster, &user));
        assert!(matches!(load(&path), Err(KubeconfigError::Read { .. })));
        std::fs::write(dir.path().join("ca.pem"), ca.certificate_pem()).unwrap();
        assert_eq!(load(&path).unwrap().url, "https://authz.example.com/authorize");
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let refused = |text: &str| {
            let (_keep, path) = write(text);
            load(&path).unwrap_err().to_string()
        };
        assert!(refused("{}").ends_with("current-context is not set"));
        let plain = "{server: 'https://h', insecure-skip-tls-verify: true}";
        assert!(refused(&config(plain, "{exec: {command: x}}")).contains("exec is not supported"));
        assert!(refused(&config("{server: h}", "{}")).contains("is not a URL"));
        assert!(refused(&config(plain, "{client-certificate-data: AAAA}")).contains("belong together"));
        assert!(
            refused(&config(plain, "{}").replace("current-context: c", "current-context: x"))
                .contains("no context")
        );
        assert!(load(Path::new("/nonexistent")).is_err());
    }
}
