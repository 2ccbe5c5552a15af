//! kill -9 at any moment: nothing acknowledged is lost, no running pod is touched, nothing leaks. And two clusters on one
//! machine keep out of each other's way.

use anyhow::{Context, Result, ensure};
use blackbox::{binary, busybox, done, skipped, without};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use testkit::api::Api;
use testkit::cluster::{Cluster, missing};
use testkit::process::{run, wait_for};
use testkit::traces::Traces;

const LIMIT: Duration = Duration::from_secs(60);
const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

const STEADY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: steady}
spec:
  replicas: 2
  selector: {matchLabels: {app: steady}}
  template:
    metadata: {labels: {app: steady}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: "busybox:1", imagePullPolicy: Never, command: [sleep, "100000"]}
"#;

/// Uniform below `below`, from the clock: the moment of death need not be repeatable, and is printed.
fn some(below: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ((u64::from(now.subsec_nanos()) ^ now.as_secs()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % below
}

fn identities(cluster: &Cluster, label: &str) -> Result<String> {
    cluster.k(&[
        "get", "pods", "-l", label, "-o",
        "jsonpath={range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[0].containerID} \
         {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].state.running.startedAt}{\"\\n\"}{end}",
    ])
}

/// What a writer was told of each config map: the last value acknowledged (`None`: its deletion), and those asked for
/// since then whose answer never came.
#[derive(Default, Debug, Clone)]
struct Known {
    acknowledged: Option<u64>,
    asked: Vec<Option<u64>>,
}

fn write(api: &Api, stop: &AtomicBool, books: &Mutex<BTreeMap<String, Known>>) {
    let mut value = 0;
    while !stop.load(Ordering::Relaxed) {
        value += 1;
        let name = format!("book-{}", value % 40);
        let known = books.lock().map(|b| b.get(&name).cloned().unwrap_or_default()).unwrap_or_default();
        let there = known.acknowledged.is_some() || known.asked.iter().any(Option::is_some);
        let deletes = there && value % 7 == 0;
        let note = |change: &dyn Fn(&mut Known)| {
            if let Ok(mut books) = books.lock() {
                change(books.entry(name.clone()).or_default());
            }
        };
        note(&|k| k.asked.push((!deletes).then_some(value)));
        let body = format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"value":"{value}"}}}}"#);
        let answer = match deletes {
            true => api.delete(&format!("{MAPS}/{name}")),
            false => {
                let posted = api.request("POST", MAPS, JSON, &body);
                match posted {
                    Ok(answer) if answer.code == 409 => {
                        api.request("PUT", &format!("{MAPS}/{name}"), JSON, &body)
                    }
                    other => other,
                }
            }
        };
        match answer.map(|a| a.code) {
            Ok(200 | 201) => {
                note(&|k| *k = Known { acknowledged: (!deletes).then_some(value), asked: Vec::new() })
            }
            // It was gone: the deletion before it had happened though its answer was lost.
            Ok(404) => note(&|k| *k = Known::default()),
            // No answer: it may have happened or not.
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn churn(api: &Api, stop: &AtomicBool) {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let body = format!(
            r#"{{"metadata":{{"name":"churn-{n}","labels":{{"app":"churn"}}}},"spec":{{"terminationGracePeriodSeconds":0,
            "containers":[{{"name":"c","image":"busybox:1","imagePullPolicy":"Never","command":["sleep","1000"],
            "volumeMounts":[{{"name":"v","mountPath":"/v"}}]}}],"volumes":[{{"name":"v","emptyDir":{{"medium":"Memory"}}}}]}}}}"#
        );
        let _ = api.request("POST", PODS, JSON, &body);
        if n > 3 {
            let _ = api.delete(&format!("{PODS}/churn-{}", n - 3));
        }
        std::thread::sleep(Duration::from_millis(150));
    }
}

#[test]
fn kill_at_any_moment_loses_restarts_and_leaks_nothing() -> Result<()> {
    if skipped(&[missing(), without("busybox"), without("curl")]) {
        return Ok(());
    }
    let mut cluster = Cluster::up(&binary()?, &["--port", "6443"])?;
    let images = tempfile::tempdir()?;
    run(cluster.ironclad(&["image", "import", &busybox(images.path())?.to_string_lossy()]))?;
    let traces = Traces::of(&cluster)?;
    let bare = traces.now(&cluster)?;
    cluster.apply(STEADY)?;
    cluster.k(&["rollout", "status", "deployment/steady", "--timeout=60s"])?;
    let before = identities(&cluster, "app=steady")?;
    let steady = traces.now(&cluster)?;

    let stop = Arc::new(AtomicBool::new(false));
    let books = Arc::new(Mutex::new(BTreeMap::new()));
    let kubeconfig = cluster.data_dir().join("admin.kubeconfig");
    let writer = {
        let (api, stop, books) = (Api::new(&cluster.netns, &kubeconfig)?, stop.clone(), books.clone());
        std::thread::spawn(move || write(&api, &stop, &books))
    };
    let churner = {
        let (api, stop) = (Api::new(&cluster.netns, &kubeconfig)?, stop.clone());
        std::thread::spawn(move || churn(&api, &stop))
    };
    let rounds = (|| -> Result<()> {
        for round in 0..8 {
            let wait = some(1500);
            // Every third death comes while it starts.
            if round % 3 == 2 {
                cluster.kill();
                cluster.launch()?;
            }
            println!("round {round}: killed after {wait} ms");
            std::thread::sleep(Duration::from_millis(wait));
            cluster.kill();
            cluster.start().with_context(|| format!("start after death {round}"))?;
            let now = identities(&cluster, "app=steady")?;
            ensure!(now == before, "pods changed over death {round}:\n{before}\n{now}");
        }
        Ok(())
    })();
    stop.store(true, Ordering::Relaxed);
    let joined = [writer.join().is_ok(), churner.join().is_ok()];
    rounds?;
    ensure!(joined == [true; 2], "a load thread panicked");

    // Every acknowledged write is there, every acknowledged deletion stays one.
    let api = Api::new(&cluster.netns, &kubeconfig)?;
    let books = books.lock().ok().context("books")?.clone();
    let sure = books.values().filter(|k| k.asked.is_empty()).count();
    println!("{} config maps, of {sure} the outcome is known", books.len());
    ensure!(sure > 0, "nothing was acknowledged");
    for (name, known) in &books {
        let answer = api.get(&format!("{MAPS}/{name}"))?;
        let value = match answer.code {
            404 => None,
            _ => Some(answer.json()?["data"]["value"].as_str().context("value")?.parse::<u64>()?),
        };
        ensure!(
            known.acknowledged == value || known.asked.contains(&value),
            "{name} is {value:?}, and {known:?} was told"
        );
    }

    // The churn's leftovers go, and the machine is as it was before it.
    cluster.k(&["delete", "pods", "-l", "app=churn", "--timeout=80s"])?;
    wait_for("the traces of churn to go", LIMIT, || {
        let now = traces.now(&cluster)?;
        let leaked: Vec<_> = now.difference(&steady).collect();
        ensure!(leaked.is_empty(), "leaked: {leaked:#?}");
        Ok(Some(()))
    })?;
    ensure!(identities(&cluster, "app=steady")? == before);
    let lost: Vec<String> = steady.difference(&traces.now(&cluster)?).cloned().collect();
    ensure!(lost.is_empty(), "taken from running pods: {lost:#?}");
    cluster.k(&["delete", "deployment", "steady", "--cascade=foreground", "--timeout=60s"])?;
    wait_for("the pods to go", LIMIT, || {
        let left = cluster.k(&["get", "replicasets,pods", "-o", "yaml"])?;
        ensure!(left.contains("items: []"), "still there: {left}");
        Ok(Some(()))
    })?;
    // The cgroups of the quality-of-service classes stay until `down`.
    let of_a_pod = |trace: &&String| !trace.starts_with("cgroup ") || trace.contains("/pod");
    wait_for("the traces of pods to go", LIMIT, || {
        let now = traces.now(&cluster)?;
        let leaked: Vec<_> = now.difference(&bare).filter(of_a_pod).collect();
        ensure!(leaked.is_empty(), "leaked: {leaked:#?}");
        Ok(Some(()))
    })?;

    // `down` with pods running and the process dead leaves nothing.
    cluster.apply(STEADY)?;
    cluster.k(&["rollout", "status", "deployment/steady", "--timeout=60s"])?;
    cluster.kill();
    run(cluster.ironclad(&["down"]))?;
    let left = traces.now(&cluster)?;
    ensure!(left.is_empty(), "down left: {left:#?}");
    ensure!(cluster.netns.links()?.is_empty() && cluster.netns.routes()?.is_empty());
    // Down again is no error, and a new start has the objects.
    run(cluster.ironclad(&["down"]))?;
    cluster.start()?;
    cluster.k(&["rollout", "status", "deployment/steady", "--timeout=60s"])?;
    // `down` under a running process stops it first.
    run(cluster.ironclad(&["down", "--purge"]))?;
    let left = traces.now(&cluster)?;
    ensure!(left.is_empty() && !cluster.data_dir().exists(), "down left: {left:#?}");
    Ok(())
}

#[test]
fn two_clusters_share_a_machine() -> Result<()> {
    if skipped(&[missing(), without("busybox"), without("curl")]) {
        return Ok(());
    }
    let first = Cluster::up(&binary()?, &["--port", "6443", "--node-name", "first"])?;
    let flags = [
        "--port",
        "6543",
        "--node-name",
        "second",
        "--pod-cidr",
        "10.245.0.0/16",
        "--service-cidr",
        "10.128.0.0/16",
    ];
    let mut second = Cluster::up_in(first.netns.share(), &binary()?, &flags)?;
    let images = tempfile::tempdir()?;
    let archive = busybox(images.path())?;
    let traces = [Traces::of(&first)?, Traces::of(&second)?];
    for (cluster, words) in [(&first, "one"), (&second, "two")] {
        run(cluster.ironclad(&["image", "import", &archive.to_string_lossy()]))?;
        let serve = format!("mkdir /tmp/w; echo {words} > /tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w");
        cluster.k(&[
            "run",
            "web",
            "--image=busybox:1",
            "--image-pull-policy=Never",
            "--port=80",
            "--expose",
            "--",
            "sh",
            "-c",
            &serve,
        ])?;
    }
    let page = |cluster: &Cluster, from_pod: bool| {
        cluster.k(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"])?;
        let ip = cluster.k(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
        wait_for("the service", LIMIT, || {
            if from_pod {
                let get = ["exec", "web", "--", "wget", "-qO-", &format!("http://{ip}/")];
                return Ok(Some(cluster.k(&get)?));
            }
            let mut curl = cluster.netns.command("curl");
            curl.args(["-sS", "--max-time", "5", &format!("http://{ip}/")]);
            Ok(Some(run(curl)?))
        })
    };
    for from_pod in [false, true] {
        ensure!(page(&first, from_pod)? == "one\n" && page(&second, from_pod)? == "two\n");
    }
    ensure!(first.k(&["get", "nodes", "-o", "name"])? == "node/first\n");
    ensure!(second.k(&["get", "nodes", "-o", "name"])? == "node/second\n");

    // The end of one is not felt by the other.
    let before = [traces[0].now(&first)?, traces[1].now(&second)?];
    second.kill();
    ensure!(page(&first, true)? == "one\n");
    second.start()?;
    run(second.ironclad(&["down", "--purge"]))?;
    let left = traces[1].now(&second)?;
    ensure!(left.is_empty(), "down left: {left:#?}");
    ensure!(!before[1].is_empty() && traces[0].now(&first)? == before[0], "the first cluster lost something");
    ensure!(page(&first, false)? == "one\n" && page(&first, true)? == "one\n");
    // Its data directory, in use, is not the second's to take down.
    let said = done(first.ironclad(&["server", "--port", "0"]))?;
    said.refuses(&["is in use by process"])
}
