//! Puts the table back when somebody flushes it.

use super::Dataplane;
use crate::NetworkError;
use crate::nft::Changes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(super) async fn run(dataplane: &Dataplane) -> Result<(), NetworkError> {
    let (table, own_port) = {
        let state = dataplane.0.lock();
        (state.desired.table.clone(), state.kernel.port()?)
    };
    let changes = Changes::listen()?;
    // SAFETY: the descriptor is owned by `changes`, which the AsyncFd owns in turn: it stays open and the same for
    // as long as it is registered.
    #[allow(unsafe_code)]
    let registered = unsafe { AsyncFd::register_with_interest(changes, Interest::READABLE) };
    let ready = registered.map_err(|e| NetworkError::os("wait for nftables changes", e))?;
    let mut buffer = vec![0u8; 65536];
    loop {
        let mut guard =
            ready.readable().await.map_err(|e| NetworkError::os("wait for nftables changes", e))?;
        let mut drifted = false;
        loop {
            match ready.get_ref().foreign_deletion(&table, own_port, &mut buffer) {
                Ok(deleted) => drifted |= deleted,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(NetworkError::os("read nftables changes", error)),
            }
        }
        guard.clear_ready();
        if drifted {
            tracing::warn!(table, "nftables table was changed from outside, restoring it");
            dataplane.rebuild()?;
        }
    }
}
