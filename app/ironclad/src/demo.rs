//! `ironclad demo`: the application of `examples/hello` on the running cluster.

use crate::cli::{Demo, Output};
use crate::control::Request;
use crate::place::Place;
use crate::{data_dir, images};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, discovery};
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const MANIFEST: &str = include_str!("../../../examples/hello/hello.yaml");
const IMAGE: &str = "ironclad.local/hello:1";
const NAMESPACE: &str = "hello";
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(demo: Demo) -> Result<()> {
    let kubeconfig = data_dir::kubeconfig_in(&demo.data_dir.data_dir);
    if demo.wait > 0 {
        // The socket opens once the API server serves.
        let socket = Place::of(&demo.data_dir.data_dir).control_socket();
        let started = async {
            while !kubeconfig.exists() || UnixStream::connect(&socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // The sentence below says what is missing.
        let _ = tokio::time::timeout(Duration::from_secs(demo.wait), started).await;
    }
    if !kubeconfig.exists() {
        bail!("no cluster in {}; start one with `ironclad up`", demo.data_dir.data_dir);
    }
    let client = client::remote(&kubeconfig).await?;
    if demo.delete {
        return delete(client).await;
    }
    let request = Request::ImportSelf { name: IMAGE.into(), arguments: vec!["hello".into()] };
    images::ask(&demo.data_dir, request, &[]).await.context("import the demo's image")?;
    apply(&client).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let available = |d: Option<&Deployment>| {
        let status = d.and_then(|d| d.status.as_ref());
        status.is_some_and(|s| s.available_replicas.unwrap_or(0) > 0)
    };
    tokio::time::timeout(PATIENCE, client::until(deployments, "hello", available))
        .await
        .context("the demo's pods did not become ready; see `kubectl describe pods -n hello`")??;
    let url = url(&client).await?;
    let answer = tokio::time::timeout(PATIENCE, answered(&url))
        .await
        .with_context(|| format!("{url} did not answer"))?;
    match demo.output {
        Output::Json => println!("{}", json!({"url": url, "answer": answer.trim()})),
        Output::Text => println!("{url} answers: {}", answer.trim()),
    }
    Ok(())
}

/// Server-side apply of every document of the manifest, in order.
async fn apply(client: &Client) -> Result<()> {
    for object in
        serde_saphyr::from_multiple::<DynamicObject>(MANIFEST).context("read the demo's manifest")?
    {
        let types = object.types.as_ref().context("a document without kind")?;
        let gvk = GroupVersionKind::try_from(types).context("a document without version")?;
        let (resource, capabilities) = discovery::pinned_kind(client, &gvk).await?;
        let api: Api<DynamicObject> = match capabilities.scope {
            discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
            discovery::Scope::Namespaced => Api::namespaced_with(client.clone(), NAMESPACE, &resource),
        };
        let name = object.metadata.name.clone().context("a document without name")?;
        let params = PatchParams::apply("ironclad-demo").force();
        api.patch(&name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("apply {} {name}", gvk.kind))?;
    }
    Ok(())
}

async fn url(client: &Client) -> Result<String> {
    let service = Api::<Service>::namespaced(client.clone(), NAMESPACE).get("hello").await?;
    let port =
        service.spec.and_then(|s| s.ports?.first()?.node_port).context("the service has no node port")?;
    let nodes = Api::<Node>::all(client.clone()).list(&Default::default()).await?;
    let addresses = nodes.items.into_iter().filter_map(|n| n.status?.addresses).flatten();
    let address =
        addresses.into_iter().find(|a| a.type_ == "InternalIP").context("no node has an address")?;
    Ok(format!("http://{}:{port}/", address.address))
}

/// The body, as soon as there is one: endpoints take a moment to reach the dataplane.
async fn answered(url: &str) -> String {
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    loop {
        let get = async {
            let mut stream = tokio::net::TcpStream::connect(&address).await?;
            stream.write_all(format!("GET / HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(2), get).await
            && let Some((head, body)) = answer.split_once("\r\n\r\n")
            && head.split_whitespace().nth(1) == Some("200")
        {
            return body.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn delete(client: Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client);
    match namespaces.delete(NAMESPACE, &DeleteParams::default()).await {
        Ok(_) => println!("deleting namespace {NAMESPACE}"),
        Err(kube::Error::Api(status)) if status.code == 404 => println!("the demo is not deployed"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
