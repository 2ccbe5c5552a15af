//! What a request is about, read off its method and path: upstream's `RequestInfo`.

use crate::status::ApiError;
use http::Method;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub resource_request: bool,
    /// The path as sent.
    pub path: String,
    /// The verb authorization sees.
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource, as for `/proxy/<path>`.
    pub rest: String,
    /// The legacy `/watch/` prefix was used.
    pub legacy_watch: bool,
}

impl RequestInfo {
    /// Reads method and path; `query` decides between list and watch and narrows a list to one name.
    pub fn read(method: &Method, path: &str, query: &[(String, String)]) -> Result<Self, ApiError> {
        let mut info = Self { path: path.to_owned(), verb: lower(method), ..Self::default() };
        let trimmed = path.trim_matches('/');
        let mut parts: Vec<&str> = if trimmed.is_empty() { Vec::new() } else { trimmed.split('/').collect() };
        match parts.first() {
            Some(&"api") if parts.len() >= 3 => {
                parts.remove(0);
            }
            Some(&"apis") if parts.len() >= 4 => {
                info.group = decode(parts[1])?;
                parts.drain(..2);
            }
            _ => return Ok(info),
        }
        info.resource_request = true;
        info.version = decode(parts.remove(0))?;
        info.verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            Method::GET | Method::HEAD => "get",
            _ => "",
        };
        if parts[0] == "watch" {
            if parts.len() < 2 {
                return Err(ApiError::bad_request(format!(
                    "unable to determine kind and namespace from url, {path}"
                )));
            }
            info.legacy_watch = true;
            info.verb = "watch";
            parts.remove(0);
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = decode(parts[1])?;
            if parts.len() > 2 && parts[2] != "status" && parts[2] != "finalize" {
                parts.drain(..2);
            }
        }
        info.resource = decode(parts[0])?;
        if let Some(name) = parts.get(1) {
            info.name = decode(name)?;
        }
        if let Some(sub) = parts.get(2) {
            info.subresource = decode(sub)?;
        }
        if parts.len() > 3 {
            info.rest = parts[3..].join("/");
        }
        // A namespace is addressed by its name, but authorized inside itself, as upstream does.
        if info.name.is_empty() {
            let get = |k: &str| query.iter().find(|(key, _)| key == k).map(|(_, v)| v.as_str());
            if info.verb == "get" {
                info.verb = "list";
                if get("watch").is_some_and(super::options::truthy) {
                    info.verb = "watch";
                }
            }
            if info.verb == "delete" {
                info.verb = "deletecollection";
            }
        }
        Ok(info)
    }

    pub fn is_watch(&self) -> bool {
        self.verb == "watch"
    }
}

fn lower(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

fn decode(segment: &str) -> Result<String, ApiError> {
    percent_decode(segment).ok_or_else(|| ApiError::bad_request(format!("invalid URL escape in {segment:?}")))
}

/// Percent-decodes; `None` for broken escapes or bytes that are not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == b'%' {
            let hex = bytes.get(i + 1..i + 3)?;
            out.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, path: &str, query: &str) -> RequestInfo {
        let method = method.parse().unwrap();
        RequestInfo::read(&method, path, &crate::http::options::pairs(query)).unwrap()
    }

    #[test]
    fn upstreams_table() {
        type Row = (
            &'static str,
            &'static str,
            &'static str,
            &'static str,
            &'static str,
            &'static str,
            &'static str,
            &'static str,
        );
        #[rustfmt::skip]
        let rows: &[Row] = &[
            ("GET", "/api/v1/namespaces", "", "list", "", "namespaces", "", ""),
            ("GET", "/api/v1/namespaces/other", "", "get", "other", "namespaces", "", "other"),
            ("GET", "/api/v1/namespaces/other/pods", "", "list", "other", "pods", "", ""),
            ("GET", "/api/v1/namespaces/other/pods?watch", "watch=1", "watch", "other", "pods?watch", "", ""),
            ("GET", "/api/v1/namespaces/other/pods/foo", "", "get", "other", "pods", "", "foo"),
            ("GET", "/api/v1/namespaces/other/pods/foo/log", "", "get", "other", "pods", "log", "foo"),
            ("HEAD", "/api/v1/namespaces/other/pods/foo", "", "get", "other", "pods", "", "foo"),
            ("GET", "/api/v1/watch/pods", "", "watch", "", "pods", "", ""),
            ("GET", "/api/v1/watch/namespaces/other/pods", "", "watch", "other", "pods", "", ""),
            ("PUT", "/api/v1/namespaces/other/finalize", "", "update", "other", "namespaces", "finalize", "other"),
            ("DELETE", "/api/v1/nodes", "", "deletecollection", "", "nodes", "", ""),
            ("POST", "/apis/apps/v1/namespaces/d/deployments", "", "create", "d", "deployments", "", ""),
        ];
        for (method, path, query, verb, namespace, resource, subresource, name) in rows {
            let i = read(method, path, query);
            assert!(i.resource_request, "{path}");
            assert_eq!(
                (i.verb, &*i.namespace, &*i.resource, &*i.subresource, &*i.name),
                (*verb, *namespace, *resource, *subresource, *name),
                "{path}"
            );
        }
        for path in
            ["/", "/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v2"]
        {
            assert!(!read("GET", path, "").resource_request, "{path}");
        }
        assert_eq!(read("GET", "/api/v1/nodes/n/proxy/a/b", "").rest, "a/b");
    }
}
