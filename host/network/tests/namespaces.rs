//! The real kernel: two pods and a service in namespaces of the test's own. Needs root.

use network::dataplane::{Backend, Cidr, Dataplane, Protocol, Service};
use network::machine::{Machine, tear_down};
use network::pods::{Attach, Pods, WantedPort};
use network::rtnl::{Rtnl, in_netns};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

/// A network namespace pinned by a thread that lives in it.
struct Netns {
    path: String,
    _keep: std::sync::mpsc::Sender<()>,
}

impl Netns {
    #[allow(unsafe_code)]
    fn new() -> Option<Self> {
        let (ready, path) = std::sync::mpsc::channel();
        let (keep, gone) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            // SAFETY: only this thread's network namespace changes, and no file descriptor table is shared away.
            let made = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
            let tid = rustix::thread::gettid().as_raw_nonzero();
            let _ = ready.send(made.ok().map(|()| format!("/proc/{}/task/{tid}/ns/net", std::process::id())));
            let _ = gone.recv();
        });
        Some(Self { path: path.recv().ok()??, _keep: keep })
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_netns(&self.path, || Ok(work())).expect("enter namespace")
    }
}

/// Answers every connection on `port` with `word`, from a thread inside the namespace.
fn serve(netns: &Netns, port: u16, word: &'static str) {
    let listener = netns.run(|| TcpListener::bind(("0.0.0.0", port)).expect("bind"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            let from = stream.peer_addr().expect("peer");
            let _ = write!(stream, "{word} {}", from.ip());
        }
    });
}

fn ask(netns: &Netns, ip: Ipv4Addr, port: u16) -> std::io::Result<String> {
    netns.run(|| {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddrV4::new(ip, port).into(), Duration::from_secs(2))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

#[test]
fn pods_services_and_host_ports_on_a_real_kernel() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let (Some(machine_ns), Some(a), Some(b)) = (Netns::new(), Netns::new(), Netns::new()) else {
        println!("skipped: this kernel makes no network namespaces");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = camino::Utf8PathBuf::from_path_buf(folder.path().join("pods")).unwrap();
    let machine = Machine {
        tag: "t3st".into(),
        pod_cidr: "10.250.7.0/24".parse().unwrap(),
        service_cidr: "10.97.0.0/16".parse().unwrap(),
    };
    let cluster: Cidr = "10.250.0.0/16".parse().unwrap();
    let vip = Ipv4Addr::new(10, 97, 0, 80);
    let service = |backends: Vec<Backend>, affinity| Service {
        id: "web".into(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ips: vec![vip],
        external_ips: vec![],
        node_port: Some(30080),
        backends,
        local_backends: None,
        affinity_seconds: affinity,
    };

    let (pods, dataplane, ip_a, ip_b) = machine_ns.run(|| {
        machine.set_up().unwrap();
        machine.set_up().unwrap();
        let dataplane = Dataplane::open(&machine.table(), cluster).unwrap();
        let pods = Pods::open(&folder, &machine, 1500, dataplane.clone()).unwrap();
        let attach = |uid: &str, netns: &Netns, host_ports| {
            let pod =
                Attach { uid: uid.into(), name: format!("ns/{uid}"), netns: netns.path.clone(), host_ports };
            let ip = pods.attach(&pod).unwrap();
            assert_eq!(pods.attach(&pod).unwrap(), ip, "joining twice keeps the address");
            ip
        };
        let port = WantedPort { address: None, protocol: 6, host_port: 18080, container_port: 8080 };
        let ip_a = attach("a", &a, vec![port.clone()]);
        let ip_b = attach("b", &b, vec![]);
        let clash =
            Attach { uid: "c".into(), name: "ns/c".into(), netns: b.path.clone(), host_ports: vec![port] };
        assert!(pods.attach(&clash).is_err());
        (pods, dataplane, ip_a, ip_b)
    });
    serve(&a, 8080, "a");
    serve(&b, 8080, "b");

    // Directly, both ways, with the true source.
    assert_eq!(ask(&a, ip_b, 8080).unwrap(), format!("b {ip_a}"));
    assert_eq!(ask(&machine_ns, ip_a, 8080).unwrap(), format!("a {}", machine.gateway()));
    // By host port, from a pod: written together with the services, once those are told.
    machine_ns.run(|| dataplane.set_services(vec![])).unwrap();
    assert_eq!(ask(&b, machine.gateway(), 18080).unwrap(), format!("a {ip_b}"));

    // By service, from everywhere; a pod that reaches itself is masqueraded.
    let both = vec![Backend { address: ip_a, port: 8080 }, Backend { address: ip_b, port: 8080 }];
    machine_ns.run(|| dataplane.set_services(vec![service(both.clone(), None)])).unwrap();
    for from in [&a, &b, &machine_ns] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            seen.insert(ask(from, vip, 80).unwrap()[..1].to_owned());
        }
        assert_eq!(seen.len(), 2, "both backends answer");
    }
    let gateway = machine.gateway();
    assert!(ask(&machine_ns, gateway, 30080).is_ok(), "node port from the machine");
    assert!(ask(&a, gateway, 30080).is_ok(), "node port from a pod");

    // Affinity: one client, one backend.
    machine_ns.run(|| dataplane.set_services(vec![service(both, Some(60))])).unwrap();
    let seen: std::collections::BTreeSet<_> =
        (0..20).map(|_| ask(&a, vip, 80).unwrap()[..1].to_owned()).collect();
    assert_eq!(seen.len(), 1);

    // Nobody behind it: refused at once, not timed out.
    machine_ns.run(|| dataplane.set_services(vec![service(vec![], None)])).unwrap();
    for from in [&a, &machine_ns] {
        assert_eq!(
            ask(from, vip, 80).unwrap_err().kind(),
            std::io::ErrorKind::ConnectionRefused,
            "from {}",
            from.path
        );
    }

    // A second run takes everything over and keeps addresses; until it knows the services, the old rules serve.
    drop(pods);
    let one = vec![Backend { address: ip_b, port: 8080 }];
    machine_ns.run(|| dataplane.set_services(vec![service(one, None)])).unwrap();
    machine_ns.run(|| {
        let second = Dataplane::open(&machine.table(), cluster).unwrap();
        drop(Pods::open(&folder, &machine, 1500, second).unwrap());
    });
    assert_eq!(ask(&machine_ns, vip, 80).unwrap()[..1], *"b");
    machine_ns.run(|| {
        let pods = Pods::open(&folder, &machine, 1500, dataplane.clone()).unwrap();
        assert_eq!(pods.address_of("a"), Some(ip_a));
        pods.detach_all_except(&["b".to_owned()].into()).unwrap();
        assert_eq!(pods.address_of("a"), None);
    });
    assert!(ask(&machine_ns, ip_b, 8080).is_ok());

    // Nothing is left.
    machine_ns.run(|| {
        tear_down(&machine.tag).unwrap();
        tear_down(&machine.tag).unwrap();
        let rtnl = Rtnl::open().unwrap();
        let names: Vec<_> =
            rtnl.links().unwrap().into_iter().map(|l| l.name).filter(|n| n.starts_with("ic")).collect();
        assert!(names.is_empty(), "{names:?}");
        assert!(!rtnl.addresses().unwrap().iter().any(|a| a.address == gateway));
        assert!(rtnl.routes().unwrap().is_empty());
    });
}
