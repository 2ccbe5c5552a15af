//! Content negotiation: the encodings the server speaks and the transformations a client may ask for.

use crate::status::ApiError;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// `as=...;g=meta.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    None,
    /// The version (`v1` or `v1beta1`) it is wanted in.
    Table(&'static str),
    Partial(&'static str),
}

/// The outcome for one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub encoding: Encoding,
    pub transform: Transform,
    pub pretty: bool,
}

impl Default for Negotiated {
    fn default() -> Self {
        Self { encoding: Encoding::Json, transform: Transform::None, pretty: false }
    }
}

/// One clause of an Accept header.
#[derive(Debug)]
pub struct Clause<'a> {
    pub media: &'a str,
    pub params: Vec<(&'a str, &'a str)>,
    q: f32,
}

impl<'a> Clause<'a> {
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }
}

/// The clauses of an Accept header, best first.
pub fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut out: Vec<Clause<'_>> = accept
        .split(',')
        .filter(|c| !c.trim().is_empty())
        .map(|clause| {
            let mut pieces = clause.split(';').map(str::trim);
            let media = pieces.next().unwrap_or_default();
            let params: Vec<(&str, &str)> = pieces
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.trim(), v.trim_matches('"')))
                .collect();
            let q = params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
            Clause { media, params, q }
        })
        .collect();
    // Stable: equal weights keep the client's order, wildcards go last.
    out.sort_by(|a, b| b.q.total_cmp(&a.q).then_with(|| wildcards(a.media).cmp(&wildcards(b.media))));
    out
}

fn wildcards(media: &str) -> usize {
    media.matches('*').count()
}

/// The Accept header of a request, `*/*` where there is none.
pub fn accept(headers: &HeaderMap) -> &str {
    headers.get(ACCEPT).and_then(|v| v.to_str().ok()).filter(|v| !v.trim().is_empty()).unwrap_or("*/*")
}

/// Chooses the response's encoding. `transforms`: Table and PartialObjectMetadata are on offer. `protobuf`: the
/// kind has a protobuf form.
pub fn negotiate(headers: &HeaderMap, transforms: bool, protobuf: bool) -> Result<Negotiated, ApiError> {
    let offers: &[&str] = if protobuf { &[JSON, YAML, PROTOBUF] } else { &[JSON, YAML] };
    for clause in clauses(accept(headers)) {
        let encoding = match clause.media.to_ascii_lowercase().as_str() {
            JSON | "*/*" | "application/*" => Encoding::Json,
            YAML => Encoding::Yaml,
            PROTOBUF if protobuf => Encoding::Protobuf,
            _ => continue,
        };
        let transform = match clause.param("as") {
            None => Transform::None,
            Some(kind) => {
                let version = match clause.param("v") {
                    Some("v1") => "v1",
                    Some("v1beta1") => "v1beta1",
                    _ => continue,
                };
                if !transforms || clause.param("g") != Some("meta.k8s.io") {
                    continue;
                }
                match kind {
                    "Table" => Transform::Table(version),
                    "PartialObjectMetadata" | "PartialObjectMetadataList" => Transform::Partial(version),
                    _ => continue,
                }
            }
        };
        return Ok(Negotiated { encoding, transform, pretty: false });
    }
    Err(ApiError::not_acceptable(offers))
}

/// The encoding of a request's body.
pub fn input(headers: &HeaderMap, protobuf: bool) -> Result<Encoding, ApiError> {
    let media = content_type(headers);
    match media.as_str() {
        "" | JSON => Ok(Encoding::Json),
        YAML => Ok(Encoding::Yaml),
        PROTOBUF if protobuf => Ok(Encoding::Protobuf),
        _ => {
            let mut offers = vec![JSON, YAML];
            if protobuf {
                offers.push(PROTOBUF);
            }
            Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                offers.join(", ")
            )))
        }
    }
}

/// The media type of a request's body, lower case, without parameters.
pub fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(accept: &str) -> Result<Negotiated, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        negotiate(&headers, true, true)
    }

    #[test]
    fn kubectl_and_client_go() {
        let n = choose(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
             application/json",
        );
        assert_eq!(n.unwrap().transform, Transform::Table("v1"));
        let n = choose("application/vnd.kubernetes.protobuf,application/json").unwrap();
        assert_eq!(n.encoding, Encoding::Protobuf);
        let n = choose("application/json;as=Nothing;v=v1;g=meta.k8s.io, */*;q=0.1").unwrap();
        assert_eq!((n.encoding, n.transform), (Encoding::Json, Transform::None));
        assert_eq!(choose("text/html").unwrap_err().code, 406);
        assert_eq!(choose("text/html,*/*;q=0.8").unwrap().encoding, Encoding::Json);
    }
}
