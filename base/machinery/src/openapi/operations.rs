//! Operations and their parameters.

use serde_json::{Map, Value, json};

use super::Dialect;

const MEDIA: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const WATCH: &[&str] = &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCH: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Query and path parameters: name, type, description.
const PARAMETERS: &[(&str, &str, &str)] = &[
    ("allowWatchBookmarks", "boolean", "Ask for BOOKMARK events in a watch."),
    ("command", "string", "The command to run, one argument each."),
    ("container", "string", "The container; may be left out where the pod has only one."),
    ("continue", "string", "The token of the previous page."),
    ("dryRun", "string", "`All`: run every stage, persist nothing."),
    ("fieldManager", "string", "The name of the actor making the change, at most 128 printable characters."),
    ("fieldSelector", "string", "Restrict the result by fields."),
    (
        "fieldValidation",
        "string",
        "What to do with unknown and duplicate fields: `Ignore`, `Warn` or `Strict`.",
    ),
    ("follow", "boolean", "Keep the log open."),
    ("force", "boolean", "Take over fields that others manage; for apply patches only."),
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted; zero means at once."),
    ("insecureSkipTLSVerifyBackend", "boolean", "Do not verify the node's certificate."),
    ("labelSelector", "string", "Restrict the result by labels."),
    ("limit", "integer", "At most that many objects in one answer."),
    ("limitBytes", "integer", "At most that many bytes of log."),
    ("name", "string", "Name of the object."),
    ("namespace", "string", "Namespace of the object."),
    ("path", "string", "The path to ask for."),
    ("ports", "integer", "The ports to forward."),
    ("pretty", "string", "`true`: indent the answer."),
    ("previous", "boolean", "The log of the container's previous run."),
    ("propagationPolicy", "string", "`Orphan`, `Background` or `Foreground`."),
    ("resourceVersion", "string", "The version to read at, or to watch from."),
    ("resourceVersionMatch", "string", "How to read `resourceVersion`: `Exact` or `NotOlderThan`."),
    ("sendInitialEvents", "boolean", "Begin the watch with the objects there are, then a bookmark."),
    ("sinceSeconds", "integer", "Only lines younger than that."),
    ("stderr", "boolean", "Redirect the standard error stream."),
    ("stdin", "boolean", "Redirect the standard input stream."),
    ("stdout", "boolean", "Redirect the standard output stream."),
    ("stream", "string", "`All`, `Stdout` or `Stderr`."),
    ("tailLines", "integer", "Only that many lines from the end."),
    ("timeoutSeconds", "integer", "End the call after that time, however far it is."),
    ("timestamps", "boolean", "Begin each line with its time."),
    ("tty", "boolean", "Give the process a terminal."),
    ("watch", "boolean", "Watch for changes instead of listing."),
];

pub(super) const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const DELETE_COLLECTION: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "limit",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];

/// One parameter, spelt out.
fn parameter(dialect: Dialect, name: &str) -> Value {
    let (_, ty, description) =
        PARAMETERS.iter().find(|p| p.0 == name).copied().unwrap_or((name, "string", ""));
    let place = if matches!(name, "name" | "namespace") { "path" } else { "query" };
    let mut out = json!({"name": name, "in": place, "description": description});
    if dialect == Dialect::V2 {
        out["type"] = ty.into();
        out["uniqueItems"] = true.into();
    } else {
        out["schema"] = json!({"type": ty, "uniqueItems": true});
    }
    if place == "path" {
        out["required"] = true.into();
    }
    out
}

/// Parameters by name. In v2 they refer to the shared ones, except those that kubectl looks for in place.
pub(super) fn parameters(dialect: Dialect, names: &[&str]) -> Vec<Value> {
    let refer = |name: &str| dialect == Dialect::V2 && !matches!(name, "dryRun" | "fieldValidation" | "name");
    let one = |name: &&str| {
        if refer(name) { json!({"$ref": format!("#/parameters/{name}")}) } else { parameter(dialect, name) }
    };
    names.iter().map(one).collect()
}

/// The shared parameters of the v2 document.
pub(super) fn shared() -> Value {
    let all =
        PARAMETERS.iter().filter(|(name, _, _)| !matches!(*name, "dryRun" | "fieldValidation" | "name"));
    Value::Object(all.map(|(name, _, _)| (name.to_string(), parameter(Dialect::V2, name))).collect())
}

/// What an operation does; decides its parameters, bodies and answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Get,
    List,
    Post,
    Put,
    Patch,
    Delete,
    DeleteCollection,
    Connect,
    /// Text, as of a log.
    Read,
    /// Discovery.
    Plain,
}

pub(super) struct Operation<'a> {
    pub action: Action,
    pub id: String,
    pub tag: String,
    pub description: String,
    /// Group, version, kind.
    pub gvk: Option<(&'a str, &'a str, &'a str)>,
    /// Definition of the body, where there is one.
    pub body: Option<String>,
    /// Definition of the answer; none is text.
    pub answer: Option<String>,
}

impl Operation<'_> {
    pub(super) fn build(&self, dialect: Dialect) -> Value {
        let mut out = Map::new();
        out.insert("description".into(), self.description.clone().into());
        out.insert("operationId".into(), self.id.clone().into());
        out.insert("tags".into(), json!([self.tag]));
        let word = match self.action {
            Action::Get | Action::Read => "get",
            Action::List => "list",
            Action::Post => "post",
            Action::Put => "put",
            Action::Patch => "patch",
            Action::Delete => "delete",
            Action::DeleteCollection => "deletecollection",
            Action::Connect => "connect",
            Action::Plain => "",
        };
        if !word.is_empty() {
            out.insert("x-kubernetes-action".into(), word.into());
        }
        if let Some((group, version, kind)) = self.gvk {
            let gvk = json!({"group": group, "kind": kind, "version": version});
            out.insert("x-kubernetes-group-version-kind".into(), gvk);
        }
        let names: &[&str] = match self.action {
            Action::List => LIST,
            Action::Post | Action::Put => &["dryRun", "fieldManager", "fieldValidation"],
            Action::Patch => &["dryRun", "fieldManager", "fieldValidation", "force"],
            Action::Delete => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
            Action::DeleteCollection => DELETE_COLLECTION,
            _ => &[],
        };
        let mut parameters = parameters(dialect, names);
        let needed = !matches!(self.action, Action::Delete | Action::DeleteCollection);
        let taken = if self.action == Action::Patch { PATCH } else { &["*/*"] };
        if let Some(body) = &self.body {
            if dialect == Dialect::V2 {
                let mut body = json!({"in": "body", "name": "body", "schema": dialect.reference(body)});
                if needed {
                    body["required"] = true.into();
                }
                parameters.insert(0, body);
            } else {
                let content =
                    taken.iter().map(|t| (t.to_string(), json!({"schema": dialect.reference(body)})));
                let mut made = json!({"content": content.collect::<Map<_, _>>()});
                if needed {
                    made["required"] = true.into();
                }
                out.insert("requestBody".into(), made);
            }
        }
        if !parameters.is_empty() {
            out.insert("parameters".into(), Value::Array(parameters));
        }
        let mut given: Vec<&str> = match self.action {
            Action::Connect => vec!["*/*"],
            Action::Read => vec!["text/plain"],
            _ => MEDIA.to_vec(),
        };
        if self.action == Action::List {
            given.extend(WATCH);
        }
        if dialect == Dialect::V2 {
            out.insert("consumes".into(), json!(taken));
            out.insert("produces".into(), json!(given));
            out.insert("schemes".into(), json!(["https"]));
        }
        out.insert("responses".into(), self.answers(dialect, &given));
        Value::Object(out)
    }

    fn answers(&self, dialect: Dialect, given: &[&str]) -> Value {
        let schema = self.answer.as_ref().map_or_else(|| json!({"type": "string"}), |a| dialect.reference(a));
        let codes: &[(&str, &str)] = match self.action {
            Action::Post => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            Action::Put | Action::Patch => &[("200", "OK"), ("201", "Created")],
            Action::Delete => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let mut out = Map::new();
        for (code, word) in codes {
            let answer = if dialect == Dialect::V2 {
                json!({"description": word, "schema": schema})
            } else {
                let content = given.iter().map(|t| (t.to_string(), json!({"schema": schema})));
                json!({"description": word, "content": content.collect::<Map<_, _>>()})
            };
            out.insert(code.to_string(), answer);
        }
        out.insert("401".into(), json!({"description": "Unauthorized"}));
        Value::Object(out)
    }
}
