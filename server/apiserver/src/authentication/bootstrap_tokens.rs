//! Bootstrap tokens: `<id>.<secret>`, kept in Secrets of kube-system, with which new nodes join.

use super::{AuthenticationError, TokenAnswer, TokenAuthenticator, UserInfo};
use crate::reader::{Reader, parse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use ring::digest::{SHA256, digest};
use std::sync::Arc;

const NAMESPACE: &str = "kube-system";
const GROUP: &str = "system:bootstrappers";

pub struct BootstrapTokens {
    reader: Arc<dyn Reader>,
}

impl BootstrapTokens {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader }
    }
}

/// `[a-z0-9]{6}.[a-z0-9]{16}`
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

impl TokenAuthenticator for BootstrapTokens {
    fn authenticate_token(
        &self,
        token: &str,
        _: &[String],
    ) -> Result<Option<TokenAnswer>, AuthenticationError> {
        let Some((id, secret)) = split(token) else { return Ok(None) };
        let Some(entry) = self.reader.get("", "secrets", NAMESPACE, &format!("bootstrap-token-{id}")) else {
            return Ok(None);
        };
        let object = parse(&entry);
        let data = |key: &str| {
            let encoded = object["data"][key].as_str().unwrap_or("");
            STANDARD.decode(encoded).ok().and_then(|v| String::from_utf8(v).ok()).unwrap_or_default()
        };
        // Digests, so that comparing takes the same time whatever matches.
        let same = digest(&SHA256, data("token-secret").as_bytes()).as_ref()
            == digest(&SHA256, secret.as_bytes()).as_ref();
        let usable = object["type"] == "bootstrap.kubernetes.io/token"
            && object["metadata"]["deletionTimestamp"].is_null()
            && data("token-id") == id
            && data("usage-bootstrap-authentication") == "true"
            && same;
        if !usable {
            return Ok(None);
        }
        let expiration = data("expiration");
        if !expiration.is_empty() {
            let until = DateTime::parse_from_rfc3339(&expiration);
            if !until.is_ok_and(|until| until.with_timezone(&Utc) > Utc::now()) {
                return Ok(None);
            }
        }
        let mut groups = vec![GROUP.to_owned()];
        let extra = data("auth-extra-groups");
        for group in extra.split(',').map(str::trim).filter(|g| !g.is_empty()) {
            if !group.starts_with("system:bootstrappers:") {
                return Err(AuthenticationError(format!("bootstrap token {id:?} names the group {group:?}")));
            }
            groups.push(group.to_owned());
        }
        let user = UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() };
        Ok(Some(TokenAnswer { user, audiences: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::fake::FakeCluster;
    use serde_json::json;

    fn ask(changes: &[(&str, &str)]) -> Result<Option<UserInfo>, AuthenticationError> {
        let mut data = serde_json::Map::new();
        let defaults = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:workers"),
        ];
        for (key, value) in defaults.iter().chain(changes) {
            data.insert((*key).into(), STANDARD.encode(value).into());
        }
        let cluster = FakeCluster::new();
        let metadata = json!({"namespace": "kube-system", "name": "bootstrap-token-abcdef"});
        cluster.put(
            "",
            "secrets",
            json!({"metadata": metadata, "type": "bootstrap.kubernetes.io/token", "data": data}),
        );
        let tokens = BootstrapTokens::new(cluster);
        assert_eq!(tokens.authenticate_token("abcdef.0123456789abcdeX", &[]), Ok(None));
        assert_eq!(tokens.authenticate_token("abcdee.0123456789abcdef", &[]), Ok(None));
        tokens.authenticate_token("abcdef.0123456789abcdef", &[]).map(|a| a.map(|a| a.user))
    }

    #[test]
    fn only_whole_unexpired_tokens_work() {
        let user = ask(&[]).unwrap().unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:workers"]);
        assert!(ask(&[("expiration", "2999-01-01T00:00:00Z")]).unwrap().is_some());
        for bad in [
            ("expiration", "2020-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("usage-bootstrap-authentication", "false"),
            ("token-secret", "0123456789abcdee"),
            ("token-id", "other1"),
        ] {
            assert_eq!(ask(&[bad]), Ok(None), "{bad:?}");
        }
        assert!(ask(&[("auth-extra-groups", "system:masters")]).is_err());
    }
}
