//! Pods from create to Ready, with their image on the node.

use super::idle;
use super::subject::Subject;
use crate::figure::{Figure, Report};
use crate::progress::Progress;
use crate::requests::{delete, ensure, get, post};
use crate::watch::{Watch, is_ready};
use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use kube::Client;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use testkit::image::ImageBuilder;

const NAMESPACE: &str = "bench";
const PODS: &str = "/api/v1/namespaces/bench/pods";
const IMAGE: &str = "busybox:bench";
/// Requests under way together when pods are created at once.
const CONNECTIONS: usize = 8;
/// For one step of the cluster; far from any figure.
const LIMIT: Duration = Duration::from_secs(120);

pub async fn measure(subject: &Subject<'_>, count: u32, report: &Report) -> Result<()> {
    import(subject)?;
    let client = subject.client().await?;
    namespace(&client).await?;
    let mut pods = Watch::from_now(&client, PODS).await?;
    let one = one_at_a_time(&client, &mut pods, count).await?;
    report.print(Figure::seconds("pod_create_to_ready", &one))?;
    let (last, each) = at_once(&client, &mut pods, count).await?;
    let spread = serde_json::to_value(Figure::seconds("first_create_to_each_ready", &each))?;
    report.print(Figure::new("pods_at_once_ready", last.as_secs_f64(), "s").detail(spread))?;
    report.print(idle::memory("memory_with_pods", subject))?;
    remove(&client, &mut pods, count).await
}

fn import(subject: &Subject<'_>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("busybox.tar");
    ImageBuilder::busybox(IMAGE)?.docker_archive(&archive)?;
    subject.import(&archive)
}

/// A namespace in which pods start at once: with what every pod mounts.
async fn namespace(client: &Client) -> Result<()> {
    ensure(client, "/api/v1/namespaces", &json!({"metadata": {"name": NAMESPACE}})).await?;
    for path in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/{path}");
        let end = Instant::now() + LIMIT;
        while let Err(error) = get(client, &path).await {
            if Instant::now() > end {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

fn pod(name: &str) -> Value {
    // A first process ignores what it does not trap, and would be killed only after its grace period.
    let script = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
    json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}],
        },
    })
}

async fn one_at_a_time(client: &Client, pods: &mut Watch, count: u32) -> Result<Vec<Duration>> {
    let progress = Progress::new("pods created one at a time", count.into());
    let mut times = vec![];
    for index in 0..count {
        let name = format!("one-{index}");
        let begun = Instant::now();
        // The watch is read while the create is under way: a pod may be Ready before its creator has the answer.
        let pod = pod(&name);
        let (_, ready) =
            tokio::try_join!(post(client, PODS, &pod), all_ready(pods, [name.clone()].into(), &progress))?;
        times.extend(ready.iter().map(|at| *at - begun));
        delete(client, &format!("{PODS}/{name}")).await?;
        all_gone(pods, [name].into()).await?;
    }
    Ok(times)
}

/// The time from the first create until the last pod was Ready, and until each was.
async fn at_once(client: &Client, pods: &mut Watch, count: u32) -> Result<(Duration, Vec<Duration>)> {
    let progress = Progress::new("pods created at once", count.into());
    let names: BTreeSet<String> = (0..count).map(|i| format!("many-{i}")).collect();
    // Handshakes belong to no pod.
    try_join_all((0..CONNECTIONS).map(|_| get(client, "/version"))).await?;
    let begun = Instant::now();
    let creates = stream::iter(&names).map(|name| async move { post(client, PODS, &pod(name)).await });
    let creates = creates.buffer_unordered(CONNECTIONS).try_collect::<Vec<()>>();
    let (_, ready) = tokio::try_join!(creates, all_ready(pods, names.clone(), &progress))?;
    let each: Vec<Duration> = ready.iter().map(|at| *at - begun).collect();
    Ok((each.iter().max().copied().context("no pods")?, each))
}

async fn remove(client: &Client, pods: &mut Watch, count: u32) -> Result<()> {
    let names: BTreeSet<String> = (0..count).map(|i| format!("many-{i}")).collect();
    let paths: Vec<String> = names.iter().map(|name| format!("{PODS}/{name}")).collect();
    try_join_all(paths.iter().map(|path| delete(client, path))).await?;
    all_gone(pods, names).await
}

/// When each of `names` was seen Ready.
async fn all_ready(
    pods: &mut Watch,
    mut names: BTreeSet<String>,
    progress: &Progress,
) -> Result<Vec<Instant>> {
    let mut times = vec![];
    while !names.is_empty() {
        let (_, pod) = next(pods, &names, "be Ready").await?;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        match pod["status"]["phase"].as_str() {
            Some("Failed" | "Succeeded") if names.contains(name) => {
                bail!("pod {name} ended: {}", pod["status"])
            }
            _ if is_ready(&pod) && names.remove(name) => {
                times.push(Instant::now());
                progress.step();
            }
            _ => {}
        }
    }
    Ok(times)
}

async fn all_gone(pods: &mut Watch, mut names: BTreeSet<String>) -> Result<()> {
    while !names.is_empty() {
        let (kind, pod) = next(pods, &names, "be gone").await?;
        if kind == "DELETED" {
            names.remove(pod["metadata"]["name"].as_str().unwrap_or_default());
        }
    }
    Ok(())
}

async fn next(pods: &mut Watch, names: &BTreeSet<String>, what: &str) -> Result<(String, Value)> {
    let event = tokio::time::timeout(LIMIT, pods.event()).await;
    event.with_context(|| format!("{} pods did not {what}: no event for {LIMIT:?}", names.len()))?
}
