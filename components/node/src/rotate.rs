//! Container logs that grew too big are rotated: the live file is renamed, the runtime opens a new one, older ones are
//! compressed and the oldest removed.

use crate::shared::Shared;
use camino::{Utf8Path, Utf8PathBuf};
use flate2::Compression;
use flate2::write::GzEncoder;
use runtime::ContainerState;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(10);

pub async fn run(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for c in shared.runtime.list_containers().await.unwrap_or_default() {
            if c.state != ContainerState::Running || c.log_path.is_empty() {
                continue;
            }
            let path = Utf8PathBuf::from(&c.log_path);
            let big = fs::metadata(&path).is_ok_and(|m| m.len() > shared.config.log_max_bytes);
            if !big {
                continue;
            }
            if let Err(error) = rotate(&path) {
                tracing::warn!(%error, %path, "log not rotated");
                continue;
            }
            if let Err(error) = shared.runtime.reopen_container_log(&c.id).await {
                tracing::warn!(%error, %path, "log not reopened");
            }
            let keep = shared.config.log_max_files.max(2) - 1;
            let done = tokio::task::spawn_blocking(move || tidy(&path, keep)).await;
            if let Ok(Err(error)) = done {
                tracing::warn!(%error, "rotated logs not tidied");
            }
        }
    }
}

fn rotate(path: &Utf8Path) -> io::Result<()> {
    let stamp = k8s_openapi::jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    fs::rename(path, format!("{path}.{stamp}"))
}

/// The rotated files of a log, oldest first.
pub fn rotated(path: &Utf8Path) -> Vec<Utf8PathBuf> {
    let Some((dir, name)) = path.parent().zip(path.file_name()) else { return Vec::new() };
    let mut found: Vec<Utf8PathBuf> = dir
        .read_dir_utf8()
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| {
            e.file_name().strip_prefix(name).is_some_and(|r| r.starts_with('.'))
                && !e.file_name().ends_with(".tmp")
        })
        .map(|e| e.path().to_owned())
        .collect();
    found.sort();
    found
}

/// Keeps the newest `keep` rotated files, all but the last of them compressed.
fn tidy(path: &Utf8Path, keep: usize) -> io::Result<()> {
    let files = rotated(path);
    let surplus = files.len().saturating_sub(keep);
    for old in &files[..surplus] {
        fs::remove_file(old)?;
    }
    let rest = &files[surplus..];
    for file in rest.iter().take(rest.len().saturating_sub(1)).filter(|f| !f.as_str().ends_with(".gz")) {
        let temporary = Utf8PathBuf::from(format!("{file}.tmp"));
        let mut out = GzEncoder::new(fs::File::create(&temporary)?, Compression::default());
        io::copy(&mut fs::File::open(file)?, &mut out)?;
        out.finish()?;
        fs::rename(&temporary, format!("{file}.gz"))?;
        fs::remove_file(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_compresses() {
        let dir = tempfile::tempdir().expect("dir");
        let log = Utf8PathBuf::from_path_buf(dir.path().join("0.log")).expect("utf8");
        for n in 1..=6 {
            fs::write(format!("{log}.2026010{n}-000000"), format!("{n}")).expect("write");
        }
        tidy(&log, 4).expect("tidy");
        let names: Vec<String> = rotated(&log)
            .iter()
            .map(|p| p.file_name().expect("name").trim_start_matches("0.log.").to_owned())
            .collect();
        assert_eq!(
            names,
            ["20260103-000000.gz", "20260104-000000.gz", "20260105-000000.gz", "20260106-000000"]
        );
    }
}
