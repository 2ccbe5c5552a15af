//! Service addresses and node ports: bitmaps in memory, rebuilt from the cache, changed with the write that uses
//! them.

mod bitmap;
mod cidr;

pub use cidr::Cidr;

use crate::cache::{Cache, GroupResource};
use crate::resolve::Resource;
use crate::status::ApiError;
use bitmap::{Bitmap, TakeError};
use machinery::field::{FieldError, FieldErrors, Path};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// What Services hold.
pub struct Allocators {
    cidr: Cidr,
    ports: RangeInclusive<u16>,
    state: Mutex<State>,
}

struct State {
    addresses: Bitmap,
    ports: Bitmap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Address(Ipv4Addr),
    Port(u16),
}

/// What one write takes and gives up. Dropped without [`keep`](Self::keep), it gives back what it took.
#[must_use]
pub struct Allocation<'a> {
    owner: &'a Allocators,
    taken: Vec<Item>,
    stale: Vec<Item>,
}

impl Allocation<'_> {
    /// The write succeeded.
    pub fn keep(&mut self) {
        self.taken.clear();
        let stale = std::mem::take(&mut self.stale);
        self.owner.give_back(&stale);
    }
}

impl Drop for Allocation<'_> {
    fn drop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        self.owner.give_back(&taken);
    }
}

fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
}

fn text<'a>(spec: &'a Value, field: &str) -> &'a str {
    spec[field].as_str().unwrap_or_default()
}

/// ClusterIP, NodePort and LoadBalancer Services have an address, unless headless.
fn wants_address(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName"
}

fn wants_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != Value::Bool(false),
        _ => false,
    }
}

/// Whether the type may have node ports, given or not.
fn may_have_ports(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn wants_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// Everything a stored Service holds.
fn held(service: &Value) -> Vec<Item> {
    let spec = &service["spec"];
    let mut out = Vec::new();
    if wants_address(spec)
        && let Ok(ip) = text(spec, "clusterIP").parse()
    {
        out.push(Item::Address(ip));
    }
    let ports = spec["ports"].as_array().into_iter().flatten().map(|p| &p["nodePort"]);
    for port in ports.chain([&spec["healthCheckNodePort"]]) {
        if let Some(port) = port.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)
            && !out.contains(&Item::Port(port))
        {
            out.push(Item::Port(port));
        }
    }
    out
}

impl Allocators {
    pub fn new(cidr: Cidr, ports: RangeInclusive<u16>) -> Result<Self, String> {
        if ports.is_empty() {
            return Err("the node port range is empty".into());
        }
        let addresses = Bitmap::new(cidr.usable(), cidr.static_band());
        let count = usize::from(ports.end() - ports.start()) + 1;
        let band = if count >= 32 { (count / 32).clamp(16, 128) } else { 0 };
        let port_map = Bitmap::new(count, band);
        Ok(Self { cidr, ports, state: Mutex::new(State { addresses, ports: port_map }) })
    }

    /// The first address: the `kubernetes` Service's.
    pub fn first(&self) -> Ipv4Addr {
        self.cidr.address(0)
    }

    /// Takes everything existing Services hold.
    pub fn rebuild(&self, cache: &Cache) {
        let services = cache.resource(&GroupResource::new("", "services"));
        let mut state = self.state.lock();
        for entry in services.snapshot().iter() {
            let Ok(service) = entry.object() else { continue };
            for item in held(&service) {
                if let Err(why) = self.take(&mut state, item) {
                    tracing::warn!(
                        namespace = %entry.namespace, name = %entry.name, ?item, why = %self.say(item, why),
                        "a stored Service holds what cannot be taken"
                    );
                }
            }
        }
    }

    fn take(&self, state: &mut State, item: Item) -> Result<(), TakeError> {
        match item {
            Item::Address(ip) => state.addresses.take(self.cidr.index(ip).ok_or(TakeError::OutOfRange)?),
            Item::Port(port) if self.ports.contains(&port) => {
                state.ports.take(usize::from(port - self.ports.start()))
            }
            Item::Port(_) => Err(TakeError::OutOfRange),
        }
    }

    fn give_back(&self, items: &[Item]) {
        if items.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for item in items {
            match item {
                Item::Address(ip) => {
                    if let Some(at) = self.cidr.index(*ip) {
                        state.addresses.free(at);
                    }
                }
                Item::Port(port) if self.ports.contains(port) => {
                    state.ports.free(usize::from(port - self.ports.start()));
                }
                Item::Port(_) => {}
            }
        }
    }

    /// Frees what a removed object held.
    pub fn release(&self, resource: &Resource, object: &Value) {
        if is_service(resource) {
            self.give_back(&held(object));
        }
    }

    /// Gives a Service that is about to be written what it needs. Other kinds pass through.
    pub fn allocate(
        &self,
        resource: &Resource,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<Allocation<'_>, ApiError> {
        let mut allocation = Allocation { owner: self, taken: Vec::new(), stale: Vec::new() };
        if !is_service(resource) {
            return Ok(allocation);
        }
        let before = old.map(held).unwrap_or_default();
        if let Some(old) = old {
            carry_over(&mut new["spec"], &old["spec"]);
        }
        let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        link_addresses(&mut new["spec"], old.map(|o| &o["spec"]));
        family_policy(&mut new["spec"], old.map(|o| &o["spec"]));
        // What can not be allocated for is refused before anything else is looked at.
        let mut errors = kinds::service_addresses(&new["spec"]);
        if !errors.0.is_empty() {
            return Err(ApiError::invalid("", "Service", &name, &errors));
        }
        {
            let mut state = self.state.lock();
            self.address(&mut state, &mut new["spec"], &before, &mut allocation.taken, &mut errors);
            self.node_ports(&mut state, &mut new["spec"], &before, &mut allocation.taken, &mut errors);
        }
        if !errors.0.is_empty() {
            return Err(ApiError::invalid("", "Service", &name, &errors));
        }
        let after = held(new);
        allocation.stale = before.into_iter().filter(|i| !after.contains(i)).collect();
        Ok(allocation)
    }

    fn address(
        &self,
        state: &mut State,
        spec: &mut Value,
        before: &[Item],
        taken: &mut Vec<Item>,
        errors: &mut FieldErrors,
    ) {
        if !wants_address(spec) {
            return;
        }
        let asked = match text(spec, "clusterIP") {
            "" => spec["clusterIPs"][0].as_str().unwrap_or_default().to_owned(),
            ip => ip.to_owned(),
        };
        let path = Path::new("spec.clusterIPs");
        let ip = match asked.as_str() {
            "None" => {
                spec["clusterIP"] = "None".into();
                spec["clusterIPs"] = json!(["None"]);
                families(spec);
                return;
            }
            "" => match state.addresses.take_any() {
                Some(at) => {
                    let ip = self.cidr.address(at);
                    taken.push(Item::Address(ip));
                    ip
                }
                None => {
                    errors
                        .0
                        .push(FieldError::internal(&path, "failed to allocate a serviceIP: range is full"));
                    return;
                }
            },
            given => {
                // Whether it is an address at all is validation's to say.
                let Ok(ip) = given.parse::<Ipv4Addr>() else { return };
                let item = Item::Address(ip);
                if !before.contains(&item) {
                    if let Err(why) = self.take(state, item) {
                        errors.0.push(FieldError::invalid(
                            &path,
                            json!([given]),
                            format!("failed to allocate IP {given}: {}", self.say(item, why)),
                        ));
                        return;
                    }
                    taken.push(item);
                }
                ip
            }
        };
        spec["clusterIP"] = ip.to_string().into();
        spec["clusterIPs"] = json!([ip.to_string()]);
        families(spec);
    }

    fn node_ports(
        &self,
        state: &mut State,
        spec: &mut Value,
        before: &[Item],
        taken: &mut Vec<Item>,
        errors: &mut FieldErrors,
    ) {
        let wanted = wants_ports(spec);
        let health = wants_health_port(spec);
        let mut own: Vec<(u16, String)> = Vec::new();
        for (i, port) in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate()
        {
            let asked = port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            if asked == 0 {
                if wanted {
                    match self.any_port(state) {
                        Some(number) => {
                            taken.push(Item::Port(number));
                            own.push((number, protocol));
                            port["nodePort"] = number.into();
                        }
                        None => errors.0.push(FieldError::internal(
                            &Path::new("spec.ports").index(i).child("nodePort"),
                            "failed to allocate a nodePort: range is full",
                        )),
                    }
                }
                continue;
            }
            let shared = own.iter().any(|(n, p)| *n == asked && *p != protocol);
            own.push((asked, protocol));
            self.port(state, asked, shared, before, taken, || format!("spec.ports[{i}].nodePort"), errors);
        }
        let given = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
        let asked = u16::try_from(given).unwrap_or(0);
        if health && given == 0 {
            if let Some(number) = self.any_port(state) {
                taken.push(Item::Port(number));
                spec["healthCheckNodePort"] = number.into();
            }
        } else if asked != 0 {
            self.port(state, asked, false, before, taken, || "spec.healthCheckNodePort".into(), errors);
        }
    }

    fn any_port(&self, state: &mut State) -> Option<u16> {
        let at = state.ports.take_any()?;
        u16::try_from(at).ok().map(|at| self.ports.start() + at)
    }

    fn port(
        &self,
        state: &mut State,
        number: u16,
        shared: bool,
        before: &[Item],
        taken: &mut Vec<Item>,
        path: impl Fn() -> String,
        errors: &mut FieldErrors,
    ) {
        let item = Item::Port(number);
        if shared || before.contains(&item) {
            return;
        }
        match self.take(state, item) {
            Ok(()) => taken.push(item),
            Err(why) => {
                errors.0.push(FieldError::invalid(&Path::new(&path()), number, self.say(item, why)));
            }
        }
    }

    fn say(&self, item: Item, why: TakeError) -> String {
        match (item, why) {
            (Item::Address(_), TakeError::Taken) => "provided IP is already allocated".into(),
            (Item::Address(_), TakeError::OutOfRange) => {
                format!("provided IP is not in the valid range. The range of valid IPs is {}", self.cidr)
            }
            (Item::Port(_), TakeError::Taken) => "provided port is already allocated".into(),
            (Item::Port(_), TakeError::OutOfRange) => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.ports.start(),
                self.ports.end()
            ),
        }
    }
}

/// Upstream's `patchAllocatedValues`: an update that leaves out what was allocated keeps it.
fn carry_over(new: &mut Value, old: &Value) {
    if wants_address(new) && wants_address(old) && text(new, "clusterIP").is_empty() {
        new["clusterIP"] = old["clusterIP"].clone();
        if new["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
            new["clusterIPs"] = old["clusterIPs"].clone();
        }
    }
    if !wants_address(new) && wants_address(old) && new["clusterIP"] == old["clusterIP"] {
        // Became an ExternalName: what was allocated goes, unless it was asked for again.
        if let Some(spec) = new.as_object_mut() {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
        }
    }
    let key = |p: &Value| (p["port"].clone(), p["protocol"].clone());
    let kept = wants_ports(new) && wants_ports(old);
    let dropped = !may_have_ports(new) && may_have_ports(old);
    let before: Vec<Value> = old["ports"].as_array().cloned().unwrap_or_default();
    for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = before.iter().find(|o| key(o) == key(port));
        let Some(same) = same.filter(|o| o["nodePort"].as_u64().is_some_and(|n| n > 0)) else { continue };
        let asked = port["nodePort"].as_u64().unwrap_or(0);
        if kept && asked == 0 {
            port["nodePort"] = same["nodePort"].clone();
        } else if dropped
            && port["nodePort"] == same["nodePort"]
            && let Some(port) = port.as_object_mut()
        {
            port.remove("nodePort");
        }
    }
    if wants_health_port(new)
        && wants_health_port(old)
        && new["healthCheckNodePort"].as_u64().unwrap_or(0) == 0
    {
        new["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
    }
    if !wants_health_port(new)
        && wants_health_port(old)
        && new["healthCheckNodePort"] == old["healthCheckNodePort"]
        && let Some(spec) = new.as_object_mut()
    {
        spec.remove("healthCheckNodePort");
    }
}

/// The single address and the list say the same: where a client changed one of them, the other follows.
fn link_addresses(spec: &mut Value, old: Option<&Value>) {
    if !wants_address(spec) {
        return;
    }
    let none = |spec: &Value| spec["clusterIPs"].as_array().is_none_or(Vec::is_empty);
    let one = text(spec, "clusterIP").to_owned();
    let Some(old) = old else {
        if !one.is_empty() && none(spec) {
            spec["clusterIPs"] = json!([one]);
        }
        return;
    };
    if one == text(old, "clusterIP") {
        if none(spec) && !none(old) {
            spec["clusterIPs"] = old["clusterIPs"].clone();
        }
    } else if spec["clusterIPs"] == old["clusterIPs"] || (none(spec) && none(old)) {
        if !one.is_empty() {
            spec["clusterIPs"] = json!([one]);
        } else if let Some(spec) = spec.as_object_mut() {
            spec.remove("clusterIPs");
        }
    }
}

/// One family is all this server has; of headless services without a selector somebody else says where they lead,
/// so they may have both.
fn family_policy(spec: &mut Value, old: Option<&Value>) {
    if !wants_address(spec) || !spec["ipFamilyPolicy"].is_null() {
        return;
    }
    let before = old.map(|o| &o["ipFamilyPolicy"]).filter(|p| !p.is_null());
    spec["ipFamilyPolicy"] = match before {
        Some(policy) => policy.clone(),
        None if text(spec, "clusterIP") == "None" && selects_nothing(spec) => "RequireDualStack".into(),
        None => "SingleStack".into(),
    };
}

fn selects_nothing(spec: &Value) -> bool {
    spec["selector"].as_object().is_none_or(|s| s.is_empty())
}

fn families(spec: &mut Value) {
    if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    let dual = text(spec, "clusterIP") == "None"
        && selects_nothing(spec)
        && text(spec, "ipFamilyPolicy") != "SingleStack";
    if let Some([one]) = spec["ipFamilies"].as_array().map(Vec::as_slice).filter(|_| dual) {
        let other = if one == "IPv4" { "IPv6" } else { "IPv4" };
        spec["ipFamilies"] = json!([one, other]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocators() -> Allocators {
        Allocators::new("10.96.0.0/24".parse().unwrap(), 30000..=30010).unwrap()
    }

    #[test]
    fn explicit_addresses_conflict_in_upstreams_words() {
        let a = allocators();
        let item = Item::Address(Ipv4Addr::new(10, 96, 0, 7));
        let mut state = a.state.lock();
        a.take(&mut state, item).unwrap();
        let again = a.take(&mut state, item).unwrap_err();
        assert_eq!(a.say(item, again), "provided IP is already allocated");
        let far = Item::Address(Ipv4Addr::new(10, 97, 0, 7));
        let why = a.take(&mut state, far).unwrap_err();
        assert_eq!(
            a.say(far, why),
            "provided IP is not in the valid range. The range of valid IPs is 10.96.0.0/24"
        );
        let port = Item::Port(29999);
        let why = a.take(&mut state, port).unwrap_err();
        assert!(a.say(port, why).ends_with("30000-30010"));
    }

    #[test]
    fn updates_keep_what_was_allocated() {
        let old = json!({"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]});
        let mut new = json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]});
        carry_over(&mut new, &old);
        assert_eq!(new["clusterIP"], "10.96.0.9");
        assert_eq!(new["ports"][0]["nodePort"], 30001);
        let mut plain = old.clone();
        plain["type"] = "ClusterIP".into();
        carry_over(&mut plain, &old);
        assert!(plain["ports"][0]["nodePort"].is_null());
    }
}
