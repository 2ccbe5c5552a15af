//! Whole pods on the built-in runtime.

mod common;

use common::{Bed, IMAGE, WAIT, condition, shell};
use runtime::{ContainerState, Runtime};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_comes_and_goes() {
    let Some(bed) = Bed::new().await else { return };
    bed.api.put(
        "/api/v1/namespaces/default/configmaps/cm",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "default"},
            "data": {"key": "value"}}),
    );
    let mut c = shell("main", WAIT);
    c["env"] = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"},
        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    c["volumeMounts"] = json!([{"name": "cfg", "mountPath": "/cfg"}, {"name": "tok", "mountPath": "/tok"},
        {"name": "tmp", "mountPath": "/scratch", "subPath": "a/b"}, {"name": "down", "mountPath": "/down"}]);
    let path = bed.pod(
        "whole",
        json!({"containers": [c], "subdomain": "sub", "volumes": [
            {"name": "cfg", "configMap": {"name": "cm"}}, {"name": "tmp", "emptyDir": {}},
            {"name": "tok", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}),
    );
    let pod = bed.ready(&path).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.9.0.2");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    let script =
        "echo $A $B $C $IP; cat /cfg/key /tok/token /down/labels; hostname; echo; cat /etc/resolv.conf";
    let said = bed.exec(&pod, script).await;
    assert!(said.starts_with("1 12 value 10.9.0.2\nvaluethe-tokenapp=\"whole\""), "{said}");
    assert!(said.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{said}");
    assert!(
        bed.exec(&pod, "cat /etc/hosts")
            .await
            .contains("10.9.0.2\twhole.sub.default.svc.cluster.local\twhole")
    );

    // Content follows its config map.
    bed.api.put(
        "/api/v1/namespaces/default/configmaps/cm",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "default"},
            "data": {"key": "newer"}}),
    );
    while bed.exec(&pod, "cat /cfg/key").await != "newer" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let writes = bed.api.writes().len();
    assert!(writes <= 4, "{writes} status writes: {:#?}", bed.api.writes());

    bed.delete(&path, 2);
    bed.gone(&path).await;
    assert!(bed.network.0.lock().is_empty());
    while !bed.runtime.list_pod_sandboxes().await.expect("list").is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(bed.runtime.list_containers().await.expect("list").is_empty());
    let pods = bed.dir.path().join("node/pods");
    while pods.read_dir().expect("folder").next().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let reasons = bed.reasons("whole");
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(reasons.iter().any(|r| r == reason), "{reason} in {reasons:?}");
    }
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_to_the_end() {
    let Some(bed) = Bed::new().await else { return };
    let mut failing = shell("main", "echo last words > /dev/termination-log; exit 3");
    failing["resources"] = json!({"requests": {"cpu": "10m"}});
    let bad = bed.pod("bad", json!({"restartPolicy": "Never", "containers": [failing]}));
    let good = bed.pod(
        "good",
        json!({"restartPolicy": "Never", "containers": [shell("main", "cat /shared/x")],
            "initContainers": [shell("one", "true"), shell("two", "exit 0")],
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}),
    );
    let pod = bed.phase(&bad, "Failed").await;
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&state["exitCode"], &state["reason"]), (&json!(3), &json!("Error")));
    assert_eq!(state["message"], "last words\n");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    let pod = bed.phase(&good, "Failed").await;
    assert_eq!(condition(&pod, "Initialized"), "True");
    assert_eq!(pod["status"]["initContainerStatuses"][1]["state"]["terminated"]["reason"], "Completed");
    // Dead, and given back, but still there for its logs.
    while !bed.network.0.lock().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(bed.api.get(&bad).is_some());
    bed.delete(&bad, 0);
    bed.delete(&good, 0);
    bed.gone(&bad).await;
    bed.gone(&good).await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_restart_and_back_off() {
    let Some(bed) = Bed::new().await else { return };
    let path = bed.pod("crash", json!({"containers": [shell("main", "exit 1")]}));
    let looping = |p: Option<&serde_json::Value>| {
        p.is_some_and(|p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
    };
    let pod = bed.api.wait(&path, "CrashLoopBackOff", looping).await.expect("pod");
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["restartCount"], 1);
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(pod["status"]["phase"], "Running");
    bed.delete(&path, 0);
    bed.gone(&path).await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_there() {
    let Some(bed) = Bed::new().await else { return };
    let mut never = shell("main", "true");
    never["image"] = json!("test.local/none:1");
    never["imagePullPolicy"] = json!("Never");
    let mut odd = shell("main", "true");
    odd["image"] = json!("Not//Valid");
    let never = bed.pod("never", json!({"containers": [never]}));
    let odd = bed.pod("odd", json!({"containers": [odd]}));
    for (path, reason) in [(&never, "ErrImageNeverPull"), (&odd, "InvalidImageName")] {
        let is = |p: Option<&serde_json::Value>| {
            p.is_some_and(|p| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason)
        };
        bed.api.wait(path, reason, is).await;
        bed.delete(path, 0);
        bed.gone(path).await;
    }
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_gate_and_kill() {
    let Some(bed) = Bed::new().await else { return };
    let mut c = shell("main", &format!("touch /tmp/live; {WAIT}").replace("touch", "echo >"));
    let exec = |script: &str| json!({"exec": {"command": ["sh", "-c", script]}, "periodSeconds": 1, "failureThreshold": 1});
    c["readinessProbe"] = exec("test -e /tmp/ready");
    c["livenessProbe"] = exec("test -e /tmp/live");
    let path = bed.pod("probed", json!({"containers": [c]}));
    let running = |p: Option<&serde_json::Value>| {
        p.is_some_and(|p| !p["status"]["containerStatuses"][0]["state"]["running"].is_null())
    };
    let pod = bed.api.wait(&path, "running", running).await.expect("pod");
    assert_eq!(condition(&pod, "Ready"), "False");
    bed.exec(&pod, "echo > /tmp/ready").await;
    let pod = bed.ready(&path).await;
    bed.exec(&pod, "rm /tmp/live || /bin/busybox rm /tmp/live").await;
    let restarted = |p: Option<&serde_json::Value>| {
        p.is_some_and(|p| p["status"]["containerStatuses"][0]["restartCount"] == 1)
    };
    bed.api.wait(&path, "restarted", restarted).await;
    assert!(bed.reasons("probed").iter().any(|r| r == "Unhealthy"));
    bed.delete(&path, 0);
    bed.gone(&path).await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_agent_restarts_nothing() {
    let Some(mut bed) = Bed::new().await else { return };
    let path = bed.pod("stays", json!({"containers": [shell("main", WAIT)]}));
    let lost =
        bed.pod("lost", json!({"containers": [shell("main", "trap '' TERM; while :; do sleep 0.1; done")]}));
    let before = bed.ready(&path).await;
    bed.ready(&lost).await;
    bed.halt().await;
    // While nobody looks, one pod is removed from the API.
    bed.api.remove(&lost);
    let stray = bed.dir.path().join("node/pods/stray");
    std::fs::create_dir(&stray).expect("folder");
    let writes = bed.api.writes().len();
    bed.restart().await;
    // A pod that begins while the lost one still takes its time to stop keeps its address and its volumes.
    let spec = json!({"containers": [shell("main", WAIT)], "volumes": [{"name": "v", "emptyDir": {}}]});
    let fresh = bed.pod("fresh", spec);
    let uid = bed.ready(&fresh).await["metadata"]["uid"].as_str().expect("uid").to_owned();
    while stray.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(bed.dir.path().join("node/pods").join(&uid).join("volumes/kubernetes.io~empty-dir/v").exists());
    assert!(bed.network.0.lock().contains_key(&uid));
    let logs = bed.dir.path().join("node/logs").join(format!("default_fresh_{uid}"));
    assert!(logs.exists(), "{}", logs.display());
    bed.delete(&fresh, 2);
    bed.gone(&fresh).await;
    loop {
        let all = bed.runtime.list_containers().await.expect("list");
        if all.len() == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let after = bed.api.get(&path).expect("pod");
    assert_eq!(after["status"], before["status"]);
    let ours = bed.api.writes()[writes..].iter().filter(|w| !w.contains(&uid)).count();
    assert_eq!(ours, 0, "{:?}", bed.api.writes());
    let all = bed.runtime.list_containers().await.expect("list");
    assert_eq!(all[0].state, ContainerState::Running);
    assert_eq!(after["status"]["containerStatuses"][0]["containerID"], format!("ironclad://{}", all[0].id));
    bed.delete(&path, 2);
    bed.gone(&path).await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_and_sidecars() {
    let Some(bed) = Bed::new().await else { return };
    let mut main = shell("main", "while ! test -e /v/started; do sleep 0.05; done; cat /v/started");
    main["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    main["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "echo hook > /v/started"]}}});
    let mut side = shell("side", WAIT);
    side["restartPolicy"] = json!("Always");
    let path = bed.pod(
        "job",
        json!({"restartPolicy": "Never", "containers": [main], "initContainers": [side],
            "volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    let pod = bed.phase(&path, "Succeeded").await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["name"], "side");
    assert_eq!(pod["status"]["containerStatuses"][0]["image"], IMAGE);
    bed.delete(&path, 0);
    bed.gone(&path).await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_until_a_place_is_free() {
    let Some(bed) = Bed::new().await else { return };
    let node = bed.api.get("/api/v1/nodes/n1").expect("node");
    let cpus: u64 = node["status"]["allocatable"]["cpu"].as_str().and_then(|c| c.parse().ok()).expect("cpus");
    let most = |script: &str| {
        let mut c = shell("main", script);
        c["resources"] = json!({"requests": {"cpu": format!("{}m", cpus * 700)}});
        json!({"containers": [c], "terminationGracePeriodSeconds": 5})
    };
    let first = bed.pod("first", most("trap '' TERM; while :; do sleep 0.1; done"));
    bed.ready(&first).await;
    let second = bed.pod("second", most(WAIT));
    let refused = bed.phase(&second, "Failed").await;
    assert_eq!(refused["status"]["reason"], "OutOfcpu");
    assert!(refused["status"]["containerStatuses"].is_null(), "{}", refused["status"]);
    assert!(refused["status"]["message"].as_str().is_some_and(|m| m.starts_with("Pod was rejected: ")));
    // Taken out of the API, its place is free, though it still takes its time to stop.
    bed.api.remove(&first);
    let third = bed.pod("third", most(WAIT));
    bed.ready(&third).await;
    for path in [&second, &third] {
        bed.delete(path, 0);
        bed.gone(path).await;
    }
    bed.down().await;
}
