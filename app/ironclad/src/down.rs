//! `ironclad down`: ends a cluster on this machine and takes away everything it made.

use crate::cli::{Down, Output};
use crate::data_dir;
use crate::place::Place;
use crate::preflight;
use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::time::Duration;

/// How long the running process may take to stop.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(flags: Down) -> Result<()> {
    preflight::require_root("down")?;
    let root = &flags.data_dir.data_dir;
    if !root.exists() {
        return tell(flags.output, &format!("no cluster in {root}"), &[]);
    }
    if !root.join("layout").exists() {
        bail!("{root} is not a data directory of ironclad; nothing was touched");
    }
    let place = Place::of(root);
    let mut done = Vec::new();
    if let Some(pid) = data_dir::holder(&place.data) {
        stop_process(pid, &place.data).await?;
        done.push(format!("stopped process {pid}"));
    }
    let held = data_dir::DataDir::open(&place.data)?;

    // Every step is tried; the first failure is told at the end, so that a second `down` has less to do.
    let mut steps = vec![
        ("pods stopped", stop_pods(&place).await),
        ("network removed", network::machine::tear_down(&place.tag).map_err(Into::into)),
        ("volumes unmounted", unmount_below(&place.data)),
        ("sockets removed", remove(&place.run)),
    ];
    for folder in ["network", "node/pods", "node/logs"] {
        steps.push(("pod files removed", remove(&place.data.join(folder))));
    }
    drop(held);
    if flags.purge && steps.iter().all(|(_, result)| result.is_ok()) {
        steps.push(("data directory deleted", remove(&place.data)));
    }
    let mut first_error = None;
    for (what, result) in steps {
        match result {
            Ok(()) => done.push(what.to_owned()),
            Err(error) => {
                tracing::error!(step = what, error = format!("{error:#}"), "could not finish");
                first_error.get_or_insert(error.context(what));
            }
        }
    }
    done.dedup();
    match first_error {
        Some(error) => Err(error),
        None => tell(flags.output, &format!("the cluster in {root} is down"), &done),
    }
}

async fn stop_pods(place: &Place) -> Result<()> {
    let runtime = runtime::builtin::Builtin::open(place.runtime_options(&[])).await?;
    Ok(runtime.cleanup_all().await?)
}

fn tell(output: Output, text: &str, done: &[String]) -> Result<()> {
    match output {
        Output::Json => println!("{}", json!({"result": text, "steps": done})),
        Output::Text => {
            done.iter().for_each(|step| println!("{step}"));
            println!("{text}");
        }
    }
    Ok(())
}

async fn stop_process(pid: i32, data: &Utf8Path) -> Result<()> {
    let Some(process) = Pid::from_raw(pid) else { bail!("{data}/lock names no process") };
    kill_process(process, Signal::TERM).with_context(|| format!("stop process {pid}"))?;
    let gone = async {
        while data_dir::holder(data).is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, gone).await.is_err() {
        kill_process(process, Signal::KILL).with_context(|| format!("kill process {pid}"))?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Deepest first, so that nothing is busy because of what it holds.
fn unmount_below(root: &Utf8Path) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let below = format!("{root}/");
    let mut targets: Vec<String> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|target| target.replace("\\040", " "))
        .filter(|target| target.starts_with(&below))
        .collect();
    targets.sort_by_key(|t| std::cmp::Reverse(t.len()));
    for target in targets {
        rustix::mount::unmount(target.as_str(), rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("unmount {target}"))?;
    }
    Ok(())
}

fn remove(path: &Utf8Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("delete {path}"))
        }
        _ => Ok(()),
    }
}
