//! What the cluster domain answers (Kubernetes DNS-Based Service Discovery 1.1.0).

use crate::TTL;
use client::{Informer, ObjectKey};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const BY_SERVICE: &str = "dns-service";
const BY_ADDRESS: &str = "dns-address";

/// Answers for one domain and its reverse names.
pub struct Zone {
    domain: Vec<String>,
    origin: Name,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

/// An authoritative answer.
#[derive(Debug, Default)]
pub struct Answer {
    pub code: Option<ResponseCode>,
    pub answers: Vec<Record>,
    pub additionals: Vec<Record>,
    /// For NXDOMAIN and NODATA.
    pub authority: Vec<Record>,
    /// A CNAME out of the domain that the forwarder should follow.
    pub follow: Option<Name>,
}

/// One member of a headless service.
struct Member {
    host: String,
    address: Ipv4Addr,
    slice: Arc<EndpointSlice>,
}

impl Zone {
    pub fn new(domain: &str, services: Informer<Service>, slices: Informer<EndpointSlice>) -> Self {
        services
            .index(BY_ADDRESS, |s| s.spec.as_ref().and_then(|s| s.cluster_ips.clone()).unwrap_or_default());
        slices.index(BY_SERVICE, |s| slice_service(s).into_iter().collect());
        slices.index(BY_ADDRESS, |s| {
            s.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().cloned()).collect()
        });
        let domain: Vec<String> = domain.trim_matches('.').split('.').map(str::to_lowercase).collect();
        let origin = Name::from_labels(domain.iter().map(|l| l.as_bytes())).unwrap_or_default();
        Self { domain, origin, services, slices }
    }

    /// Whether every answer could be given from complete knowledge.
    pub fn is_ready(&self) -> bool {
        self.services.has_synced() && self.slices.has_synced()
    }

    /// `None`: not ours, ask upstream.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Option<Answer> {
        let labels: Vec<String> = name.iter().map(|l| String::from_utf8_lossy(l).to_lowercase()).collect();
        if let Some(address) = reverse(&labels) {
            return self.pointer(name, kind, address);
        }
        let rest = labels.strip_suffix(self.domain.as_slice())?;
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        Some(self.inside(name, kind, &rest))
    }

    fn inside(&self, name: &Name, kind: RecordType, rest: &[&str]) -> Answer {
        match rest {
            [] => match kind {
                RecordType::SOA => answers(vec![self.soa()]),
                RecordType::NS => {
                    let server = Name::from_str("ns.dns").and_then(|n| n.append_domain(&self.origin));
                    let ns = server.ok().map(|n| record(name, RData::NS(hickory_proto::rr::rdata::NS(n))));
                    answers(ns.into_iter().collect())
                }
                _ => self.no_data(),
            },
            ["dns-version"] if kind == RecordType::TXT => {
                answers(vec![record(name, RData::TXT(TXT::new(vec!["1.1.0".into()])))])
            }
            ["dns-version"] | ["svc"] | ["pod"] => self.no_data(),
            [namespace, "svc"] | [namespace, "pod"] => match self.has_namespace(namespace) {
                true => self.no_data(),
                false => self.no_name(),
            },
            [dashed, namespace, "pod"] => match Ipv4Addr::from_str(&dashed.replace('-', ".")) {
                Ok(address) if self.has_namespace(namespace) => match kind {
                    RecordType::A | RecordType::ANY => answers(vec![record(name, RData::A(A(address)))]),
                    _ => self.no_data(),
                },
                _ => self.no_name(),
            },
            [service, namespace, "svc"] => self.service(name, kind, namespace, service),
            [protocol, service, namespace, "svc"] if protocol.starts_with('_') => {
                // `_tcp.web.ns.svc` exists as long as its service does, but holds nothing.
                match self.services.get(&ObjectKey::new(*namespace, *service)) {
                    Some(_) => self.no_data(),
                    None => self.no_name(),
                }
            }
            [host, service, namespace, "svc"] => self.member(name, kind, namespace, service, host),
            [port, protocol, service, namespace, "svc"] => {
                self.port(name, kind, namespace, service, port, protocol)
            }
            _ => self.no_name(),
        }
    }

    fn service(&self, name: &Name, kind: RecordType, namespace: &str, service: &str) -> Answer {
        let Some(found) = self.services.get(&ObjectKey::new(namespace, service)) else {
            return self.no_name();
        };
        let Some(spec) = found.spec.as_ref() else { return self.no_name() };
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref().and_then(|n| Name::from_str(n).ok());
            let Some(mut target) = target else { return self.no_data() };
            target.set_fqdn(true);
            let mut answer = answers(vec![record(name, RData::CNAME(CNAME(target.clone())))]);
            answer.follow = (kind != RecordType::CNAME).then_some(target);
            return answer;
        }
        let addresses = match cluster_addresses(&found) {
            Some(addresses) => addresses,
            None => {
                let members = self.members(namespace, service);
                if members.is_empty() {
                    // Headless with nobody in it does not exist, as the specification has it.
                    return self.no_name();
                }
                members.into_iter().map(|m| m.address).collect()
            }
        };
        match kind {
            RecordType::A | RecordType::ANY => {
                answers(addresses.into_iter().map(|ip| record(name, RData::A(A(ip)))).collect())
            }
            RecordType::SRV => {
                let ports = spec.ports.iter().flatten().map(|p| p.port as u16).collect::<Vec<_>>();
                answers(
                    ports
                        .into_iter()
                        .map(|p| record(name, RData::SRV(SRV::new(0, 100, p, name.clone()))))
                        .collect(),
                )
            }
            _ => self.no_data(),
        }
    }

    fn member(&self, name: &Name, kind: RecordType, namespace: &str, service: &str, host: &str) -> Answer {
        let found = self.members(namespace, service).into_iter().filter(|m| m.host == host);
        let addresses: Vec<_> = found.map(|m| m.address).collect();
        match (addresses.is_empty(), kind) {
            (true, _) => self.no_name(),
            (false, RecordType::A | RecordType::ANY) => {
                answers(addresses.into_iter().map(|ip| record(name, RData::A(A(ip)))).collect())
            }
            _ => self.no_data(),
        }
    }

    /// `_http._tcp.web.ns.svc`.
    fn port(
        &self,
        name: &Name,
        kind: RecordType,
        ns: &str,
        service: &str,
        port: &str,
        protocol: &str,
    ) -> Answer {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return self.no_name();
        };
        let Some(found) = self.services.get(&ObjectKey::new(ns, service)) else { return self.no_name() };
        let base = Name::from_labels([service.as_bytes(), ns.as_bytes(), b"svc"])
            .and_then(|n| n.append_domain(&self.origin))
            .unwrap_or_default();
        let matches = |n: Option<&str>, p: Option<&str>| {
            n.is_some_and(|n| n.eq_ignore_ascii_case(port))
                && p.unwrap_or("TCP").eq_ignore_ascii_case(protocol)
        };
        let (mut records, mut additionals) = (Vec::new(), Vec::new());
        if let Some(addresses) = cluster_addresses(&found) {
            let ports = found.spec.as_ref().and_then(|s| s.ports.as_ref());
            for p in ports.into_iter().flatten().filter(|p| matches(p.name.as_deref(), p.protocol.as_deref()))
            {
                records.push(record(name, RData::SRV(SRV::new(0, 100, p.port as u16, base.clone()))));
                additionals.extend(addresses.iter().map(|ip| record(&base, RData::A(A(*ip)))));
            }
        } else {
            for member in self.members(ns, service) {
                let ports = member.slice.ports.iter().flatten();
                for p in ports.filter(|p| matches(p.name.as_deref(), p.protocol.as_deref())) {
                    let Ok(target) = base.prepend_label(member.host.as_bytes()) else { continue };
                    let number = p.port.unwrap_or_default() as u16;
                    additionals.push(record(&target, RData::A(A(member.address))));
                    records.push(record(name, RData::SRV(SRV::new(0, 100, number, target))));
                }
            }
        }
        match (records.is_empty(), kind) {
            (true, _) => self.no_name(),
            (false, RecordType::SRV | RecordType::ANY) => {
                Answer { answers: records, additionals, ..Answer::default() }
            }
            _ => self.no_data(),
        }
    }

    fn pointer(&self, name: &Name, kind: RecordType, address: Ipv4Addr) -> Option<Answer> {
        let text = address.to_string();
        let mut targets: Vec<Vec<String>> = Vec::new();
        for service in self.services.by_index(BY_ADDRESS, &text) {
            targets.push(vec![meta(&service.metadata.name), meta(&service.metadata.namespace)]);
        }
        for slice in self.slices.by_index(BY_ADDRESS, &text) {
            let Some(service) = slice_service(&slice) else { continue };
            let (namespace, service) = service.split_once('/').unwrap_or_default();
            let headless = self.services.get(&ObjectKey::new(namespace, service));
            if headless.is_none_or(|s| cluster_addresses(&s).is_some()) {
                continue;
            }
            for endpoint in slice.endpoints.iter().flatten().filter(|e| e.addresses.contains(&text)) {
                // Only endpoints that were given a hostname have a name of their own to point back to.
                if let Some(host) = &endpoint.hostname {
                    targets.push(vec![host.clone(), service.to_owned(), namespace.to_owned()]);
                }
            }
        }
        if targets.is_empty() {
            return None;
        }
        if !matches!(kind, RecordType::PTR | RecordType::ANY) {
            return Some(self.no_data());
        }
        let records = targets.into_iter().filter_map(|mut labels| {
            labels.push("svc".into());
            let target = Name::from_labels(labels.iter().map(|l| l.as_bytes())).ok()?;
            Some(record(name, RData::PTR(PTR(target.append_domain(&self.origin).ok()?))))
        });
        Some(answers(records.collect()))
    }

    /// Ready endpoints of a headless service (`publishNotReadyAddresses` makes them ready in the slice).
    fn members(&self, namespace: &str, service: &str) -> Vec<Member> {
        let mut members = Vec::new();
        for slice in self.slices.by_index(BY_SERVICE, &format!("{namespace}/{service}")) {
            if slice.address_type != "IPv4" {
                continue;
            }
            for endpoint in slice.endpoints.iter().flatten().filter(|e| is_ready(e)) {
                for address in endpoint.addresses.iter().filter_map(|a| Ipv4Addr::from_str(a).ok()) {
                    let host =
                        endpoint.hostname.clone().unwrap_or_else(|| address.to_string().replace('.', "-"));
                    members.push(Member { host: host.to_lowercase(), address, slice: slice.clone() });
                }
            }
        }
        members
    }

    /// Services are what makes a namespace visible here.
    fn has_namespace(&self, namespace: &str) -> bool {
        !self.services.namespace(namespace).is_empty()
    }

    fn no_name(&self) -> Answer {
        Answer { code: Some(ResponseCode::NXDomain), authority: vec![self.soa()], ..Answer::default() }
    }

    fn no_data(&self) -> Answer {
        Answer { authority: vec![self.soa()], ..Answer::default() }
    }

    fn soa(&self) -> Record {
        let under = |label: &str| self.origin.prepend_label(label).unwrap_or_default();
        let server = under("dns").prepend_label("ns").unwrap_or_default();
        record(&self.origin, RData::SOA(SOA::new(server, under("hostmaster"), 1, 7200, 1800, 86400, TTL)))
    }
}

fn answers(answers: Vec<Record>) -> Answer {
    Answer { answers, ..Answer::default() }
}

fn record(name: &Name, data: RData) -> Record {
    let mut name = name.clone();
    name.set_fqdn(true);
    Record::from_rdata(name, TTL, data)
}

fn meta(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

fn slice_service(slice: &EndpointSlice) -> Option<String> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(format!("{}/{service}", slice.metadata.namespace.as_deref()?))
}

/// `None` for a headless service.
fn cluster_addresses(service: &Service) -> Option<Vec<Ipv4Addr>> {
    let spec = service.spec.as_ref()?;
    if spec.cluster_ip.as_deref().is_none_or(|ip| ip.is_empty() || ip == "None") {
        return None;
    }
    let all = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none()));
    Some(all.filter_map(|ip| ip.parse().ok()).collect())
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

/// The address of an `in-addr.arpa` name.
fn reverse(labels: &[String]) -> Option<Ipv4Addr> {
    let [d, c, b, a, arpa @ ..] = labels else { return None };
    let octet = |l: &String| l.parse::<u8>().ok();
    (arpa == ["in-addr", "arpa"]).then(|| Some(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?)))?
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
