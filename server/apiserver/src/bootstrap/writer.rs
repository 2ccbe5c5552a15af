//! The registry as bootstrap's [`Writer`].

use super::{Aggregation, BootstrapError, Published, Report};
use crate::ApiServer;
use crate::admission::QuotaController;
use crate::reader::{Reader, WriteError, Writer, text};
use crate::registry::update::{Mode, Wanted};
use crate::status::ApiError;
use crate::system;
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;

fn failure(error: ApiError) -> WriteError {
    match error.reason {
        "AlreadyExists" => WriteError::AlreadyExists,
        "Conflict" => WriteError::Conflict,
        _ => WriteError::Other(error.message),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Create,
    Update,
    Status,
}

impl ApiServer {
    async fn write(&self, group: &str, resource: &str, object: Value, how: How) -> Result<(), ApiError> {
        let resource = self
            .index
            .load()
            .stored(group, resource)
            .cloned()
            .ok_or_else(|| ApiError::not_found(group, "resources", resource))?;
        let (namespace, name) =
            (text(&object, "/metadata/namespace").to_owned(), text(&object, "/metadata/name").to_owned());
        let target =
            system::target(&resource, if how == How::Status { "status" } else { "" }, &namespace, &name);
        let mut warnings = Vec::new();
        if how == How::Create {
            self.create(&target, object, false, &mut warnings).await?;
            return Ok(());
        }
        let based_on = text(&object, "/metadata/resourceVersion").to_owned();
        let (group, plural) = (resource.group.clone(), resource.plural.clone());
        let change = Box::new(move |old: &Value| {
            if text(old, "/metadata/resourceVersion") != based_on {
                return Err(ApiError::modified(&group, &plural, text(old, "/metadata/name")));
            }
            Ok(Wanted::plain(object.clone()))
        });
        self.update(&target, change, Mode::default(), &mut warnings).await?;
        Ok(())
    }
}

#[async_trait]
impl Writer for ApiServer {
    async fn create(&self, group: &str, _: &str, resource: &str, object: Value) -> Result<(), WriteError> {
        self.write(group, resource, object, How::Create).await.map_err(failure)
    }

    async fn update(&self, group: &str, _: &str, resource: &str, object: Value) -> Result<(), WriteError> {
        self.write(group, resource, object, How::Update).await.map_err(failure)
    }

    async fn update_status(
        &self,
        group: &str,
        _: &str,
        resource: &str,
        object: Value,
    ) -> Result<(), WriteError> {
        self.write(group, resource, object, How::Status).await.map_err(failure)
    }
}

/// Writes the default objects through `server`, and keeps aggregated roles and quota usage up to date until the server stops.
pub async fn start(
    server: &ApiServer,
    published: &watch::Receiver<Published>,
) -> Result<Report, BootstrapError> {
    let reader: Arc<dyn Reader> = server.config.cache.clone();
    let writer: Arc<dyn Writer> = Arc::new(server.clone());
    let wanted = published.borrow().clone();
    let report = super::run(reader.clone(), writer.clone(), &wanted).await?;
    tokio::spawn(
        QuotaController { reader: reader.clone(), writer: writer.clone() }.run(server.shutdown.clone()),
    );
    if let Some(used) = server.config.tracking.lock().take() {
        let (reader, writer, stop) = (reader.clone(), writer.clone(), server.shutdown.clone());
        tokio::spawn(crate::tokens::tracking::run(reader, writer, used, stop));
    }
    let cache = server.config.cache.clone();
    let (published, stop) = (published.clone(), server.shutdown.clone());
    tokio::spawn(super::authentication::keep(cache, writer.clone(), published, stop));
    tokio::spawn(Aggregation { reader, writer }.run(server.shutdown.clone()));
    Ok(report)
}
