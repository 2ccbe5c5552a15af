//! The command line, written to be read as a manual.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

const AFTER: &str = "\
OUTPUT
    One JSON object a line on standard output, one line a figure:
      figure      its name, as \"idle_memory\" or \"api_create_latency\"
      value       the figure; for a distribution, its median
      unit        of value, p50 and p99
      p50, p99    of a distribution, with \"samples\", their number
      detail      what the figure was made of: processes, samples of a start, counts
      parameters  the options that shaped it
      machine     cpus, memory, kernel and the load average when it was measured
      commit      of the source tree this program was built in (or --commit)
      subject     what was measured: the product with its version, or the server's version
    Progress is on standard error.

EXIT STATUS
    0  all figures were measured (whatever they are)
    1  something could not be measured; one sentence on standard error says why
    2  the command line is wrong

NOTES
    Figures are worth something only from a release build on a quiet machine. The load is made on
    the same machine, so on few cores it takes its part of them; the server's CPU per operation
    does not contain it.";

const CLUSTER_EXAMPLES: &str = "\
EXAMPLES
    bench cluster --binary target/x86_64-unknown-linux-gnu/release/ironclad
    bench cluster --binary ./ironclad --pods 100 -- --max-pods 200";

const API_EXAMPLES: &str = "\
EXAMPLES
    bench api --kubeconfig /var/lib/ironclad/admin.kubeconfig --pid \"$(pgrep -f 'ironclad up')\"
    bench api --kubeconfig admin.conf --subject upstream \\
        --pid \"$(pidof kube-apiserver),$(pidof etcd)\"";

/// Measure a Kubernetes cluster and print one line of JSON a figure.
///
/// `bench cluster` starts the built binary as a cluster in a network namespace of its own and measures starting, idling
/// and running pods. `bench api` measures the API server of any cluster that a kubeconfig names, `bench growth` how its cost
/// grows, and `bench plot` draws that.
#[derive(Debug, Parser)]
#[command(name = "bench", version, after_long_help = AFTER, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub mode: Mode,
}

#[derive(Debug, Subcommand)]
pub enum Mode {
    Cluster(ClusterOptions),
    Api(ApiOptions),
    Growth(GrowthOptions),
    Plot(PlotOptions),
}

/// Who measured what.
#[derive(Debug, Clone, Args)]
pub struct About {
    /// Commit to name in the figures [default: that of the source tree this program was built in]
    #[arg(long, value_name = "COMMIT")]
    pub commit: Option<String>,
    /// Name of what is measured [default: its own name and version]
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
}

/// Start, idle and pods of a whole cluster that is started from a binary
///
/// Starts `PATH up` with a fresh data directory in a fresh network namespace, so that nothing on this machine is
/// disturbed, and takes it down with `PATH down --purge` in the end. Needs root, and `ip` and `nsenter` (Debian:
/// iproute2, util-linux) and a static busybox (busybox-static), from which the image of the measured pods is made.
///
/// Figures: binary_size; start_to_readyz and start_to_node_ready, over --starts fresh clusters; idle_memory and idle_cpu,
/// of the server and every process it keeps on this machine; pod_create_to_ready, one pod at a time; pods_at_once_ready,
/// from the first create to the last Ready; memory_with_pods, as idle_memory with those pods running.
#[derive(Debug, Args)]
#[command(after_long_help = CLUSTER_EXAMPLES)]
pub struct ClusterOptions {
    /// Program to measure
    #[arg(long, value_name = "PATH")]
    pub binary: PathBuf,
    /// Port of the API server in the network namespace
    #[arg(long, value_name = "N", default_value_t = 6443)]
    pub port: u16,
    /// Fresh clusters to start, one after another; the last one serves the other figures
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub starts: u32,
    /// Seconds a Ready cluster is left alone before it counts as idle
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub settle: u64,
    /// Seconds over which the CPU of the idle cluster is taken
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub window: u64,
    /// Pods, one at a time and then all at once
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub pods: u32,
    /// Folder for the data directory [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    #[command(flatten)]
    pub about: About,
    /// Further flags for `up`, after `--`, as `-- --max-pods 200`; the network namespace has
    /// nothing but loopback, so they cannot name servers of this machine
    #[arg(last = true, value_name = "FLAG")]
    pub flags: Vec<String>,
}

/// Throughput, latency and server CPU of API operations, on any cluster
///
/// Works in a namespace of its own, on pods that name a scheduler nobody runs, so that no node ever runs them. The
/// phases, each over all connections at once: create, get, list (the whole namespace), list_by_label (a fiftieth of it),
/// merge_patch, apply (server-side), watch (every object is changed once while --watchers watches are open; the latency is
/// from sending a change to its event in each watch, the throughput counts events), delete. The namespace is deleted in
/// the end.
///
/// Figures: api_PHASE_throughput and api_PHASE_latency, and with --pid api_PHASE_server_cpu, api_memory_before and
/// api_memory_after.
#[derive(Debug, Args)]
#[command(after_long_help = API_EXAMPLES)]
pub struct ApiOptions {
    /// Cluster to measure: the current context of this file
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// Pods each phase works on
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub objects: u32,
    /// Connections, each with one request under way at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Watches that are open in the watch phase, each on a connection of its own; 0 leaves the phase out
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub watchers: u32,
    /// Requests of the two list phases
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub lists: u32,
    /// Processes on this machine that serve the API (API server and, where it is another one, its store); their CPU and
    /// memory are measured
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    #[command(flatten)]
    pub about: About,
}

/// How the cost of the API grows: with objects, watches and renewed leases
///
/// Fills a namespace of its own with pods that no node runs, and at each of --objects takes the latency of a list of all, of
/// a page of 500, of a get and of a patch, and with --pid the memory. Then, at each of --watchers, changes pods under that
/// many watches; then, at each of --leases, patches pods while that many leases are renewed every ten seconds. The
/// namespace is deleted in the end.
///
/// Figures: growth_list_latency, growth_page_latency, growth_get_latency, growth_write_latency and growth_memory by
/// detail.objects; growth_delivery_cpu, growth_delivery_latency and growth_watch_memory by detail.watchers;
/// growth_lease_write_latency and growth_lease_cpu by detail.leases.
#[derive(Debug, Args)]
pub struct GrowthOptions {
    /// Cluster to measure: the current context of this file
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: PathBuf,
    /// Numbers of pods to measure at, ascending
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1000,10000")]
    pub objects: Vec<u32>,
    /// Numbers of watches to measure at, each on a connection of its own
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "10,100,1000")]
    pub watchers: Vec<u32>,
    /// Numbers of leases to measure at
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "0,1000,10000")]
    pub leases: Vec<u32>,
    /// Connections that fill and renew
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Processes on this machine that serve the API, the store's included
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    #[command(flatten)]
    pub about: About,
}

/// Draw the figures of `bench growth`
///
/// Reads files of its output and writes one SVG a figure, with a line for each subject.
#[derive(Debug, Args)]
pub struct PlotOptions {
    /// Output of `bench growth`, of one or more subjects
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Folder for the plots; must exist
    #[arg(long, value_name = "DIR", default_value = "docs/performance")]
    pub out: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_up_follow_two_dashes() {
        let cli =
            Cli::try_parse_from(["bench", "cluster", "--binary", "x", "--", "--max-pods", "200"]).unwrap();
        let Mode::Cluster(options) = cli.mode else { panic!("not cluster") };
        assert_eq!(options.flags, ["--max-pods", "200"]);
    }

    #[test]
    fn process_ids_may_be_listed() {
        let cli = Cli::try_parse_from(["bench", "api", "--kubeconfig", "x", "--pid", "1,2"]).unwrap();
        let Mode::Api(options) = cli.mode else { panic!("not api") };
        assert_eq!(options.pid, [1, 2]);
    }
}
