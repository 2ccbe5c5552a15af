//! What a book is, for `kubectl explain` and client-side validation.

use crate::discovery::{GROUP, VERSION};
use serde_json::{Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const BOOK: &str = "com.example.library.v1.Book";

fn book(prefix: &str) -> Value {
    json!({
        "description": "Book is something to read.",
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string", "description": "APIVersion defines the versioned schema of this object."},
            "kind": {"type": "string", "description": "Kind is what the object represents."},
            "metadata": {"allOf": [{"$ref": format!("{prefix}{META}")}], "description": "Standard object's metadata."},
            "spec": {"type": "object", "description": "What it is.", "properties": {
                "title": {"type": "string", "description": "Title is what is printed on it."},
                "author": {"type": "string", "description": "Author wrote it."},
                "pages": {"type": "integer", "format": "int32", "description": "Pages is how long it takes."},
            }},
            "status": {"type": "object", "description": "What became of it.", "properties": {
                "addedBy": {"type": "string", "description": "AddedBy is the user who put it on the shelf."},
            }},
        },
        "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": "Book"}],
    })
}

fn meta() -> Value {
    json!({"type": "object", "description": "ObjectMeta is metadata that all objects have.",
        "properties": {"name": {"type": "string"}, "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}}}})
}

fn operation(action: &str, reference: Value, v3: bool) -> Value {
    let kind = json!({"group": GROUP, "version": VERSION, "kind": "Book"});
    let answer = if v3 {
        json!({"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}})
    } else {
        json!({"200": {"description": "OK", "schema": reference}})
    };
    json!({"operationId": format!("{action}LibraryExampleComV1NamespacedBook"), "responses": answer,
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind})
}

fn paths(prefix: &str, v3: bool) -> Value {
    let reference = json!({"$ref": format!("{prefix}{BOOK}")});
    let all = format!("/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/books");
    let one = format!("{all}/{{name}}");
    let op = |action: &str| operation(action, reference.clone(), v3);
    json!({all: {"get": op("list"), "post": op("post")}, one: {"get": op("get"), "put": op("put"),
        "patch": op("patch"), "delete": op("delete")}})
}

pub fn v2() -> Value {
    let prefix = "#/definitions/";
    let mut book = book(prefix);
    // Swagger has no siblings of a reference.
    book["properties"]["metadata"] = json!({"$ref": format!("{prefix}{META}")});
    json!({"swagger": "2.0", "info": {"title": "library", "version": "v1"}, "paths": paths(prefix, false),
        "definitions": {BOOK: book, META: meta()}})
}

pub fn v3_index() -> Value {
    let path = format!("apis/{GROUP}/{VERSION}");
    json!({"paths": {&path: {"serverRelativeURL": format!("/openapi/v3/{path}?hash=1")}}})
}

pub fn v3() -> Value {
    let prefix = "#/components/schemas/";
    json!({"openapi": "3.0.0", "info": {"title": "library", "version": "v1"}, "paths": paths(prefix, true),
        "components": {"schemas": {BOOK: book(prefix), META: meta()}}})
}
