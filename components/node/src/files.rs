//! The files every container gets from the node: hosts, resolv.conf, hostname.

use crate::config::Config;
use k8s_openapi::api::core::v1::{HostAlias, Pod};
use std::fmt::Write;
use std::net::IpAddr;

const MAX_SEARCH: usize = 32;
const MAX_NAMESERVERS: usize = 3;

/// The pod's host name and, if it has a subdomain, its name in the cluster's DNS.
pub fn names(pod: &Pod, config: &Config) -> (String, Option<String>) {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let mut hostname = spec
        .and_then(|s| s.hostname.clone())
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| meta.name.clone().unwrap_or_default());
    if hostname.len() > 63 {
        hostname.truncate(63);
        hostname.truncate(hostname.trim_end_matches(['-', '.']).len());
    }
    if let Some(name) = spec.and_then(|s| s.hostname_override.clone()).filter(|h| !h.is_empty()) {
        return (name, None);
    }
    let fqdn = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty()).map(|sub| {
        let ns = meta.namespace.as_deref().unwrap_or_default();
        format!("{hostname}.{sub}.{ns}.svc.{}", config.cluster_domain)
    });
    (hostname, fqdn)
}

/// What `hostname` says inside the pod.
pub fn kernel_hostname(pod: &Pod, config: &Config) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.host_network) == Some(true)
        && spec.and_then(|s| s.hostname_override.as_ref()).is_none()
    {
        return Ok(config.hostname.clone());
    }
    let (hostname, fqdn) = names(pod, config);
    match fqdn.filter(|_| spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true)) {
        Some(fqdn) if fqdn.len() > 64 => Err(format!(
            "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {fqdn} is too long (64 characters is \
             the max, {} characters requested)",
            fqdn.len()
        )),
        Some(fqdn) => Ok(fqdn),
        None => Ok(hostname),
    }
}

pub fn hosts(pod: &Pod, config: &Config, ips: &[IpAddr], host_file: Option<&str>) -> String {
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    let mut out = match host_file {
        Some(text) => format!("# Kubernetes-managed hosts file (host network).\n{text}"),
        None => {
            let (hostname, fqdn) = names(pod, config);
            let mut out = String::from(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            for ip in ips {
                let _ = match &fqdn {
                    Some(fqdn) => writeln!(out, "{ip}\t{fqdn}\t{hostname}"),
                    None => writeln!(out, "{ip}\t{hostname}"),
                };
            }
            out
        }
    };
    out.push_str(&alias_lines(aliases));
    out
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for a in aliases {
        let _ = writeln!(out, "{}\t{}", a.ip, a.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
    out
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                Some("search") => out.search = words.filter(|w| *w != ".").map(str::to_owned).collect(),
                Some("options") => out.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        out
    }

    fn write(&self) -> String {
        let mut out = String::new();
        if !self.search.is_empty() {
            let _ = writeln!(out, "search {}", self.search.join(" "));
        }
        for s in &self.servers {
            let _ = writeln!(out, "nameserver {s}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(out, "options {}", self.options.join(" "));
        }
        out
    }
}

/// `/etc/resolv.conf` by the pod's DNS policy and settings. `host` is the machine's own file.
pub fn resolv_conf(pod: &Pod, config: &Config, host: &str) -> String {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let policy = match spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst") {
        "ClusterFirst" if host_network => "Default",
        "ClusterFirstWithHostNet" => "ClusterFirst",
        other => other,
    };
    let mut r = match policy {
        "None" => Resolver::default(),
        "ClusterFirst" if !config.cluster_dns.is_empty() => {
            let ns = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = &config.cluster_domain;
            let mut search = vec![format!("{ns}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            for extra in Resolver::parse(host).search {
                if !search.contains(&extra) {
                    search.push(extra);
                }
            }
            Resolver {
                servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
                search,
                options: vec!["ndots:5".into()],
            }
        }
        _ => Resolver::parse(host),
    };
    if let Some(extra) = spec.and_then(|s| s.dns_config.as_ref()) {
        for server in extra.nameservers.iter().flatten() {
            if !r.servers.contains(server) {
                r.servers.push(server.clone());
            }
        }
        for domain in extra.searches.iter().flatten() {
            if !r.search.contains(domain) {
                r.search.push(domain.clone());
            }
        }
        for option in extra.options.iter().flatten() {
            let Some(name) = option.name.as_deref().filter(|n| !n.is_empty()) else { continue };
            let written = match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            };
            r.options.retain(|o| o.split(':').next() != Some(name));
            r.options.push(written);
        }
    }
    r.search.truncate(MAX_SEARCH);
    r.servers.truncate(MAX_NAMESERVERS);
    r.write()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn config() -> Config {
        let mut c = crate::test_config("/tmp/none");
        c.cluster_dns = vec!["10.96.0.10".parse().expect("ip")];
        c
    }

    fn pod(spec: PodSpec) -> Pod {
        let metadata =
            ObjectMeta { name: Some("web-0".into()), namespace: Some("shop".into()), ..Default::default() };
        Pod { metadata, spec: Some(spec), ..Default::default() }
    }

    #[test]
    fn cluster_first() {
        let text =
            resolv_conf(&pod(PodSpec::default()), &config(), "nameserver 1.1.1.1\nsearch corp.example\n");
        assert_eq!(
            text,
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
    }

    #[test]
    fn none_with_config() {
        let spec = PodSpec {
            dns_policy: Some("None".into()),
            dns_config: Some(PodDNSConfig {
                nameservers: Some(vec!["1.2.3.4".into()]),
                searches: Some(vec!["x.y".into()]),
                options: Some(vec![
                    PodDNSConfigOption { name: Some("ndots".into()), value: Some("2".into()) },
                    PodDNSConfigOption { name: Some("edns0".into()), value: None },
                ]),
            }),
            ..Default::default()
        };
        assert_eq!(
            resolv_conf(&pod(spec), &config(), "nameserver 9.9.9.9"),
            "search x.y\nnameserver 1.2.3.4\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn hosts_with_subdomain_and_aliases() {
        let spec = PodSpec {
            subdomain: Some("web".into()),
            host_aliases: Some(vec![HostAlias {
                ip: "1.1.1.1".into(),
                hostnames: Some(vec!["a".into(), "b".into()]),
            }]),
            ..Default::default()
        };
        let text = hosts(&pod(spec), &config(), &["10.1.0.5".parse().expect("ip")], None);
        assert!(text.contains("10.1.0.5\tweb-0.web.shop.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("# Entries added by HostAliases.\n1.1.1.1\ta\tb\n"));
    }
}
