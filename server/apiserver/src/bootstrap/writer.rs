//! The registry as bootstrap's [`Writer`].

use super::{Aggregation, BootstrapError, Published, Report};
use crate::ApiServer;
use crate::reader::{Reader, WriteError, Writer, text};
use crate::registry::Target;
use crate::registry::update::{Mode, Wanted};
use crate::status::ApiError;
use crate::system;
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;

fn failure(error: ApiError) -> WriteError {
    match error.reason {
        "AlreadyExists" => WriteError::AlreadyExists,
        "Conflict" => WriteError::Conflict,
        _ => WriteError::Other(error.message),
    }
}

impl ApiServer {
    async fn write(&self, group: &str, resource: &str, object: Value, create: bool) -> Result<(), ApiError> {
        let resource = self
            .index
            .load()
            .stored(group, resource)
            .cloned()
            .ok_or_else(|| ApiError::not_found(group, "resources", resource))?;
        let (user, options) = (system::user(), system::options());
        let (namespace, name) =
            (text(&object, "/metadata/namespace").to_owned(), text(&object, "/metadata/name").to_owned());
        let target = Target {
            resource: &resource,
            subresource: "",
            namespace: &namespace,
            name: &name,
            user: &user,
            options: &options,
            manager: options.field_manager.clone(),
        };
        let mut warnings = Vec::new();
        if create {
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
        self.write(group, resource, object, true).await.map_err(failure)
    }

    async fn update(&self, group: &str, _: &str, resource: &str, object: Value) -> Result<(), WriteError> {
        self.write(group, resource, object, false).await.map_err(failure)
    }
}

/// Writes the default objects through `server`, and keeps aggregated roles up to date until the server stops.
pub async fn start(server: &ApiServer, published: &Published) -> Result<Report, BootstrapError> {
    let reader: Arc<dyn Reader> = server.config.cache.clone();
    let writer: Arc<dyn Writer> = Arc::new(server.clone());
    let report = super::run(reader.clone(), writer.clone(), published).await?;
    tokio::spawn(Aggregation { reader, writer }.run(server.shutdown.clone()));
    Ok(report)
}
