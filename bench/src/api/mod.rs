//! Figures of an API server, whoever's it is.

pub mod fanout;
pub mod phases;

use crate::cli::ApiOptions;
use crate::figure::{Figure, MIB, Report};
use crate::interrupt::interruptible;
use crate::proc::{self, Cpu};
use crate::requests::{connect, delete, ensure, get, post};
use anyhow::{Context, Result};
use kube::Client;
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the phases work and what they work with.
pub struct Bench<'a> {
    pub options: &'a ApiOptions,
    pub report: Report,
    /// One connection each: requests of a client are never under way together.
    pub clients: Vec<Client>,
    pub pods: String,
}

pub fn run(options: &ApiOptions) -> Result<()> {
    in_namespace(options, async |bench| {
        bench.memory("api_memory_before")?;
        phases::before_watch(bench).await?;
        if options.watchers > 0 {
            let fanned = fanout::measure(bench, options.watchers, options.objects).await?;
            bench.print("watch", "events/s", &fanned.taken)?;
        }
        bench.memory("api_memory_after")?;
        phases::delete(bench).await
    })
}

/// Runs `work` in a namespace that is made for it and deleted afterwards, also after an error or an interrupt.
pub fn in_namespace(options: &ApiOptions, work: impl AsyncFnOnce(&Bench<'_>) -> Result<()>) -> Result<()> {
    options.pid.iter().try_for_each(|pid| proc::check(*pid))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = connect(&options.kubeconfig).await?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let namespace = format!("bench-{since:x}");
        let path = format!("/api/v1/namespaces/{namespace}");
        post(&client, "/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await?;
        let measured = interruptible(async {
            let bench = open(options, &client, &path).await?;
            work(&bench).await
        })
        .await;
        eprintln!("deleting namespace {namespace}");
        let deleted = delete(&client, &path).await;
        measured.and(deleted)
    })
}

async fn open<'a>(options: &'a ApiOptions, client: &Client, namespace: &str) -> Result<Bench<'a>> {
    // A cluster without the controller for it (an API server alone) gets the account that pods need from us.
    let account = json!({"metadata": {"name": "default"}});
    ensure(client, &format!("{namespace}/serviceaccounts"), &account).await?;
    let version = get(client, "/version").await?;
    let subject = format!("kubernetes {}", version["gitVersion"].as_str().unwrap_or("unknown"));
    let parameters = json!({"objects": options.objects, "connections": options.connections,
        "watchers": options.watchers, "lists": options.lists});
    let mut clients = vec![];
    for _ in 0..options.connections {
        let client = connect(&options.kubeconfig).await?;
        // The handshake belongs to no phase.
        get(&client, "/version").await?;
        clients.push(client);
    }
    let report = Report::new(&options.about, subject, parameters);
    Ok(Bench { options, report, clients, pods: format!("{namespace}/pods") })
}

/// What a phase took.
pub struct Taken {
    pub elapsed: Duration,
    pub latencies: Vec<Duration>,
    pub cpu: Option<Duration>,
}

impl Bench<'_> {
    /// CPU time of the server so far, if its processes are known.
    pub fn cpu(&self) -> Option<Cpu> {
        let pids = &self.options.pid;
        (!pids.is_empty()).then(|| Cpu::of(pids.iter().copied()))
    }

    /// Prints the figures of a phase; its latencies are one an operation.
    pub fn print(&self, phase: &str, unit: &'static str, taken: &Taken) -> Result<()> {
        let operations = taken.latencies.len() as f64;
        let throughput = operations / taken.elapsed.as_secs_f64();
        self.report.print(Figure::new(format!("api_{phase}_throughput"), throughput, unit))?;
        self.report.print(Figure::milliseconds(format!("api_{phase}_latency"), &taken.latencies))?;
        if let Some(cpu) = taken.cpu {
            let figure = format!("api_{phase}_server_cpu");
            let micros = cpu.as_secs_f64() * 1e6 / operations;
            let detail = json!({"used_ms": cpu.as_millis(), "operations": operations});
            self.report.print(Figure::new(figure, micros, "us/operation").detail(detail))?;
        }
        Ok(())
    }

    /// Resident bytes of the server, if its processes are known.
    pub fn resident(&self) -> Option<u64> {
        let pids = &self.options.pid;
        (!pids.is_empty()).then(|| proc::memory(pids.iter().copied()).iter().map(|m| m.rss).sum())
    }

    fn memory(&self, figure: &str) -> Result<()> {
        if self.options.pid.is_empty() {
            return Ok(());
        }
        let all = proc::memory(self.options.pid.iter().copied());
        let rss: u64 = all.iter().map(|m| m.rss).sum();
        let figure = Figure::new(figure, rss as f64 / MIB, "MiB").detail(json!({"processes": all}));
        self.report.print(figure).context("memory of the server")
    }
}
