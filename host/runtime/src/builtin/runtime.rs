//! The trait, word for word; the work is in the neighbouring files.

use super::{Builtin, blocking};
use crate::wire::Request;
use crate::*;
use async_trait::async_trait;
use std::time::Duration;

#[async_trait]
impl Runtime for Builtin {
    async fn run_pod_sandbox(&self, config: SandboxConfig) -> Result<SandboxStatus, RuntimeError> {
        self.run_sandbox(config).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.stop_sandbox(id).await
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.remove_sandbox(id).await
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        Ok(self.sandboxes.read().values().map(|s| s.status.read().clone()).collect())
    }

    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<String, RuntimeError> {
        self.create(sandbox, config).await
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.start(id).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.stop(id, grace).await
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.remove(id).await
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, RuntimeError> {
        Ok(self.containers.read().values().map(|c| c.status.borrow().clone()).collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, RuntimeError> {
        Ok(self.container(id)?.status.borrow().clone())
    }

    async fn update_container_resources(&self, id: &str, r: Resources) -> Result<(), RuntimeError> {
        self.update(id, r).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<(), RuntimeError> {
        let sandbox = self.container(id)?.plan.sandbox.clone();
        let request = Request::Reopen { container: id.to_string() };
        let result = self.link(&sandbox)?.call(request, Vec::new()).await;
        result.map(drop).map_err(|why| self.lost(&sandbox, why))
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats, RuntimeError> {
        self.stats(id).await
    }

    async fn exec_sync(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        self.run_to_end(id, cmd, timeout).await
    }

    async fn exec(&self, id: &str, cmd: &[String], tty: bool, stdin: bool) -> Result<Session, RuntimeError> {
        self.open_exec(id, cmd, tty, stdin).await
    }

    async fn attach(&self, id: &str, tty: bool, stdin: bool) -> Result<Session, RuntimeError> {
        self.open_attach(id, tty, stdin).await
    }

    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<Box<dyn Duplex>, RuntimeError> {
        self.open_port(sandbox, port).await
    }

    fn events(&self) -> tokio::sync::broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }

    async fn pull_image(&self, image: &str, auth: Option<RegistryAuth>) -> Result<ImageStatus, RuntimeError> {
        self.images.pull(image, auth.as_ref(), &self.options.registries).await
    }

    async fn image_status(&self, image: &str) -> Result<Option<ImageStatus>, RuntimeError> {
        Ok(self.images.find(image).map(|record| record.status()))
    }

    async fn list_images(&self) -> Result<Vec<ImageStatus>, RuntimeError> {
        Ok(self.images.all().iter().map(|record| record.status()).collect())
    }

    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError> {
        let Some(record) = self.images.find(image) else { return Ok(()) };
        let user =
            self.containers.read().values().find(|c| c.plan.image_id == record.id).map(|c| c.plan.id.clone());
        if let Some(container) = user {
            let why = format!("image is in use by container {container}");
            return Err(RuntimeError::Image { image: image.to_string(), why });
        }
        let images = self.images.clone();
        blocking(move || images.remove(&record.id)).await?
    }

    async fn import_image(
        &self,
        path: &camino::Utf8Path,
        name: Option<&str>,
    ) -> Result<Vec<ImageStatus>, RuntimeError> {
        let (images, path, name) = (self.images.clone(), path.to_owned(), name.map(String::from));
        blocking(move || images.import(&path, name.as_deref())).await?
    }

    async fn version(&self) -> Result<Version, RuntimeError> {
        Ok(Version { runtime_name: "ironclad".into(), runtime_version: env!("CARGO_PKG_VERSION").into() })
    }
}
