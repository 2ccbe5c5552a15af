//! Figures of a whole cluster that is started from a binary, in a network namespace of its own.

mod idle;
mod pods;
mod subject;

use crate::cli::ClusterOptions;
use crate::figure::{Figure, MIB, Report};
use crate::interrupt::interruptible;
use crate::progress::Progress;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::Duration;
use subject::Subject;
use testkit::netns::Netns;

pub fn run(options: &ClusterOptions) -> Result<()> {
    let binary =
        options.binary.canonicalize().with_context(|| format!("find {}", options.binary.display()))?;
    let parent = options.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    let parent = parent.canonicalize().with_context(|| format!("find {}", parent.display()))?;
    let folder = tempfile::Builder::new().prefix("ironclad-bench-").tempdir_in(&parent);
    let folder = folder.with_context(|| format!("make a folder in {}", parent.display()))?;
    let netns = Netns::new().context("make a network namespace (needs root)")?;
    // Before any thread exists, so that all of them are where the cluster listens.
    enter(&netns)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let parameters = json!({"starts": options.starts, "settle": options.settle, "window": options.window,
        "pods": options.pods, "flags": options.flags});
    let report = Report::new(&options.about, subject::version(&binary)?, parameters);
    let size = std::fs::metadata(&binary).context("look at the binary")?.len();
    report.print(Figure::new("binary_size", size as f64 / MIB, "MiB"))?;

    let (mut readyz, mut node) = (vec![], vec![]);
    let progress = Progress::new("fresh clusters started", options.starts.into());
    let mut running = None;
    for _ in 0..options.starts {
        if let Some(previous) = running.take() {
            Subject::down(previous)?;
        }
        let mut subject = Subject::new(&netns, &binary, folder.path(), options);
        let took = runtime.block_on(interruptible(subject.start()))?;
        readyz.push(took.readyz);
        node.push(took.node_ready);
        running = Some(subject);
        progress.step();
    }
    drop(progress);
    report.print(Figure::seconds("start_to_readyz", &readyz).detail(each(&readyz)))?;
    report.print(Figure::seconds("start_to_node_ready", &node).detail(each(&node)))?;

    let subject = running.context("no cluster was started")?;
    runtime.block_on(interruptible(async {
        let measured = async {
            idle::measure(&subject, options, &report).await?;
            pods::measure(&subject, options.pods, &report).await
        };
        measured.await.map_err(|error| subject.explain(error))
    }))?;
    subject.down()
}

fn enter(netns: &Netns) -> Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd;
    let link =
        std::fs::File::open(format!("/run/netns/{}", netns.name())).context("open the network namespace")?;
    move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))
        .context("enter the network namespace")
}

fn each(times: &[Duration]) -> Value {
    json!({"each": times.iter().map(|t| t.as_millis() as f64 / 1e3).collect::<Vec<_>>()})
}
