//! Workload controllers on a live cluster: jobs, cron jobs, stateful and daemon sets, budgets, preemption, garbage.

use anyhow::{Context, Result, ensure};
use blackbox::{binary, busybox, skipped, without};
use std::time::Duration;
use testkit::cluster::{Cluster, missing};
use testkit::process::{run, wait_for};

const LIMIT: Duration = Duration::from_secs(90);

fn cluster() -> Result<Option<Cluster>> {
    if skipped(&[missing(), without("busybox")]) {
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::up(&binary()?, &[])?;
    run(cluster.ironclad(&["image", "import", &busybox(folder.path())?.to_string_lossy()]))?;
    Ok(Some(cluster))
}

fn becomes(cluster: &Cluster, what: &str, path: &str, wanted: &str) -> Result<()> {
    wait_for(&format!("{what} {path} to be {wanted:?}"), LIMIT, || {
        let is = cluster.k(&["get", what, "-o", &format!("jsonpath={{{path}}}")])?;
        ensure!(is == wanted, "it is {is:?}");
        Ok(Some(()))
    })
    .with_context(|| cluster.k(&["describe", what]).unwrap_or_default())
}

/// A pod template with one busybox container.
fn template(script: &str, rest: &str) -> String {
    format!(
        "{{metadata: {{labels: {{app: x}}}}, spec: {{terminationGracePeriodSeconds: 0, {rest} containers: [{{name: main, \
         image: \"busybox:1\", imagePullPolicy: Never, command: [sh, -c, {script:?}]}}]}}}}"
    )
}

#[test]
fn jobs_run_to_their_end() -> Result<()> {
    let Some(cluster) = cluster()? else { return Ok(()) };
    let never = "restartPolicy: Never,";
    let job = |name: &str, spec: &str, template: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{{spec} template: {template}}}\n---\n"
        )
    };
    cluster.apply(
        &[
            job("many", "completions: 4, parallelism: 2,", &template("true", never)),
            job(
                "indexed",
                "completions: 3, parallelism: 3, completionMode: Indexed,",
                &template("echo $JOB_COMPLETION_INDEX", never),
            ),
            job("fails", "backoffLimit: 1,", &template("exit 1", never)),
            job("late", "activeDeadlineSeconds: 2,", &template("sleep 1000", never)),
            job("gone", "ttlSecondsAfterFinished: 1,", &template("true", never)),
            job("asleep", "suspend: true,", &template("true", never)),
        ]
        .concat(),
    )?;
    becomes(&cluster, "job/many", ".status.succeeded", "4")?;
    becomes(&cluster, "job/many", ".status.conditions[?(@.type==\"Complete\")].status", "True")?;
    becomes(&cluster, "job/indexed", ".status.completedIndexes", "0-2")?;
    becomes(
        &cluster,
        "job/fails",
        ".status.conditions[?(@.type==\"Failed\")].reason",
        "BackoffLimitExceeded",
    )?;
    becomes(&cluster, "job/late", ".status.conditions[?(@.type==\"Failed\")].reason", "DeadlineExceeded")?;
    let names = |kind: &str| cluster.k(&["get", kind, "-o", "name"]);
    wait_for("the finished job to be gone", LIMIT, || {
        Ok((!names("jobs")?.contains("job.batch/gone")).then_some(()))
    })?;
    ensure!(cluster.k(&["get", "pods", "-l", "job-name=asleep", "-o", "name"])?.is_empty());
    cluster.k(&["patch", "job", "asleep", "-p", r#"{"spec":{"suspend":false}}"#])?;
    becomes(&cluster, "job/asleep", ".status.succeeded", "1")?;
    // A cron job's work, begun by hand and by the clock.
    cluster.k(&["create", "cronjob", "tick", "--image=busybox:1", "--schedule=* * * * *", "--", "true"])?;
    cluster.k(&["create", "job", "now", "--from=cronjob/tick"])?;
    becomes(&cluster, "job/now", ".status.succeeded", "1")?;
    wait_for("the clock", LIMIT, || {
        Ok(names("jobs")?.lines().any(|n| n.starts_with("job.batch/tick-")).then_some(()))
    })?;
    let scheduled = cluster.k(&["get", "cronjob", "tick", "-o", "jsonpath={.status.lastScheduleTime}"])?;
    ensure!(scheduled.ends_with(":00Z"), "{scheduled}");
    // What a cron job owns goes with it.
    cluster.k(&["delete", "cronjob", "tick"])?;
    wait_for("the owned jobs to be gone", LIMIT, || Ok((!names("jobs")?.contains("tick-")).then_some(())))
}

#[test]
fn stateful_and_daemon_sets_keep_their_order() -> Result<()> {
    let Some(cluster) = cluster()? else { return Ok(()) };
    let set = |version: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: db}}\nspec: {{clusterIP: None, selector: {{app: x}}, ports: [{{port: 80}}]}}\n---\n\
             apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec: {{serviceName: db, replicas: 3, selector: {{matchLabels: {{app: x}}}}, template: {}}}\n",
            template(&format!("echo {version}; sleep 1000"), "")
        )
    };
    cluster.apply(&set("one"))?;
    cluster.k(&["rollout", "status", "statefulset/db", "--timeout=60s"])?;
    let names = "jsonpath={range .items[*]}{.metadata.name} {end}";
    ensure!(cluster.k(&["get", "pods", "-l", "app=x", "-o", names])? == "db-0 db-1 db-2 ");
    let starts = cluster.k(&[
        "get",
        "pods",
        "-l",
        "app=x",
        "-o",
        "jsonpath={range .items[*]}{.metadata.creationTimestamp} {end}",
    ])?;
    let starts: Vec<_> = starts.split_whitespace().collect();
    ensure!(starts.is_sorted(), "{starts:?}");
    // Each has a name of its own in DNS.
    let ip = cluster.k(&["get", "pod", "db-1", "-o", "jsonpath={.status.podIP}"])?;
    wait_for("the name", LIMIT, || {
        Ok(cluster
            .k(&["exec", "db-0", "--", "nslookup", "db-1.db.default.svc.cluster.local"])?
            .contains(&ip)
            .then_some(()))
    })?;
    cluster.apply(&set("two"))?;
    cluster.k(&["rollout", "status", "statefulset/db", "--timeout=60s"])?;
    ensure!(cluster.k(&["logs", "db-0"])? == "two\n");
    cluster.k(&["scale", "statefulset", "db", "--replicas=1"])?;
    wait_for("one pod", LIMIT, || {
        Ok((cluster.k(&["get", "pods", "-l", "app=x", "-o", names])? == "db-0 ").then_some(()))
    })?;
    cluster.k(&["delete", "statefulset", "db"])?;

    let agent = |version: &str| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent}}\nspec: {{selector: {{matchLabels: {{app: x}}}}, template: {}}}\n",
            template(&format!("echo {version}; sleep 1000"), "")
        )
    };
    cluster.apply(&agent("one"))?;
    cluster.k(&["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    cluster.apply(&agent("two"))?;
    cluster.k(&["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    ensure!(cluster.k(&["logs", "daemonset/agent"])? == "two\n");
    cluster.k(&["rollout", "undo", "daemonset/agent"])?;
    cluster.k(&["rollout", "status", "daemonset/agent", "--timeout=60s"])?;
    wait_for("the older one", LIMIT, || {
        Ok((cluster.k(&["logs", "daemonset/agent"])? == "one\n").then_some(()))
    })
}

#[test]
fn budgets_preemption_and_owners_decide_who_goes() -> Result<()> {
    let Some(cluster) = cluster()? else { return Ok(()) };
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {{replicas: 2, selector: {{matchLabels: {{app: x}}}}, template: {}}}\n---\n\
         apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: web}}\nspec: {{minAvailable: 2, selector: {{matchLabels: {{app: x}}}}}}\n",
        template("sleep 1000", "")
    ))?;
    cluster.k(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    becomes(&cluster, "pdb/web", ".status.currentHealthy", "2")?;
    becomes(&cluster, "pdb/web", ".status.disruptionsAllowed", "0")?;
    let node = cluster.k(&["get", "node", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let refused = cluster.k(&["drain", &node, "--ignore-daemonsets", "--timeout=3s"]).unwrap_err();
    ensure!(
        format!("{refused:#}").contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{refused:#}"
    );
    cluster.k(&["patch", "pdb", "web", "-p", r#"{"spec":{"minAvailable":0}}"#])?;
    becomes(&cluster, "pdb/web", ".status.disruptionsAllowed", "2")?;
    cluster.k(&["drain", &node, "--ignore-daemonsets", "--timeout=60s"])?;
    wait_for("pending pods", LIMIT, || {
        let why = cluster.k(&[
            "get",
            "events",
            "--field-selector=reason=FailedScheduling",
            "-o",
            "jsonpath={range .items[*]}{.message}\n{end}",
        ])?;
        ensure!(why.contains("0/1 nodes are available: 1 node(s) were unschedulable."), "{why}");
        Ok(Some(()))
    })?;
    cluster.k(&["uncordon", &node])?;
    cluster.k(&["rollout", "status", "deployment/web", "--timeout=60s"])?;

    // A more important pod takes the place of a less important one.
    let cpu: u64 = cluster
        .k(&["get", "node", "-o", "jsonpath={.items[0].status.allocatable.cpu}"])?
        .trim_end_matches('m')
        .parse()?;
    let millis = if cpu > 500 { cpu } else { cpu * 1000 };
    let pod = |name: &str, class: &str, millis: u64| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, {class} containers: [{{name: main, \
             image: \"busybox:1\", imagePullPolicy: Never, command: [sleep, \"1000\"], resources: {{requests: {{cpu: {millis}m}}}}}}]}}\n---\n"
        )
    };
    cluster.apply(
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\n",
    )?;
    let most = millis * 7 / 10;
    cluster.apply(&pod("low", "", most))?;
    cluster.k(&["wait", "--for=condition=Ready", "pod/low", "--timeout=60s"])?;
    cluster.apply(&[pod("high", "priorityClassName: high,", most), pod("late", "", most)].concat())?;
    cluster.k(&["wait", "--for=condition=Ready", "pod/high", "--timeout=60s"])?;
    ensure!(cluster.k(&["get", "pod", "low"]).is_err(), "the low one is still there");
    ensure!(cluster.k(&["get", "pod", "late", "-o", "jsonpath={.status.phase}"])? == "Pending");
    let told = cluster.k(&[
        "get",
        "events",
        "--field-selector=reason=Preempted",
        "-o",
        "jsonpath={.items[0].involvedObject.name}",
    ])?;
    ensure!(told == "low", "{told}");

    // Foreground: the owner goes last; orphan: what it owned stays.
    let sets = || cluster.k(&["get", "replicasets", "-o", "name"]);
    cluster.k(&["delete", "deployment", "web", "--cascade=orphan"])?;
    ensure!(sets()?.lines().count() >= 1, "{}", sets()?);
    let owners = cluster.k(&["get", "replicasets", "-o", "jsonpath={.items[*].metadata.ownerReferences}"])?;
    ensure!(owners.is_empty(), "{owners}");
    let set = sets()?.lines().next().context("a replica set")?.to_owned();
    cluster.k(&["delete", &set, "--cascade=foreground", "--timeout=60s"])?;
    ensure!(cluster.k(&["get", "pods", "-l", "app=x", "-o", "name"])?.is_empty());
    // A namespace takes everything with it.
    cluster.k(&["create", "namespace", "brief"])?;
    cluster.k(&["-n", "brief", "create", "deployment", "x", "--image=busybox:1", "--", "sleep", "1000"])?;
    cluster.k(&["delete", "namespace", "brief", "--timeout=60s"])?;
    ensure!(
        cluster
            .k(&["get", "pods", "-A", "-o", "jsonpath={.items[*].metadata.namespace}"])?
            .split(' ')
            .all(|n| n != "brief")
    );
    Ok(())
}
