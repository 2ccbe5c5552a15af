//! Paths and verbs.

use crate::discovery::{self, GROUP, VERSION};
use crate::front_proxy::{FrontProxy, User};
use crate::openapi;
use crate::shelf::{Event, Shelf};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::wrappers::BroadcastStream;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The server's state.
pub struct Library {
    front_proxy: FrontProxy,
    shelf: Arc<Shelf>,
}

fn reply(code: u16, media: &str, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(bytes)).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(media) = HeaderValue::from_str(media) {
        response.headers_mut().insert(CONTENT_TYPE, media);
    }
    response
}

fn object(code: u16, value: &Value) -> Response<Body> {
    reply(code, "application/json", value.to_string().into_bytes())
}

fn status(code: u16, reason: &str, message: String) -> Response<Body> {
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": message, "code": code});
    object(code, &value)
}

fn not_found(name: &str) -> Response<Body> {
    status(404, "NotFound", format!("books.{GROUP} {name:?} not found"))
}

fn accepts(headers: &HeaderMap, what: &str) -> bool {
    headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(what))
}

/// One that clients need not fetch twice.
fn document(headers: &HeaderMap, media: &str, value: &Value) -> Response<Body> {
    let tag = HeaderValue::from_static("\"1\"");
    if headers.get(IF_NONE_MATCH) == Some(&tag) {
        return reply(304, media, Vec::new());
    }
    let mut response = reply(200, media, value.to_string().into_bytes());
    response.headers_mut().insert(ETAG, tag);
    response
}

impl Library {
    pub fn new(front_proxy: FrontProxy) -> Arc<Self> {
        Arc::new(Self { front_proxy, shelf: Arc::default() })
    }

    pub async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Option<&CertificateDer<'_>>,
        h2: bool,
    ) -> Response<Body> {
        let path = request.uri().path().trim_matches('/').to_owned();
        if matches!(path.as_str(), "healthz" | "livez" | "readyz") {
            return reply(200, "text/plain", b"ok".to_vec());
        }
        let Some(user) = self.front_proxy.user(peer, request.headers()) else {
            return status(401, "Unauthorized", "Unauthorized".into());
        };
        let parts: Vec<&str> = path.split('/').collect();
        let headers = request.headers();
        let mut response = match parts.as_slice() {
            ["apis"] if accepts(headers, "as=APIGroupDiscoveryList") => {
                let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
                document(headers, media, &discovery::aggregated())
            }
            ["apis"] => object(200, &discovery::groups()),
            ["apis", GROUP] => object(200, &discovery::group(true)),
            ["apis", GROUP, VERSION] => object(200, &discovery::resources()),
            ["openapi", "v2"] => document(headers, "application/json", &openapi::v2()),
            ["openapi", "v3"] => document(headers, "application/json", &openapi::v3_index()),
            ["openapi", "v3", "apis", GROUP, VERSION] => {
                document(headers, "application/json", &openapi::v3())
            }
            ["apis", GROUP, VERSION, "books"] => self.books(request, "", "", &user).await,
            ["apis", GROUP, VERSION, "namespaces", namespace, "books"] => {
                self.books(request, namespace, "", &user).await
            }
            ["apis", GROUP, VERSION, "namespaces", namespace, "books", name] => {
                self.books(request, namespace, name, &user).await
            }
            ["apis", GROUP, VERSION, "namespaces", _, "books", _, "echo"] => echo(request),
            _ => status(404, "NotFound", "the server could not find the requested resource".into()),
        };
        let protocol = HeaderValue::from_static(if h2 { "h2" } else { "http/1.1" });
        response.headers_mut().insert("x-library-protocol", protocol);
        response
    }

    async fn books(
        &self,
        request: Request<Incoming>,
        namespace: &str,
        name: &str,
        user: &User,
    ) -> Response<Body> {
        let watch =
            request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "watch=true" || p == "watch=1"));
        let table = accepts(request.headers(), "as=Table");
        let shown = |code: u16, items: Vec<Value>, list: Option<u64>| match (table, list) {
            (true, revision) => object(code, &rows(&items, revision)),
            (false, None) => object(code, items.first().unwrap_or(&Value::Null)),
            (false, Some(revision)) => {
                let meta = json!({"resourceVersion": revision.to_string()});
                let list = json!({"kind": "BookList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": meta,
                    "items": items});
                object(code, &list)
            }
        };
        match (request.method(), name.is_empty()) {
            (&Method::GET, true) if watch => self.watch(namespace, table),
            (&Method::GET, true) => {
                let (all, revision) = self.shelf.list(namespace);
                shown(200, all, Some(revision))
            }
            (&Method::GET, false) => match self.shelf.get(namespace, name) {
                Some(book) => shown(200, vec![book], None),
                None => not_found(name),
            },
            (&Method::POST, true) => match body(request).await {
                Ok(book) => self.create(namespace, book, user),
                Err(refusal) => refusal,
            },
            (&Method::PUT, false) => match (self.shelf.get(namespace, name), body(request).await) {
                (Some(old), Ok(book)) => self.replace(namespace, name, &old, book),
                (None, _) => not_found(name),
                (_, Err(refusal)) => refusal,
            },
            (&Method::PATCH, false) => match (self.shelf.get(namespace, name), body(request).await) {
                (Some(old), Ok(patch)) => {
                    let mut book = old.clone();
                    merge(&mut book, &patch);
                    self.replace(namespace, name, &old, book)
                }
                (None, _) => not_found(name),
                (_, Err(refusal)) => refusal,
            },
            (&Method::DELETE, false) => match self.shelf.remove(namespace, name) {
                Some(book) => object(200, &book),
                None => not_found(name),
            },
            (&Method::DELETE, true) => {
                let (all, revision) = self.shelf.list(namespace);
                for book in &all {
                    let text = |f: &str| book["metadata"][f].as_str().unwrap_or_default();
                    self.shelf.remove(text("namespace"), text("name"));
                }
                shown(200, all, Some(revision))
            }
            _ => status(405, "MethodNotAllowed", "the server does not allow this method".into()),
        }
    }

    fn create(&self, namespace: &str, mut book: Value, user: &User) -> Response<Body> {
        let name = book["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            return status(422, "Invalid", "metadata.name: Required value: name is required".into());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        book["kind"] = "Book".into();
        book["apiVersion"] = format!("{GROUP}/{VERSION}").into();
        book["metadata"]["namespace"] = namespace.into();
        book["metadata"]["uid"] = format!("{:032x}", now.as_nanos()).into();
        book["metadata"]["creationTimestamp"] = timestamp(now.as_secs()).into();
        book["status"] = json!({"addedBy": user.name, "groups": user.groups, "extra": user.extra});
        match self.shelf.put(namespace, &name, book, true) {
            Some(book) => object(201, &book),
            None => status(409, "AlreadyExists", format!("books.{GROUP} {name:?} already exists")),
        }
    }

    fn replace(&self, namespace: &str, name: &str, old: &Value, mut book: Value) -> Response<Body> {
        let asked = book["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !asked.is_empty() && old["metadata"]["resourceVersion"] != asked {
            return status(409, "Conflict", format!("the object {name:?} has been modified"));
        }
        for field in ["name", "namespace", "uid", "creationTimestamp"] {
            book["metadata"][field] = old["metadata"][field].clone();
        }
        book["status"] = old["status"].clone();
        let stored = self.shelf.put(namespace, name, book, false);
        object(200, &stored.unwrap_or_default())
    }

    fn watch(&self, namespace: &str, table: bool) -> Response<Body> {
        let (now, later) = self.shelf.follow(namespace);
        let namespace = namespace.to_owned();
        let first = stream::iter(now).map(|book| Event { kind: "ADDED", book });
        // A client that fell behind is ended, and lists again.
        let later =
            BroadcastStream::new(later).take_while(|e| std::future::ready(e.is_ok())).filter_map(move |e| {
                let kept =
                    e.ok().filter(|e| namespace.is_empty() || e.book["metadata"]["namespace"] == *namespace);
                std::future::ready(kept)
            });
        let frames: BoxStream<'static, _> = first
            .chain(later)
            .map(move |e| {
                let object = if table { rows(&[e.book], None) } else { e.book };
                let line = format!("{}\n", json!({"type": e.kind, "object": object}));
                Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
            })
            .boxed();
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

async fn body(request: Request<Incoming>) -> Result<Value, Response<Body>> {
    let bad = |why: String| status(400, "BadRequest", why);
    let bytes = request.into_body().collect().await.map_err(|e| bad(e.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))
}

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        match (value, into.as_object_mut()) {
            (Value::Null, Some(map)) => {
                map.remove(key);
            }
            _ => merge(&mut into[key], value),
        }
    }
}

fn rows(books: &[Value], revision: Option<u64>) -> Value {
    let column = |name: &str, kind: &str, format: &str| json!({"name": name, "type": kind, "format": format, "description": "", "priority": 0});
    let row = |book: &Value| {
        let spec = &book["spec"];
        json!({
            "cells": [book["metadata"]["name"], spec["title"], spec["author"], spec["pages"]],
            "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": book["metadata"]},
        })
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": revision.map(|r| r.to_string()).unwrap_or_default()},
        "columnDefinitions": [column("Name", "string", "name"), column("Title", "string", ""),
            column("Author", "string", ""), column("Pages", "integer", "int32")],
        "rows": books.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Switches protocols and sends back what comes in.
fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let Some(protocol) = request.headers().get(UPGRADE).cloned() else {
        return status(400, "BadRequest", "Upgrade request required".into());
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let mut io = TokioIo::new(upgraded);
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = io.read(&mut buffer).await {
            if io.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    });
    let mut response = reply(101, "", Vec::new());
    response.headers_mut().remove(CONTENT_TYPE);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, protocol);
    response
}

/// RFC 3339 of a Unix time. Source: Howard Hinnant's `civil_from_days`.
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kubernetes_reads_them() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(1_709_210_096), "2024-02-29T12:34:56Z");
    }

    #[test]
    fn patches_take_away_too() {
        let mut book = json!({"spec": {"title": "a", "pages": 1}});
        merge(&mut book, &json!({"spec": {"pages": null, "author": "b"}}));
        assert_eq!(book, json!({"spec": {"title": "a", "author": "b"}}));
    }
}
