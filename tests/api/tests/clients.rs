//! Real clients: Python's and JavaScript's as their registries have them, kube-rs, and an operator over it.
//!
//! The first two are where `.ci/run` puts them, below `IRONCLAD_CLIENTS` or `/opt/ironclad-clients`; without them their
//! tests say so. kubectl has a suite of its own in `tests/blackbox`.

use anyhow::{Context, Result, ensure};
use api::case::eventually;
use api::subject::Subject;
use blackbox::skipped;
use operator::Site;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

fn installed(path: &str) -> PathBuf {
    let base =
        std::env::var_os("IRONCLAD_CLIENTS").map_or_else(|| "/opt/ironclad-clients".into(), PathBuf::from);
    base.join(path)
}

fn missing(path: &Path, what: &str) -> Option<String> {
    (!path.exists()).then(|| format!("{what} is not installed at {}", path.display()))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

async fn run(mut command: Command, words: &str) -> Result<()> {
    let subject = Subject::start(&[]).await?;
    command.env("KUBECONFIG", subject.kubeconfig()?);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && out.contains(words), "{out}\n{err}\n{}", subject.printed());
    Ok(())
}

#[tokio::test]
async fn the_python_client() -> Result<()> {
    let python = installed("python/bin/python");
    let package = missing(&python, "the Python client");
    if skipped(&[package]) {
        return Ok(());
    }
    let mut command = Command::new(python);
    command.arg(script("client.py"));
    run(command, "the Python client is content").await
}

#[tokio::test]
async fn the_javascript_client() -> Result<()> {
    let modules = installed("js/node_modules");
    let package = missing(&modules.join("@kubernetes/client-node"), "the JavaScript client");
    if skipped(&[package, blackbox::without("node")]) {
        return Ok(());
    }
    // Modules are looked for beside the script.
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink(&modules, folder.path().join("node_modules"))?;
    let main = folder.path().join("client.mjs");
    std::fs::copy(script("client.mjs"), &main)?;
    let mut command = Command::new("node");
    command.arg(main);
    run(command, "the JavaScript client is content").await
}

async fn kube(subject: &Subject) -> Result<kube::Client> {
    let file = kube::config::Kubeconfig::read_from(subject.kubeconfig()?)?;
    let config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

#[tokio::test]
async fn an_operator_over_kube() -> Result<()> {
    let subject = Subject::start(&[]).await?;
    let client = kube(&subject).await?;
    operator::install(&client).await?;
    let running = tokio::spawn(operator::run(client.clone()));
    let namespace = format!("operator-{:08x}", rand::random::<u32>());
    subject.api.post("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).is(201).await?;
    let sites: kube::Api<Site> = kube::Api::namespaced(client, &namespace);
    let site: Site = serde_json::from_value(json!({"apiVersion": "web.example.com/v1", "kind": "Site",
        "metadata": {"name": "one"}, "spec": {"title": "First", "page": "<h1>1</h1>", "replicas": 2}}))?;
    sites.create(&kube::api::PostParams::default(), &site).await?;

    let api = &subject.api;
    let deployment = format!("/apis/apps/v1/namespaces/{namespace}/deployments/one");
    let index = format!("/api/v1/namespaces/{namespace}/configmaps/sites");
    let made = eventually("the deployment", || async {
        let answer = api.get(&deployment).send().await?;
        if answer.code == 200 { answer.json().map(Some) } else { Ok(None) }
    })
    .await?;
    ensure!(
        made["spec"]["replicas"] == 2 && made["metadata"]["ownerReferences"][0]["kind"] == "Site",
        "{made}"
    );
    let line = |due: serde_json::Value| {
        let index = index.clone();
        eventually("the index", move || {
            let (index, due) = (index.clone(), due.clone());
            async move {
                let answer = api.get(&index).send().await?;
                Ok((answer.code == 200 && answer.json()?["data"]["one"] == due).then_some(()))
            }
        })
    };
    line(json!("First")).await?;
    let waiting = eventually("a status", || async {
        let status = sites.get("one").await?.status;
        Ok(status.filter(|s| !s.conditions.is_empty()))
    })
    .await?;
    ensure!(!waiting.is_ready() && waiting.observed_generation == 1, "{waiting:?}");

    // No node runs the pods: say that they are ready, as their controller would.
    let ready = json!({"status": {"replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": 2, "observedGeneration": 1}});
    eventually("a Ready site", || async {
        api.patch(&format!("{deployment}/status"), api::http::MERGE_PATCH, &ready).is(200).await?;
        Ok(sites.get("one").await?.status.filter(operator::SiteStatus::is_ready))
    })
    .await?;
    let events =
        format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events?fieldSelector=reason%3DServed");
    eventually("the event", || async {
        let list = api.get(&events).is(200).await?;
        Ok(list["items"].as_array().is_some_and(|i| !i.is_empty()).then_some(()))
    })
    .await?;

    // Someone changes what the operator owns: it is put right.
    let wrong = json!({"spec": {"replicas": 7}});
    api.patch(&deployment, api::http::MERGE_PATCH, &wrong).is(200).await?;
    eventually("the replicas", || async {
        Ok((api.get(&deployment).is(200).await?["spec"]["replicas"] == 2).then_some(()))
    })
    .await?;

    // The finalizer takes the line, the garbage collector the rest.
    sites.delete("one", &kube::api::DeleteParams::default()).await?;
    eventually("the site's end", || async { Ok(sites.get_opt("one").await?.is_none().then_some(())) })
        .await?;
    line(serde_json::Value::Null).await.context("the finalizer")?;
    if subject.is_own() {
        eventually("the deployment's end", || async {
            Ok((api.get(&deployment).send().await?.code == 404).then_some(()))
        })
        .await?;
    }
    running.abort();
    Ok(())
}
