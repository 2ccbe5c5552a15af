//! The command line: every flag, its default, and a manual page's worth of help.

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};
use network::dataplane::Cidr;

#[derive(Parser)]
#[command(
    name = "ironclad",
    version,
    about = "A production Kubernetes application platform in one binary",
    long_about = "A production Kubernetes application platform in one binary.\n\n\
        `ironclad up` makes this machine a cluster: API server, store, scheduler, controllers, node agent with its own \
        container runtime, pod network, Services and DNS. Nothing else has to be installed. It stays in the foreground; \
        another shell uses it with kubectl:\n\n    \
        export KUBECONFIG=/var/lib/ironclad/admin.kubeconfig\n    kubectl get nodes",
    after_long_help = "EXIT STATUS\n    0  success\n    1  the operation failed; one sentence on standard error says why and what to do\n    \
        2  the command line is wrong\n\nENVIRONMENT\n    IRONCLAD_LOG  log filter, as \"info\" or \"apiserver=debug,warn\" (default: warn)"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run control plane and node in this process: a working cluster
    Up(Up),
    /// Run the control plane alone; needs no root
    Server(Server),
    /// Run the node alone, for the cluster a kubeconfig names
    Agent(Agent),
    /// Stop the pods and take away every link, rule, mount and cgroup of a cluster on this machine
    Down(Down),
    /// Images of this machine: import, pull, list, remove
    Image(Image),
    /// Back up the embedded store, and restore it
    Snapshot(Snapshot),
    /// Deploy the example application and print a URL that answers
    Demo(Demo),
    /// Print versions
    Version(Version),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Args, Clone, Debug)]
pub struct DataDir {
    /// Folder of everything this cluster keeps on this machine; made if missing
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ironclad", env = "IRONCLAD_DATA_DIR")]
    pub data_dir: Utf8PathBuf,
}

#[derive(Args, Clone, Debug)]
pub struct ControlPlane {
    /// Port of the API server on all addresses; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 6443)]
    pub port: u16,

    /// Where state is kept: "embedded" (in the data directory) or "etcd=URL,URL"
    #[arg(long, value_name = "ENGINE", default_value = "embedded")]
    pub store: StoreChoice,

    /// Addresses of all pods; each node takes a /24 of it
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    pub pod_cidr: Cidr,

    /// Addresses of all Services; the first is `kubernetes`, the tenth is cluster DNS
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/12")]
    pub service_cidr: Cidr,

    /// Address that pods and other machines reach the API server at [default: that of the default route]
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<std::net::Ipv4Addr>,

    /// Further names and addresses for the API server's certificate
    #[arg(long, value_name = "NAME,IP", value_delimiter = ',')]
    pub tls_san: Vec<String>,

    /// CA of the etcd servers, with `--store etcd=https://...`
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<Utf8PathBuf>,
    /// Client certificate for the etcd servers
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<Utf8PathBuf>,
    /// Key of `--etcd-certfile`
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<Utf8PathBuf>,

    /// How far back lists can be read at an old version; etcd forgets as often what is older
    #[arg(long, value_name = "DURATION", default_value = "5m0s", value_parser = crate::api_flags::duration)]
    pub etcd_compaction_interval: std::time::Duration,

    /// Run no controllers: another controller manager does, or tests want the API alone
    #[arg(long)]
    pub disable_controller_manager: bool,
    /// Run no scheduler: another one does, or tests want the API alone
    #[arg(long)]
    pub disable_scheduler: bool,

    #[command(flatten)]
    pub identity: crate::identity::Flags,
    #[command(flatten)]
    pub api: crate::api_flags::ApiFlags,
}

#[derive(Args, Clone, Debug)]
pub struct Node {
    /// Name of this machine's Node object [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// Domain of cluster DNS
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// Registries (host:port) that are spoken to without TLS; loopback ones always may be
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub insecure_registry: Vec<String>,

    /// Most pods this node takes
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub max_pods: u32,
}

/// Runs everything a cluster needs on this machine, in the foreground, with a line a step. The first start makes
/// certificates and state in the data directory and writes DIR/admin.kubeconfig (mode 0600). SIGTERM or Ctrl-C stops
/// it and leaves the pods running; started again, it takes them over. `ironclad down` ends the pods too.
///
/// Several clusters can run on one machine: give each its own --data-dir, --port, --pod-cidr and --service-cidr.
#[derive(Args, Clone, Debug)]
pub struct Up {
    #[command(flatten)]
    pub data_dir: DataDir,
    #[command(flatten)]
    pub control_plane: ControlPlane,
    #[command(flatten)]
    pub node: Node,
    /// How progress is told: text, or one JSON object a line
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// API server, store, scheduler and controllers, without a node. Needs no root.
///
/// With --disable-controller-manager and --disable-scheduler it is an API server with its store and nothing that acts on
/// what is written: what tests of operators use envtest for.
#[derive(Args, Clone, Debug)]
pub struct Server {
    #[command(flatten)]
    pub data_dir: DataDir,
    #[command(flatten)]
    pub control_plane: ControlPlane,
    /// How progress is told: text, or one JSON object a line
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// The node agent, container runtime, pod network, service proxy and cluster DNS of one machine, for a cluster whose
/// control plane runs elsewhere.
#[derive(Args, Clone, Debug)]
pub struct Agent {
    /// Kubeconfig of the node's identity (user system:node:NAME) or of an administrator
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Utf8PathBuf,
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Addresses of all Services, as the control plane has them
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/12")]
    pub service_cidr: Cidr,
    /// Addresses of all pods, as the control plane has them
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    pub pod_cidr: Cidr,
    #[command(flatten)]
    pub node: Node,
    /// How progress is told: text, or one JSON object a line
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// Ends a running `ironclad up` of the same data directory, stops its pods and removes every network link, route,
/// nftables table, mount and cgroup it made. State and images stay, so that `ironclad up` starts where it was.
/// Does nothing, successfully, when there is nothing.
#[derive(Args, Clone, Debug)]
pub struct Down {
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Delete the data directory too: all objects, certificates and images
    #[arg(long)]
    pub purge: bool,
    /// Print what was removed as text or as one JSON object
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Args, Clone, Debug)]
pub struct Image {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Subcommand, Clone, Debug)]
pub enum ImageCommand {
    /// Import images from a docker-archive, an OCI archive (plain, gzip or zstd) or an OCI layout folder
    Import {
        /// The archive or folder
        path: Utf8PathBuf,
        /// Name for an image that brings none
        #[arg(long, value_name = "NAME:TAG")]
        name: Option<String>,
        #[command(flatten)]
        data_dir: DataDir,
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Pull an image from its registry
    Pull {
        /// As in a pod: nginx, docker.io/library/nginx:1.27, host:5000/app@sha256:...
        image: String,
        /// USER:PASSWORD for the registry
        #[arg(long, value_name = "USER:PASSWORD")]
        creds: Option<String>,
        /// Registries (host:port) that are spoken to without TLS; loopback ones always may be
        #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
        insecure_registry: Vec<String>,
        #[command(flatten)]
        data_dir: DataDir,
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// List images
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        data_dir: DataDir,
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Remove images; one that a container uses is refused
    Rm {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
        #[command(flatten)]
        data_dir: DataDir,
    },
}

/// One file with everything the embedded store of a data directory holds, at one revision. Certificates and keys
/// (DIR/pki) are not in it: keep a copy of that folder beside your snapshots. With `--store etcd=...`, use etcd's tools.
#[derive(Args, Clone, Debug)]
pub struct Snapshot {
    #[command(subcommand)]
    pub command: SnapshotCommand,
}

#[derive(Subcommand, Clone, Debug)]
pub enum SnapshotCommand {
    /// Save the store to a new file, also while a cluster uses it
    Save {
        /// The file to make; one that is there is never overwritten
        file: Utf8PathBuf,
        #[command(flatten)]
        data_dir: DataDir,
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Make the store of a data directory that has none from a snapshot; nothing may run there
    ///
    /// The restored store's revision is the snapshot's plus --revision-bump, and no history lies before it: clients that
    /// saw later revisions of the lost store start their watches over, and no revision is given out twice.
    Restore {
        /// The snapshot
        file: Utf8PathBuf,
        #[command(flatten)]
        data_dir: DataDir,
        /// How far the revision jumps; must be more than the writes that were lost
        #[arg(long, value_name = "N", default_value_t = store::embedded::snapshot::BUMP)]
        revision_bump: u64,
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Check a snapshot's hash and say what is in it
    Status {
        /// The snapshot
        file: Utf8PathBuf,
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
}

/// Applies the example application (a Deployment, a Service and a ConfigMap, from an image inside this binary) to the
/// running cluster, waits until it answers and prints where.
#[derive(Args, Clone, Debug)]
pub struct Demo {
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Delete the example application again
    #[arg(long)]
    pub delete: bool,
    /// How long to wait for a cluster that is still starting
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Args, Clone, Debug)]
pub struct Version {
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// `--store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    Embedded,
    Etcd(Vec<String>),
}

impl std::str::FromStr for StoreChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "embedded" {
            return Ok(Self::Embedded);
        }
        let urls = s.strip_prefix("etcd=").ok_or("use \"embedded\" or \"etcd=http://HOST:2379,...\"")?;
        let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
        match urls.iter().find(|u| !u.starts_with("http://") && !u.starts_with("https://")) {
            Some(bad) => Err(format!("{bad:?} is not a URL such as http://127.0.0.1:2379")),
            None => Ok(Self::Etcd(urls)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn stores_are_named() {
        assert_eq!("embedded".parse(), Ok(StoreChoice::Embedded));
        assert_eq!(
            "etcd=http://a:2379,https://b:2379".parse(),
            Ok(StoreChoice::Etcd(vec!["http://a:2379".into(), "https://b:2379".into()]))
        );
        for bad in ["etcd", "etcd=", "etcd=a:2379", "sqlite"] {
            assert!(bad.parse::<StoreChoice>().is_err(), "{bad}");
        }
    }
}
