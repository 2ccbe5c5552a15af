//! Follows definitions: accepts names, sets conditions, swaps the index, and empties what is deleted.

use super::definition;
use crate::ApiServer;
use crate::cache::{Filter, GroupResource};
use crate::http::options::{DeleteOptions, WriteOptions};
use crate::registry::update::{Mode, Wanted};
use crate::registry::{Target, meta};
use crate::resolve::Resource;
use crate::status::ApiError;
use crate::system;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// How long a write may be under way; see [`settle`].
const SETTLING: Duration = Duration::from_secs(60);
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(super) async fn start(server: &ApiServer) -> Result<(), ApiError> {
    let cache = server.storage.cache().resource(&GroupResource::new(GROUP, PLURAL));
    let (snapshot, mut watcher) = cache.snapshot_and_watch(Filter::default());
    let mut compiled = Compiled::default();
    if !snapshot.is_empty() {
        sync(server, &mut compiled).await;
    }
    let server = server.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = server.shutdown.wait() => return,
                event = watcher.next() => match event {
                    Ok(_) => while let Ok(Some(_)) = watcher.try_next() {},
                    // Too slow, or reloaded: begin again from what there is.
                    Err(_) => watcher = cache.snapshot_and_watch(Filter::default()).1,
                },
            }
            sync(&server, &mut compiled).await;
        }
    });
    Ok(())
}

/// What each definition compiled to, by its uid and what matters of it, so that one change compiles one definition.
type Compiled = HashMap<(String, String), Vec<Arc<Resource>>>;

fn definitions(server: &ApiServer) -> Vec<Value> {
    let cache = server.storage.cache().resource(&GroupResource::new(GROUP, PLURAL));
    cache.snapshot().iter().filter_map(|e| e.object().ok()).collect()
}

/// Brings status and index in line with the definitions there are. Level-triggered.
async fn sync(server: &ApiServer, compiled: &mut Compiled) {
    let all = definitions(server);
    for one in &all {
        if let Some(change) = wanted_status(server, one, &all)
            && let Err(error) = write(server, meta::name(one), change).await
        {
            tracing::debug!(definition = meta::name(one), %error, "a definition's status was not written");
        }
    }
    // Established in our own view is enough to serve; the status that says so may still be on its way.
    let mut custom: Vec<Arc<Resource>> = Vec::new();
    let mut kept = Compiled::default();
    let mut emptying = Vec::new();
    for one in definitions(server) {
        if condition(&one, "Established") != Some("True") {
            continue;
        }
        if meta::deleting(&one) && meta::finalizers(&one).contains(&FINALIZER) {
            emptying.push(one.clone());
        }
        let key = (meta::uid(&one).to_owned(), shape_of(&one));
        let resources = compiled.remove(&key).unwrap_or_else(|| {
            definition::resources(&server.config.cache, &one).into_iter().map(Arc::new).collect()
        });
        custom.extend(resources.iter().cloned());
        kept.insert(key, resources);
    }
    *compiled = kept;
    let fresh: Vec<Arc<Resource>> = {
        let parts = server.parts.lock();
        custom.iter().filter(|r| !parts.custom.iter().any(|k| Arc::ptr_eq(k, r))).cloned().collect()
    };
    server.reindex(|parts| parts.custom = custom);
    settle(server, fresh);
    for one in emptying {
        empty(server, &one);
    }
}

/// What of a definition its resources are made from; its status moves more often.
fn shape_of(one: &Value) -> String {
    let deleting = meta::deleting(one);
    format!("{}|{}|{deleting}", one["spec"], one["status"]["acceptedNames"])
}

/// Once nobody writes under an earlier form any more, stored objects need no second look.
fn settle(server: &ApiServer, fresh: Vec<Arc<Resource>>) {
    if fresh.is_empty() {
        return;
    }
    let server = server.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = server.shutdown.wait() => return,
            () = tokio::time::sleep(SETTLING) => {}
        }
        let revision = server.storage.cache().revision();
        for custom in fresh.iter().filter_map(|r| r.custom.as_ref()) {
            custom.versions.settle(revision);
        }
    });
}

fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a str> {
    let all = definition["status"]["conditions"].as_array()?;
    all.iter().find(|c| c["type"] == kind)?["status"].as_str()
}

/// Names of a definition within its group.
fn names(names: &Value) -> (HashSet<String>, HashSet<String>) {
    let get = |f: &str| names[f].as_str().unwrap_or_default().to_owned();
    let mut resources: HashSet<String> = [get("plural"), get("singular")].into();
    resources.extend(
        names["shortNames"].as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)),
    );
    resources.remove("");
    let mut kinds: HashSet<String> = [get("kind"), get("listKind")].into();
    kinds.remove("");
    (resources, kinds)
}

/// The first name another definition of the group already has.
fn conflict(server: &ApiServer, one: &Value, all: &[Value]) -> Option<String> {
    let (resources, kinds) = names(&one["spec"]["names"]);
    let group = &one["spec"]["group"];
    for other in all {
        if meta::name(other) == meta::name(one) || other["spec"]["group"] != *group {
            continue;
        }
        let (theirs, their_kinds) = names(&other["status"]["acceptedNames"]);
        if let Some(name) = resources.intersection(&theirs).next() {
            return Some(format!("{name:?} is already in use"));
        }
        if let Some(name) = kinds.intersection(&their_kinds).next() {
            return Some(format!("{name:?} is already in use"));
        }
    }
    let index = server.index.load();
    let builtin = index.group(group.as_str().unwrap_or_default())?;
    let mut rows = builtin.versions.iter().flat_map(|v| &v.resources).filter(|r| r.custom.is_none());
    rows.find(|r| resources.contains(&r.plural) || kinds.contains(&r.kind))
        .map(|r| format!("{:?} is already in use", r.plural))
}

/// The definition with its conditions, accepted names, stored versions and finalizer as they should be; `None`
/// if they are.
fn wanted_status(server: &ApiServer, one: &Value, all: &[Value]) -> Option<Value> {
    let mut new = one.clone();
    let versions = one["spec"]["versions"].as_array()?;
    let storage = versions.iter().find(|v| v["storage"] == Value::Bool(true))?["name"].clone();
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    if !new["status"]["storedVersions"].is_array() {
        new["status"]["storedVersions"] = json!([]);
    }
    if let Some(stored) = new["status"]["storedVersions"].as_array_mut()
        && !stored.contains(&storage)
    {
        stored.push(storage);
    }
    match conflict(server, one, all) {
        None => {
            new["status"]["acceptedNames"] = one["spec"]["names"].clone();
            set(&mut new, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
            if condition(one, "Established") != Some("True") {
                let message = "the initial names have been accepted";
                set(&mut new, "Established", "True", "InitialNamesAccepted", message);
            }
        }
        Some(why) => {
            if new["status"]["acceptedNames"].is_null() {
                new["status"]["acceptedNames"] = json!({"plural": "", "kind": ""});
            }
            set(&mut new, "NamesAccepted", "False", "NameConflict", &why);
            if condition(one, "Established").is_none() {
                set(&mut new, "Established", "False", "NotAccepted", "not all names are accepted");
            }
        }
    }
    if meta::deleting(one) {
        if meta::finalizers(one).contains(&FINALIZER) {
            let message = "CustomResource deletion is in progress";
            set(&mut new, "Terminating", "True", "InstanceDeletionInProgress", message);
        }
    } else if !meta::finalizers(one).contains(&FINALIZER) {
        let mut finalizers: Vec<String> = meta::finalizers(one).into_iter().map(str::to_owned).collect();
        finalizers.push(FINALIZER.into());
        meta::set_finalizers(&mut new, &finalizers);
    }
    (new != *one).then_some(new)
}

fn set(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(all) = object["status"]["conditions"].as_array_mut() else { return };
    let same = |c: &Value| c["status"] == status && c["reason"] == reason && c["message"] == message;
    let at = all.iter().position(|c| c["type"] == kind);
    if at.is_some_and(|at| same(&all[at])) {
        return;
    }
    let condition = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": meta::now(),
    });
    match at {
        Some(at) => all[at] = condition,
        None => all.push(condition),
    }
}

/// Writes a definition as computed from one version of it.
async fn write(server: &ApiServer, name: &str, object: Value) -> Result<(), ApiError> {
    let resource = server.index.load().stored(GROUP, PLURAL).cloned().ok_or_else(ApiError::no_such_path)?;
    let (user, options) = (system::user(), system::options());
    let target = Target {
        resource: &resource,
        subresource: "status",
        namespace: "",
        name,
        user: &user,
        options: &options,
        manager: options.field_manager.clone(),
    };
    let change =
        Box::new(move |_: &Value| Ok(Wanted { object: object.clone(), managed: false, pinned: true }));
    let mode = Mode { trusted: true, ..Mode::default() };
    let stored = server.update(&target, change, mode, &mut Vec::new()).await?;
    let version = meta::text(&stored.value, "resourceVersion").parse().unwrap_or(0);
    server.storage.cache().wait_for(version, Duration::from_secs(3)).await?;
    Ok(())
}

/// Deletes the instances of a deleted definition, then lets the definition go.
fn empty(server: &ApiServer, one: &Value) {
    let Some(resource) = definition::stored(&server.config.cache, one) else { return };
    let (server, name) = (server.clone(), meta::name(one).to_owned());
    if !server.emptying.lock().insert(name.clone()) {
        return;
    }
    tokio::spawn(async move {
        let resource = Arc::new(resource);
        let done = drain(&server, &resource).await;
        server.emptying.lock().remove(&name);
        if !done {
            return;
        }
        let released = release(&server, &name).await;
        if let Err(error) = released {
            tracing::warn!(definition = %name, %error, "a definition could not be released");
        }
    });
}

/// False when the server stops first.
async fn drain(server: &ApiServer, resource: &Arc<Resource>) -> bool {
    let (user, options) = (system::user(), system::options());
    let mut asked: HashSet<String> = HashSet::new();
    loop {
        let (snapshot, mut watcher) = resource.cache.snapshot_and_watch(Filter::default());
        if snapshot.is_empty() {
            return true;
        }
        for entry in snapshot.iter() {
            if !asked.insert(entry.uid().to_owned()) {
                continue;
            }
            let target = target_of(resource, &entry.namespace, &entry.name, &user, &options);
            match server.delete(&target, &DeleteOptions::default()).await {
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(error) => tracing::warn!(resource = ?resource, name = %entry.name, %error, "not deleted"),
            }
        }
        tokio::select! {
            () = server.shutdown.wait() => return false,
            _ = watcher.next() => {}
        }
    }
}

fn target_of<'a>(
    resource: &'a Arc<Resource>,
    namespace: &'a str,
    name: &'a str,
    user: &'a crate::authentication::UserInfo,
    options: &'a WriteOptions,
) -> Target<'a> {
    Target {
        resource,
        subresource: "",
        namespace,
        name,
        user,
        options,
        manager: options.field_manager.clone(),
    }
}

async fn release(server: &ApiServer, name: &str) -> Result<(), ApiError> {
    let resource = server.index.load().stored(GROUP, PLURAL).cloned().ok_or_else(ApiError::no_such_path)?;
    let (user, options) = (system::user(), system::options());
    let target = target_of(&resource, "", name, &user, &options);
    let change = Box::new(|old: &Value| {
        let mut new = old.clone();
        let left: Vec<String> =
            meta::finalizers(old).into_iter().filter(|f| *f != FINALIZER).map(str::to_owned).collect();
        meta::set_finalizers(&mut new, &left);
        Ok(Wanted::plain(new))
    });
    let mode = Mode { trusted: true, ..Mode::default() };
    server.update(&target, change, mode, &mut Vec::new()).await.map(|_| ())
}
