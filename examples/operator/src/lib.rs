//! An operator for `sites.web.example.com`: every Site gets a ConfigMap with its page and a Deployment that serves it,
//! and an entry in its namespace's index, the ConfigMap `sites`.
//!
//! The objects are owned, so the garbage collector takes them away; the index is shared, so a finalizer does. What came
//! of it is in the status: a condition `Ready`, the generation it is of, and events.

mod objects;
mod site;

pub use site::{Site, SiteSpec, SiteStatus};

use anyhow::{Context as _, Result};
use futures::StreamExt;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Client, CustomResourceExt, Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const MANAGER: &str = "site-operator";
const FINALIZER: &str = "web.example.com/index";
const INDEX: &str = "sites";

/// What a reconciliation fails with; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API server refused")]
    Api(#[from] kube::Error),
    #[error("{0} is in no namespace")]
    Homeless(String),
    #[error("finalize")]
    Finalizer(#[source] Box<kube::runtime::finalizer::Error<Error>>),
}

struct Context {
    client: Client,
    recorder: Recorder,
}

/// Makes the definition known and waits until the server serves it.
pub async fn install(client: &Client) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply(MANAGER).force();
    definitions
        .patch(Site::crd_name(), &params, &Patch::Apply(Site::crd()))
        .await
        .context("apply the definition")?;
    let established = await_condition(definitions, Site::crd_name(), conditions::is_crd_established());
    tokio::time::timeout(Duration::from_secs(30), established).await.context("wait for the definition")??;
    Ok(())
}

/// Reconciles until the future is dropped or the process is told to end.
pub async fn run(client: Client) {
    let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.into(), instance: None });
    let context = Arc::new(Context { client: client.clone(), recorder });
    let every = watcher::Config::default();
    Controller::new(Api::<Site>::all(client.clone()), every.clone())
        .owns(Api::<Deployment>::all(client.clone()), every.clone())
        .owns(Api::<ConfigMap>::all(client), every)
        .run(reconcile, |site, error, _| again(&site, error), context)
        .for_each(|done| async move {
            match done {
                Ok((site, _)) => tracing::info!(site = site.name, "reconciled"),
                Err(error) => tracing::warn!(%error, "not reconciled"),
            }
        })
        .await;
}

fn again(site: &Site, error: &Error) -> Action {
    tracing::warn!(site = site.name_any(), %error, "will be tried again");
    Action::requeue(Duration::from_secs(2))
}

async fn reconcile(site: Arc<Site>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = site.namespace().ok_or_else(|| Error::Homeless(site.name_any()))?;
    let sites: Api<Site> = Api::namespaced(context.client.clone(), &namespace);
    finalizer(&sites, FINALIZER, site, |event| async {
        match event {
            Finalizer::Apply(site) => apply(&site, &namespace, &context).await,
            Finalizer::Cleanup(site) => cleanup(&site, &namespace, &context).await,
        }
    })
    .await
    .map_err(|error| Error::Finalizer(Box::new(error)))
}

async fn apply(site: &Site, namespace: &str, context: &Context) -> Result<Action, Error> {
    let params = PatchParams::apply(MANAGER).force();
    let name = site.name_any();
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), namespace);
    let page = objects::page(site);
    maps.patch(&page.name_any(), &params, &Patch::Apply(&page)).await?;
    let deployment = deployments.patch(&name, &params, &Patch::Apply(objects::deployment(site))).await?;
    // Every site applies its own line under its own name, so that none takes another's away.
    let line = PatchParams::apply(&format!("{MANAGER}-{name}")).force();
    maps.patch(INDEX, &line, &Patch::Apply(objects::index(&name, Some(&site.spec.title)))).await?;
    let ready = deployment.status.and_then(|s| s.ready_replicas).unwrap_or(0);
    status(site, namespace, ready, context).await?;
    Ok(Action::await_change())
}

/// Writes the status and, when readiness changed, an event.
async fn status(site: &Site, namespace: &str, ready: i32, context: &Context) -> Result<(), Error> {
    let wanted = site.spec.replicas;
    let status = SiteStatus::observed(site, ready);
    if site.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let turned = site.status.as_ref().is_none_or(|old| old.is_ready() != status.is_ready());
    let sites: Api<Site> = Api::namespaced(context.client.clone(), namespace);
    let patch = json!({"status": status});
    sites.patch_status(&site.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    if turned {
        let (reason, note) = if status.is_ready() {
            ("Served", format!("{ready} of {wanted} replicas serve the page"))
        } else {
            ("Deploying", format!("{ready} of {wanted} replicas serve the page yet"))
        };
        let (reason, action) = (reason.to_owned(), "Reconcile".to_owned());
        let event = Event { type_: EventType::Normal, reason, note: Some(note), action, secondary: None };
        context.recorder.publish(&event, &site.object_ref(&())).await?;
    }
    Ok(())
}

/// Takes the site's line out of the index; what it owns goes by itself.
async fn cleanup(site: &Site, namespace: &str, context: &Context) -> Result<Action, Error> {
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let name = site.name_any();
    let line = PatchParams::apply(&format!("{MANAGER}-{name}")).force();
    maps.patch(INDEX, &line, &Patch::Apply(objects::index(&name, None))).await?;
    Ok(Action::await_change())
}
