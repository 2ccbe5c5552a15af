//! Real servers, killed at random moments: their story must hold.
//!
//! Twenty seconds an engine; `HISTORY_SECONDS` makes it more, in rounds of at most twenty with keys of their own.

use anyhow::{Context, Result, ensure};
use blackbox::{skipped, without};
use history::clients::{Notes, Round};
use history::linear::{self, Ask, Told};
use history::subject::{Engine, Subject};
use history::watch;
use rand::Rng;
use std::time::{Duration, Instant};

const ROUND: Duration = Duration::from_secs(20);
const CLIENTS: usize = 6;

#[test]
fn the_embedded_store_tells_one_story() -> Result<()> {
    run(Engine::Embedded)
}

#[test]
fn etcd_tells_one_story() -> Result<()> {
    if skipped(&[without("etcd")]) {
        return Ok(());
    }
    run(Engine::Etcd)
}

#[tokio::main(worker_threads = 2)]
async fn run(engine: Engine) -> Result<()> {
    let seconds = std::env::var("HISTORY_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let mut subject = Subject::start(engine)?;
    // From here on: the program may have to be built first.
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut rounds, mut operations, mut unknown, mut events, mut kills) = (0, 0, 0, 0, 0);
    while Instant::now() < end {
        let time = ROUND.min(end.saturating_duration_since(Instant::now())).max(Duration::from_secs(5));
        let (notes, killed) = round(&mut subject, engine, time).await?;
        rounds += 1;
        kills += killed;
        operations += notes.operations.values().map(Vec::len).sum::<usize>();
        unknown += notes.operations.values().flatten().filter(|o| o.told == Told::Unknown).count();
        events += notes.story.watched.iter().map(|w| w.events.len()).sum::<usize>();
        let wrong = judge(notes);
        ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), subject.printed());
    }
    println!(
        "{engine:?}: {rounds} rounds, {operations} operations ({unknown} without an outcome), {events} events, {kills} kills"
    );
    ensure!(operations > 0 && events > 0 && kills > 0, "nothing happened");
    Ok(())
}

async fn round(subject: &mut Subject, engine: Engine, time: Duration) -> Result<(Notes, u32)> {
    let round = Round::new(subject.ready().await?).await?;
    let watchers: Vec<_> = (0..4).map(|n| tokio::spawn(round.clone().watcher(n == 3))).collect();
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(round.clone().client())).collect();
    let (end, mut kills) = (Instant::now() + time, 0);
    loop {
        let pause = Duration::from_millis(rand::rng().random_range(300..3000));
        tokio::time::sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
        if Instant::now() >= end {
            break;
        }
        if engine == Engine::Etcd && rand::random() {
            subject.kill_etcd()?
        } else {
            subject.kill_server()?
        }
        kills += 1;
        // Every third death comes while it starts; else it serves for a while.
        if rand::rng().random_range(0..3) > 0 {
            subject.ready().await.with_context(|| format!("after kill {kills}"))?;
        }
    }
    subject.ready().await?;
    round.stop();
    for client in clients {
        client.await?;
    }
    round.finish().await?;
    for watcher in watchers {
        watcher.await?.with_context(|| subject.printed())?;
    }
    Ok((round.take(), kills))
}

/// Everything that is wrong with a round.
fn judge(notes: Notes) -> Vec<String> {
    let mut wrong = watch::check(&notes.story);
    let versions = watch::versions(&notes.story);
    for (key, mut operations) in notes.operations {
        // Watchers saw everything there was: a write without an outcome happened if they saw it, else never.
        operations.retain_mut(|operation| {
            let value = match operation.ask {
                Ask::Create { value } | Ask::Swap { value, .. } | Ask::Put { value } => value,
                Ask::Delete | Ask::Read => return true,
            };
            if operation.told == Told::Unknown {
                let Some(version) = versions.get(&(key.clone(), value)) else { return false };
                operation.told = Told::Done { version: *version };
                operation.ended = u64::MAX;
            }
            true
        });
        if let Err(why) = linear::check(&operations) {
            let told: Vec<String> = operations.iter().map(|o| format!("{o:?}")).collect();
            let changes = watch::changes(&notes.story, &key);
            let path = std::env::temp_dir().join(format!("history-{}-{key}.txt", std::process::id()));
            let written = std::fs::write(&path, format!("{}\n\n{changes:#?}\n", told.join("\n")));
            wrong.push(format!("{key}: {why}\n  all of it is in {} ({written:?})", path.display()));
        }
    }
    wrong
}
