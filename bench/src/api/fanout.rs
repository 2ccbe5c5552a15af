//! One change, many watches.

use super::phases::{object, spread};
use super::{Bench, Taken};
use crate::progress::Progress;
use crate::requests::{MERGE_PATCH, connect, request};
use crate::watch::Watch;
use anyhow::{Context, Result};
use http::Method;
use serde_json::json;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const MARK: &str = "\"bench.ironclad.dev/sequence\":\"";
const VERSION: &str = "\"resourceVersion\":\"";
/// For one event; far from any figure.
const LIMIT: Duration = Duration::from_secs(60);

/// What the watches took.
pub struct Fanned {
    /// One latency an event; the CPU holds the changes too.
    pub taken: Taken,
    /// Resident bytes that the open watches added.
    pub memory: Option<u64>,
}

/// Changes `objects` of the pods once while `watchers` watches of all of them are open.
pub async fn measure(bench: &Bench<'_>, watchers: u32, objects: u32) -> Result<Fanned> {
    // When the change of each object was sent.
    let sent: Arc<Vec<OnceLock<Instant>>> = Arc::new((0..objects).map(|_| OnceLock::new()).collect());
    let mut following = JoinSet::new();
    let resident = bench.resident();
    let opening = Progress::new("watches opened", watchers.into());
    for _ in 0..watchers {
        let client = connect(&bench.options.kubeconfig).await?;
        let watch = Watch::from_now(&client, &bench.pods).await?;
        following.spawn(follow(watch, sent.clone()));
        opening.step();
    }
    drop(opening);
    let memory = bench.resident().zip(resident).map(|(after, before)| after.saturating_sub(before));

    let (cpu, begun) = (bench.cpu(), Instant::now());
    let pods = bench.pods.clone();
    let stamps = sent.clone();
    spread(bench, "changes under watch", objects, move |i| {
        // With the number of watches, so that another measurement changes the objects again.
        let sequence = format!("{watchers}-{i}");
        let patch = json!({"metadata": {"annotations": {"bench.ironclad.dev/sequence": sequence}}});
        let made = request(Method::PATCH, &object(&pods, i), MERGE_PATCH, patch.to_string().into_bytes());
        if let Some(stamp) = stamps.get(i as usize) {
            stamp.get_or_init(Instant::now);
        }
        made
    })
    .await
    .context("phase watch: change the objects")?;
    let (mut latencies, mut resumed) = (vec![], 0);
    while let Some(ended) = following.join_next().await {
        let (seen, times) = ended?.context("phase watch")?;
        latencies.extend(seen);
        resumed += times;
    }
    if resumed > 0 {
        eprintln!("the server ended watches {resumed} times; they went on where they were");
    }
    let elapsed = begun.elapsed();
    let cpu = cpu.and_then(|before| Some(bench.cpu()?.since(before)));
    Ok(Fanned { taken: Taken { elapsed, latencies, cpu }, memory })
}

/// Reads until every object's change was seen; also tells how often the server ended the watch, as some do with slow
/// readers. A line is only searched, not parsed: the watchers share the machine.
async fn follow(mut watch: Watch, sent: Arc<Vec<OnceLock<Instant>>>) -> Result<(Vec<Duration>, u32)> {
    let mut latencies = Vec::with_capacity(sent.len());
    let (mut version, mut resumed) = (None, 0);
    while latencies.len() < sent.len() {
        let line = tokio::time::timeout(LIMIT, watch.line()).await;
        let line = line.with_context(|| {
            format!(
                "a watch saw {} of {} changes and then nothing for {LIMIT:?}",
                latencies.len(),
                sent.len()
            )
        })??;
        let Some(line) = line else {
            let version = version.as_deref().context("the server ended a watch that had shown nothing")?;
            watch.resume(version).await?;
            resumed += 1;
            continue;
        };
        let seen = Instant::now();
        let stamp = between(&line, MARK).and_then(sequence).and_then(|i| sent.get(i)).and_then(OnceLock::get);
        latencies.extend(stamp.map(|sent| seen - *sent));
        version = between(&line, VERSION).map(str::to_owned).or(version);
    }
    Ok((latencies, resumed))
}

fn between<'l>(line: &'l str, before: &str) -> Option<&'l str> {
    Some(line.split_once(before)?.1.split_once('"')?.0)
}

fn sequence(mark: &str) -> Option<usize> {
    mark.split_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_but_not_its_owner() {
        let line = r#"{"object":{"metadata":{"annotations":{"a":"b","bench.ironclad.dev/sequence":"10-42"},"resourceVersion":"7"}}}"#;
        assert_eq!(between(line, MARK).and_then(sequence), Some(42));
        assert_eq!(between(line, VERSION), Some("7"));
        assert_eq!(between(r#"{"f:annotations":{"f:bench.ironclad.dev/sequence":{}}}"#, MARK), None);
    }
}
