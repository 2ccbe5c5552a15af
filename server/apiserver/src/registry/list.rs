//! List: pages of one consistent snapshot.

use super::selectors::Selection;
use crate::ApiServer;
use crate::cache::{Entry, Match, continue_key};
use crate::http::options::{ListOptions, VersionMatch};
use crate::resolve::Resource;
use crate::status::ApiError;
use crate::storage::PATIENCE;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One answer to a list.
pub struct Page {
    pub revision: u64,
    pub items: Vec<Arc<Entry>>,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    /// -1: go on from the newest state, inconsistently.
    rv: i64,
    start: String,
}

impl ApiServer {
    pub(crate) async fn list(
        &self,
        resource: &Resource,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Page, ApiError> {
        let selection = Selection::read(resource, options)?;
        self.storage.all_readable(resource, namespace).await?;
        let limit = usize::try_from(options.limit).unwrap_or(0);
        let mut after = None;
        let snapshot = if let Some(token) = &options.continue_token {
            if options.resource_version.is_some_and(|rv| rv != 0) {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = decode(token)?;
            let start = token.start.trim_end_matches('\0').to_owned();
            let snapshot = match u64::try_from(token.rv) {
                Ok(0) => {
                    return Err(bad_token(
                        "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
                    ));
                }
                Ok(revision) => match resource.cache.snapshot_at(revision, Match::Exact, PATIENCE).await {
                    Err(crate::cache::CacheError::Expired { .. }) => return Err(expired_token(start)),
                    other => other?,
                },
                Err(_) => {
                    self.storage.cache().fresh(PATIENCE).await?;
                    resource.cache.snapshot()
                }
            };
            after = Some(start);
            snapshot
        } else {
            match (options.resource_version, options.resource_version_match) {
                (None, _) => {
                    self.storage.cache().fresh(PATIENCE).await?;
                    resource.cache.snapshot()
                }
                (Some(0), _) => resource.cache.snapshot(),
                (Some(revision), with) => {
                    let exact = with == VersionMatch::Exact || (with == VersionMatch::Unset && limit > 0);
                    let how = if exact { Match::Exact } else { Match::NotOlderThan };
                    match resource.cache.snapshot_at(revision, how, PATIENCE).await {
                        Err(crate::cache::CacheError::Expired { .. }) => {
                            return Err(ApiError::expired(
                                "The resourceVersion for the provided list is too old.",
                            ));
                        }
                        other => other?,
                    }
                }
            }
        };
        let mut page =
            Page { revision: snapshot.revision, items: Vec::new(), continue_token: None, remaining: None };
        if let Some(name) = selection.name()
            && (!resource.namespaced || !namespace.is_empty())
        {
            let found = snapshot.get(namespace, name).filter(|e| selection.matches(e));
            page.items.extend(found.cloned());
            return Ok(page);
        }
        if selection.reads_versions() {
            let all: Vec<Arc<Entry>> = snapshot.page(Some(namespace), after.as_deref()).cloned().collect();
            crate::crd::prepare(self, resource, &all).await?;
        }
        let mut entries = snapshot.page(Some(namespace), after.as_deref());
        let all = selection.is_empty();
        for entry in entries.by_ref() {
            if !all && !selection.matches(entry) {
                continue;
            }
            if limit > 0 && page.items.len() == limit {
                let last = page.items.last().map(|e| continue_key(e)).unwrap_or_default();
                page.continue_token = Some(encode(page.revision, &last));
                // Only countable where nothing is filtered; this entry counts too.
                page.remaining = all.then(|| 1 + entries.count());
                break;
            }
            page.items.push(entry.clone());
        }
        Ok(page)
    }
}

fn encode(revision: u64, start: &str) -> String {
    encode_raw(i64::try_from(revision).unwrap_or(i64::MAX), start)
}

fn encode_raw(rv: i64, start: &str) -> String {
    let token = Token { v: "meta.k8s.io/v1".into(), rv, start: format!("{start}\0") };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode(text: &str) -> Result<Token, ApiError> {
    let text = text.trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            _ => text.len(),
        };
        bad_token(&format!("illegal base64 data at input byte {at}"))
    })?;
    let token: Token = serde_json::from_slice(&bytes)
        .map_err(|e| bad_token(&machinery::codec::json::syntax_error(&e, &bytes).to_string()))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(bad_token(&format!("server does not recognize this encoded version {}", token.v)));
    }
    if token.start.is_empty() || token.start.contains("..") {
        return Err(bad_token("encoded start key empty (version meta.k8s.io/v1)"));
    }
    Ok(token)
}

fn bad_token(why: &str) -> ApiError {
    ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
}

fn expired_token(start: String) -> ApiError {
    let mut e = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    e.details.get_or_insert_default().continue_token = encode_raw(-1, &start);
    e
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_garbage_is_refused() {
        let token = decode(&encode(42, "ns/name")).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (42, "ns/name\0"));
        assert_eq!(decode("!!").err().unwrap().code, 400);
        assert_eq!(decode("e30").err().unwrap().code, 400);
    }
}
