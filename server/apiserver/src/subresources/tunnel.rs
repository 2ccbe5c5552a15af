//! `pods/log`, `exec`, `attach`, `portforward`: streams from the kubelet of the pod's node. Upgraded connections
//! (WebSocket, SPDY) are passed through byte for byte.

use super::connect;
use super::proxy::{self, Upstream};
use crate::ApiServer;
use crate::chain::{Call, attributes, decide};
use crate::http::{Body, respond};
use crate::registry::meta;
use crate::resolve::Resource;
use crate::status::ApiError;
use http::{Method, Response};
use serde_json::Value;
use std::fmt::Write;
use std::sync::Arc;

pub(super) async fn handle(
    server: &ApiServer,
    call: &mut Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> Result<Response<Body>, ApiError> {
    if subresource != "log" && call.info.verb == "get" {
        // A WebSocket handshake is a GET, and yet starts something.
        let mut asked = attributes(&call.user, &call.info, &call.query);
        asked.verb = "create".into();
        decide(server, &asked).await?;
    }
    // Upstream's order: what is asked for is admitted before the pod is looked at.
    let options = match subresource {
        "log" => Value::Null,
        _ => connect::admit(server, call, resource, namespace, name, "").await?,
    };
    let entry = server.storage.get(resource, namespace, name).await?;
    let entry = entry.ok_or_else(|| ApiError::not_found("", "pods", name))?;
    let pod = entry.object().map_err(ApiError::internal)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        if subresource == "log" {
            return Ok(respond::text(200, ""));
        }
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let path = match subresource {
        "log" => log_path(call, &pod, namespace, name)?,
        "portforward" => {
            let ports = options["ports"].as_array().into_iter().flatten();
            let query: Vec<String> = ports.map(|p| format!("port={p}")).collect();
            format!("/portForward/{namespace}/{name}?{}", query.join("&"))
        }
        other => stream_path(&options, &pod, namespace, name, other)?,
    };
    let upstream = proxy::kubelet(server, node, &path).await?;
    let method = if subresource == "log" { Method::GET } else { call.parts.method.clone() };
    forward(call, upstream, method).await
}

async fn forward(call: &mut Call, upstream: Upstream, method: Method) -> Result<Response<Body>, ApiError> {
    let log = call.info.subresource == "log";
    let mut response = proxy::forward(call, upstream, method).await?;
    if log && response.status().is_success() {
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    } else if log && !response.status().is_success() {
        return Err(proxy::kubelet_error(response).await);
    }
    Ok(response)
}

/// The container meant: the one named, or the only one.
fn container(asked: Option<&str>, pod: &Value) -> Result<String, ApiError> {
    let name = meta::name(pod);
    let names = |list: &str| -> Vec<String> {
        let all = pod["spec"][list].as_array().into_iter().flatten();
        all.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let ephemeral = names("ephemeralContainers");
    if let Some(asked) = asked {
        let known = main.iter().chain(&init).chain(&ephemeral).any(|c| c == asked);
        if !known {
            return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")));
        }
        return Ok(asked.to_owned());
    }
    if let ([only], true, true) = (main.as_slice(), init.is_empty(), ephemeral.is_empty()) {
        return Ok(only.clone());
    }
    if let (Some(default), true) =
        (pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str(), !main.is_empty())
        && main.iter().any(|c| c == default)
    {
        return Ok(default.to_owned());
    }
    if let [only] = main.as_slice()
        && init.is_empty()
    {
        return Ok(only.clone());
    }
    let mut why =
        format!("a container name must be specified for pod {name}, choose one of: [{}]", main.join(" "));
    if !init.is_empty() {
        let _ = write!(why, " or one of the init containers: [{}]", init.join(" "));
    }
    if !ephemeral.is_empty() {
        let _ = write!(why, " or one of the ephemeral containers: [{}]", ephemeral.join(" "));
    }
    Err(ApiError::bad_request(why))
}

fn log_path(call: &Call, pod: &Value, namespace: &str, name: &str) -> Result<String, ApiError> {
    let container = container(call.query.text("container"), pod)?;
    let refuse = |text: &str| ApiError::invalid_options("PodLogOptions", text);
    for (field, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if call.query.integer(field)?.is_some_and(|n| n < least) {
            let bound =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            let value = call.query.get(field).unwrap_or_default();
            return Err(refuse(&format!("{field}: Invalid value: {value}: {bound}")));
        }
    }
    if call.query.text("sinceSeconds").is_some() && call.query.text("sinceTime").is_some() {
        return Err(refuse(": Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    let mut query = Vec::new();
    for field in ["follow", "previous", "timestamps"] {
        if call.query.flag(field) {
            query.push(format!("{field}=true"));
        }
    }
    for field in ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"] {
        if let Some(value) = call.query.text(field) {
            query.push(format!("{field}={}", escape(value)));
        }
    }
    Ok(format!("/containerLogs/{namespace}/{name}/{container}?{}", query.join("&")))
}

fn stream_path(
    options: &Value,
    pod: &Value,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> Result<String, ApiError> {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let container = container(options["container"].as_str(), pod)?;
    let mut query = Vec::new();
    for (option, kubelet) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if options[option] == true {
            query.push(format!("{kubelet}=1"));
        }
    }
    if subresource == "exec" {
        let commands = options["command"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let commands: Vec<String> = commands.map(|c| format!("command={}", escape(c))).collect();
        if commands.is_empty() {
            return Err(ApiError::bad_request("you must specify at least 1 container command"));
        }
        query.extend(commands);
    }
    Ok(format!("/{subresource}/{namespace}/{name}/{container}?{}", query.join("&")))
}

/// Percent-encodes a query value.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(b)),
            _ => {
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
    out
}
