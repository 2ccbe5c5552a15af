//! Keeps `kube-system/extension-apiserver-authentication`, by which extension servers know whom to believe: what is
//! deleted or changed there is put back. Source: upstream's cluster authentication trust controller.

use super::{Published, authentication};
use crate::cache::{Cache, Filter, GroupResource};
use crate::reader::{Reader, Writer};
use kit::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const RETRY: Duration = Duration::from_secs(1);

/// Until shutdown. Does nothing while nothing changes.
pub async fn keep(
    cache: Arc<Cache>,
    writer: Arc<dyn Writer>,
    mut published: watch::Receiver<Published>,
    shutdown: Shutdown,
) {
    let maps = cache.resource(&GroupResource::new("", "configmaps"));
    let filter = Filter {
        namespace: Some("kube-system".into()),
        name: Some("extension-apiserver-authentication".into()),
        ..Filter::default()
    };
    let reader: Arc<dyn Reader> = cache.clone();
    let mut watcher = maps.snapshot_and_watch(filter.clone()).1;
    loop {
        let wanted = published.borrow_and_update().clone();
        let done = authentication(&reader, &writer, &wanted).await;
        if let Err(error) = &done {
            tracing::debug!(%error, "the authentication of extension servers was not published");
        }
        let retry = async {
            if done.is_ok() { std::future::pending().await } else { tokio::time::sleep(RETRY).await }
        };
        tokio::select! {
            () = shutdown.wait() => return,
            () = retry => {}
            // The authorities were replaced. Whoever replaces them may be gone, and then nothing changes.
            Ok(()) = published.changed() => {}
            event = watcher.next() => match event {
                Ok(_) => while let Ok(Some(_)) = watcher.try_next() {},
                Err(_) => watcher = maps.snapshot_and_watch(filter.clone()).1,
            },
        }
    }
}
