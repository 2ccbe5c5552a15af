//! Many cases on one server, a few at a time, each in a namespace of its own; all failures are told together.

use crate::http::Api;
use crate::subject::{Subject, is_said};
use anyhow::{Context, Result, bail};
use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::time::Duration;

const AT_ONCE: usize = 4;
const LIMIT: Duration = Duration::from_secs(120);

/// One thing that must hold.
pub struct Case {
    pub name: &'static str,
    pub body: fn(Space) -> BoxFuture<'static, Result<()>>,
}

/// What a case works with: an administrator and an empty namespace.
#[derive(Clone)]
pub struct Space {
    pub api: Api,
    pub namespace: String,
    /// Unique in the cluster, a DNS label: for names of cluster-scoped objects.
    pub unique: String,
    /// The server is ours, with its controllers.
    pub own: bool,
    /// Controllers run: garbage is collected, requests for certificates are answered.
    pub controllers: bool,
}

impl Space {
    /// The path of a core resource in the namespace.
    pub fn core(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.namespace)
    }

    /// The path of another group's resource in the namespace; `group` is `apps/v1`.
    pub fn path(&self, group: &str, resource: &str) -> String {
        format!("/apis/{group}/namespaces/{}/{resource}", self.namespace)
    }

    /// A config map, in memory.
    pub fn map(&self, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
    }

    /// Makes one and returns it as stored.
    pub async fn make_map(&self, name: &str) -> Result<Value> {
        self.api.post(&self.core("configmaps"), &self.map(name)).is(201).await
    }

    /// Pods need it, and a cluster without controllers has none.
    pub async fn service_account(&self) -> Result<()> {
        let path = self.core("serviceaccounts");
        let answer = self.api.post(&path, &json!({"metadata": {"name": "default"}})).send().await?;
        if ![201, 409].contains(&answer.code) {
            bail!("{}", answer.text());
        }
        Ok(())
    }

    /// A pod with one container that no scheduler will take.
    pub fn pod(&self, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
               "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "example.com/image:1"}]}})
    }
}

/// A pause for what comes of itself.
pub async fn eventually<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T> {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let last = ask().await;
        match last {
            Ok(Some(answer)) => return Ok(answer),
            Err(error) if tokio::time::Instant::now() > end => {
                return Err(error.context(format!("waited for {what}")));
            }
            Ok(None) if tokio::time::Instant::now() > end => bail!("waited for {what} in vain"),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Runs the cases on a server; `IRONCLAD_CASE` picks those whose name holds it. Panics with every failure.
pub fn run(cases: &'static [Case]) {
    if let Err(error) = all(cases, &[]) {
        panic!("{error:#}");
    }
}

/// As [`run`], with flags for a server of our own.
pub fn run_with(cases: &'static [Case], flags: &[&str]) {
    if let Err(error) = all(cases, flags) {
        panic!("{error:#}");
    }
}

#[tokio::main(worker_threads = 2)]
async fn all(cases: &'static [Case], flags: &[&str]) -> Result<()> {
    let wanted = std::env::var("IRONCLAD_CASE").unwrap_or_default();
    let subject = Subject::start(flags).await?;
    let chosen: Vec<&Case> = cases.iter().filter(|c| c.name.contains(&wanted)).collect();
    let number = chosen.len();
    let (api, own) = (subject.api.clone(), subject.is_own());
    let failures: Vec<String> = futures::stream::iter(chosen)
        .map(|case| {
            let api = api.clone();
            async move {
                let result = tokio::time::timeout(LIMIT, tokio::spawn(one(case, api, own))).await;
                let result = match result {
                    Ok(Ok(result)) => result,
                    Ok(Err(panic)) => Err(panic.into()),
                    Err(_) => Err(anyhow::anyhow!("it does not end")),
                };
                result.err().map(|error| format!("{}: {error:#}", case.name))
            }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|failure| async move { failure })
        .collect()
        .await;
    println!("{} of {number} cases hold", number - failures.len());
    if failures.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {number} cases do not hold:\n  {}\n{}",
        failures.len(),
        failures.join("\n  "),
        subject.printed()
    )
}

async fn one(case: &Case, api: Api, own: bool) -> Result<()> {
    let unique =
        format!("{}-{:06x}", case.name.replace('_', "-").to_lowercase(), rand::random::<u32>() & 0xff_ffff);
    let unique: String = unique.chars().rev().take(50).collect::<Vec<_>>().into_iter().rev().collect();
    let unique = unique.trim_start_matches('-').to_owned();
    let body = json!({"metadata": {"name": unique, "labels": {"ironclad.test/case": "yes"}}});
    api.post("/api/v1/namespaces", &body).is(201).await.context("make a namespace")?;
    let space = Space {
        api: api.clone(),
        namespace: unique.clone(),
        unique: unique.clone(),
        own,
        controllers: own || is_said("SUBJECT_CONTROLLERS"),
    };
    if space.controllers {
        settled(&space).await?;
    }
    let result = (case.body)(space).await;
    let deleted = api.delete(&format!("/api/v1/namespaces/{unique}")).send().await;
    result?;
    deleted.map(drop)
}

/// Waits for what controllers put into every new namespace, so that no case sees it appear between two of its reads.
async fn settled(space: &Space) -> Result<()> {
    for path in [space.core("configmaps/kube-root-ca.crt"), space.core("serviceaccounts/default")] {
        eventually(&path, || async {
            let answer = space.api.get(&path).send().await?;
            Ok((answer.code == 200).then_some(()))
        })
        .await?;
    }
    Ok(())
}
