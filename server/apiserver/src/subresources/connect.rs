//! Admission of a connection: as upstream, a plugin is shown the kind's options (what is asked of the connection), not
//! the object it goes to, and may change them. `PodExecOptions`, `PodAttachOptions`, `PodPortForwardOptions` and the
//! three kinds' proxy options are the shapes.

use crate::ApiServer;
use crate::admission::{Operation, Request};
use crate::chain::Call;
use crate::resolve::Resource;
use crate::status::ApiError;
use serde_json::{Map, Value};

/// The kind of a connection's options.
fn kind(resource: &str, subresource: &str) -> &'static str {
    match (resource, subresource) {
        (_, "exec") => "PodExecOptions",
        (_, "attach") => "PodAttachOptions",
        (_, "portforward") => "PodPortForwardOptions",
        ("nodes", _) => "NodeProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "PodProxyOptions",
    }
}

/// What the query (for proxies: the path) asks for, as an object of the options' kind.
fn options(call: &Call, resource: &str, subresource: &str, path: &str) -> Value {
    let mut options = Map::new();
    options.insert("kind".into(), kind(resource, subresource).into());
    options.insert("apiVersion".into(), "v1".into());
    match subresource {
        "exec" | "attach" => {
            for field in ["stdin", "stdout", "stderr", "tty"] {
                if call.query.flag(field) {
                    options.insert(field.into(), true.into());
                }
            }
            if let Some(container) = call.query.text("container") {
                options.insert("container".into(), container.into());
            }
            if subresource == "exec" {
                let command: Vec<Value> = call.query.all("command").map(Value::from).collect();
                options.insert("command".into(), command.into());
            }
        }
        "portforward" => {
            let ports = call.query.all("ports").flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok());
            let ports: Vec<Value> = ports.map(|p: i64| p.into()).collect();
            if !ports.is_empty() {
                options.insert("ports".into(), ports.into());
            }
        }
        _ if !path.is_empty() => {
            options.insert("path".into(), path.into());
        }
        _ => {}
    }
    options.into()
}

/// Asks admission, and gives the options as it leaves them. `path` is a proxy's.
pub(super) async fn admit(
    server: &ApiServer,
    call: &Call,
    resource: &Resource,
    namespace: &str,
    name: &str,
    path: &str,
) -> Result<Value, ApiError> {
    let subresource = call.info.subresource.as_str();
    let mut object = options(call, &resource.plural, subresource, path);
    let request = Request {
        operation: Operation::Connect,
        group: "",
        version: "v1",
        kind: kind(&resource.plural, subresource),
        resource: &resource.plural,
        subresource,
        namespace,
        name,
        old: None,
        options: &Value::Null,
        user: &call.user,
        dry_run: false,
        versions: None,
        notes: Default::default(),
    };
    server.admit(&request, &mut object).await?;
    server.admit_validating(&request, Some(&object)).await?;
    Ok(object)
}
