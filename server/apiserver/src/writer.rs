//! The server's own writes, through the registry: what [`bootstrap`](crate::bootstrap) is handed.

use crate::ApiServer;
use crate::reader::{WriteError, Writer};
use crate::registry::update::{Mode, Wanted};
use crate::registry::{Target, meta};
use crate::status::ApiError;
use crate::system::{options, user};
use async_trait::async_trait;
use serde_json::Value;

#[async_trait]
impl Writer for ApiServer {
    async fn create(&self, group: &str, _version: &str, plural: &str, object: Value) -> Result<(), WriteError> {
        self.write_own(group, plural, object, true).await
    }

    async fn update(&self, group: &str, _version: &str, plural: &str, object: Value) -> Result<(), WriteError> {
        self.write_own(group, plural, object, false).await
    }
}

impl ApiServer {
    async fn write_own(&self, group: &str, plural: &str, object: Value, new: bool) -> Result<(), WriteError> {
        let resource = self.index.load().stored(group, plural).cloned();
        let resource = resource.ok_or_else(|| WriteError::Other(format!("{plural}.{group} is not served")))?;
        let (user, options) = (user(), options());
        let (name, namespace) = (meta::name(&object).to_owned(), meta::namespace(&object).to_owned());
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
        let done = if new {
            self.create_object(&target, object, &mut warnings).await
        } else {
            let change = Box::new(move |_: &Value| Ok(Wanted::plain(object.clone())));
            ApiServer::update(self, &target, change, Mode::default(), &mut warnings).await.map(|_| ())
        };
        done.map_err(write_error)
    }

    async fn create_object(&self, t: &Target<'_>, o: Value, w: &mut Vec<String>) -> Result<(), ApiError> {
        ApiServer::create(self, t, o, false, w).await.map(|_| ())
    }
}

fn write_error(error: ApiError) -> WriteError {
    match error.reason {
        "AlreadyExists" => WriteError::AlreadyExists,
        "Conflict" => WriteError::Conflict,
        _ => WriteError::Other(error.to_string()),
    }
}
