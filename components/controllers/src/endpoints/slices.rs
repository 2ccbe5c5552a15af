//! From wanted endpoints and existing slices to the fewest writes. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::objects::{StringMap, controller_ref, name, namespace};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::desired::{Family, Ports, is_headless, port_key};

pub const MAX_PER_SLICE: usize = 100;
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Debug, Default)]
pub struct Writes {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

impl Writes {
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }
}

/// Labels a slice of this Service should carry: the Service's own and the three of the controller.
pub fn labels(meta: &ObjectMeta, service_name: &str, headless: bool, manager: &str) -> StringMap {
    let reserved = [MANAGED_BY, SERVICE_NAME, HEADLESS];
    let own = meta.labels.iter().flatten().filter(|(k, _)| !reserved.contains(&k.as_str()));
    let mut map: StringMap = own.map(|(k, v)| (k.clone(), v.clone())).collect();
    if headless {
        map.insert(HEADLESS.into(), String::new());
    }
    map.insert(SERVICE_NAME.into(), service_name.into());
    map.insert(MANAGED_BY.into(), manager.into());
    map
}

/// What every slice of an owner has in common.
pub struct Template {
    pub labels: StringMap,
    pub owner: k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
    pub namespace: String,
    pub prefix: String,
}

impl Template {
    pub fn of_service(service: &Service, manager: &str) -> Self {
        let service_name = name(&service.metadata);
        Self {
            labels: labels(&service.metadata, service_name, is_headless(service), manager),
            owner: controller_ref(service),
            namespace: namespace(&service.metadata).to_owned(),
            prefix: format!("{service_name}-"),
        }
    }
}

/// The writes that turn `existing` into slices holding exactly `wanted`, touching as few slices as can be.
pub fn reconcile(
    template: &Template,
    existing: &[Arc<EndpointSlice>],
    wanted: BTreeMap<Family, BTreeMap<String, (Ports, Vec<Endpoint>)>>,
) -> Writes {
    let mut writes = Writes::default();
    let mut groups: HashMap<(String, String), Vec<&Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        let key = (slice.address_type.clone(), port_key(slice.ports.as_deref().unwrap_or(&[])));
        groups.entry(key).or_default().push(slice);
    }
    for (family, by_ports) in wanted {
        // A Service without endpoints still has one empty slice, so that its state is known.
        let by_ports =
            if by_ports.is_empty() { [(String::new(), (Vec::new(), Vec::new()))].into() } else { by_ports };
        for (key, (ports, endpoints)) in by_ports {
            let slices = groups.remove(&(family.as_str().to_owned(), key)).unwrap_or_default();
            group(template, family, &ports, endpoints, &slices, &mut writes);
        }
    }
    writes.delete.extend(groups.into_values().flatten().cloned());
    reuse(&mut writes);
    writes
}

/// The identity of an endpoint: where it points and on which address.
fn identity(e: &Endpoint) -> String {
    let uid = e.target_ref.as_ref().and_then(|t| t.uid.as_deref()).unwrap_or("");
    format!("{uid}/{}", e.addresses.join(","))
}

fn group(
    template: &Template,
    family: Family,
    ports: &Ports,
    endpoints: Vec<Endpoint>,
    slices: &[&Arc<EndpointSlice>],
    writes: &mut Writes,
) {
    let mut left: BTreeMap<String, Endpoint> = endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let mut kept: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let stay: Vec<Endpoint> =
            slice.endpoints.iter().flatten().filter_map(|e| left.remove(&identity(e))).collect();
        kept.push((slice, stay));
    }
    let mut rest: Vec<Endpoint> = left.into_values().collect();
    // New ones go where a slice is written anyway, then to the fullest slice with room, then to new slices.
    kept.sort_by_key(|(slice, stay)| {
        let changed = stay.len() != slice.endpoints.as_ref().map_or(0, Vec::len);
        (!changed, usize::MAX - stay.len())
    });
    for (_, stay) in &mut kept {
        let room = MAX_PER_SLICE.saturating_sub(stay.len()).min(rest.len());
        stay.extend(rest.drain(..room));
    }
    let some_left = kept.iter().any(|(_, stay)| !stay.is_empty()) || !rest.is_empty();
    let mut spare_kept = some_left;
    for (slice, stay) in kept {
        if stay.is_empty() && spare_kept {
            writes.delete.push(slice.clone());
            continue;
        }
        // Of several empty slices one is kept.
        spare_kept |= stay.is_empty();
        let new = fill(template, (**slice).clone(), ports, stay);
        if new != **slice {
            writes.update.push(new);
        }
    }
    if slices.is_empty() && rest.is_empty() {
        writes.create.push(blank(template, family, ports, Vec::new()));
    }
    while !rest.is_empty() {
        let part: Vec<Endpoint> = rest.drain(..rest.len().min(MAX_PER_SLICE)).collect();
        writes.create.push(blank(template, family, ports, part));
    }
}

fn fill(
    template: &Template,
    mut slice: EndpointSlice,
    ports: &Ports,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    slice.metadata.labels = Some(template.labels.clone());
    slice.metadata.owner_references = Some(vec![template.owner.clone()]);
    if port_key(slice.ports.as_deref().unwrap_or(&[])) != port_key(ports) {
        slice.ports = Some(ports.clone());
    }
    if slice.endpoints.as_deref().unwrap_or(&[]) != endpoints {
        slice.endpoints = Some(endpoints);
    }
    slice
}

fn blank(template: &Template, family: Family, ports: &Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(template.prefix.clone()),
            namespace: Some(template.namespace.clone()),
            ..Default::default()
        },
        address_type: family.as_str().to_owned(),
        ports: Some(ports.clone()),
        endpoints: None,
    };
    let mut slice = fill(template, slice, ports, endpoints);
    slice.endpoints.get_or_insert_default();
    slice
}

/// A slice to delete and one to create become one update.
fn reuse(writes: &mut Writes) {
    let mut remaining = Vec::new();
    for made in std::mem::take(&mut writes.create) {
        let at = writes.delete.iter().position(|old| old.address_type == made.address_type);
        match at {
            Some(at) => {
                let old = writes.delete.swap_remove(at);
                let mut metadata = old.metadata.clone();
                metadata.labels = made.metadata.labels;
                metadata.owner_references = made.metadata.owner_references;
                writes.update.push(EndpointSlice { metadata, ..made });
            }
            None => remaining.push(made),
        }
    }
    writes.create = remaining;
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::api::discovery::v1::EndpointPort;
    use proptest::prelude::*;

    fn template() -> Template {
        let service = Service {
            metadata: ObjectMeta { name: Some("s".into()), ..Default::default() },
            ..Default::default()
        };
        Template::of_service(&service, "endpointslice-controller.k8s.io")
    }

    fn endpoint(id: u16) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.{}.{}", id / 256, id % 256)],
            target_ref: Some(ObjectReference { uid: Some(id.to_string()), ..Default::default() }),
            ..Default::default()
        }
    }

    fn ports(n: i32) -> Ports {
        vec![EndpointPort { port: Some(n), ..Default::default() }]
    }

    fn apply(state: &mut Vec<Arc<EndpointSlice>>, writes: Writes, serial: &mut u32) {
        for gone in &writes.delete {
            state.retain(|s| s.metadata.name != gone.metadata.name);
        }
        for new in writes.update {
            let at = state.iter().position(|s| s.metadata.name == new.metadata.name).unwrap();
            state[at] = Arc::new(new);
        }
        for mut new in writes.create {
            *serial += 1;
            new.metadata.name = Some(format!("s-{serial}"));
            state.push(Arc::new(new));
        }
    }

    proptest! {
        /// Whatever happened before, one pass holds exactly what is wanted in slices of at most 100, and a second pass
        /// writes nothing.
        #[test]
        fn one_pass_is_exact_and_the_next_is_empty(
            rounds in prop::collection::vec(prop::collection::btree_map(0u16..400, 1i32..3, 0..350), 1..5)
        ) {
            let template = template();
            let (mut state, mut serial) = (Vec::new(), 0);
            for round in rounds {
                let mut groups: BTreeMap<String, (Ports, Vec<Endpoint>)> = BTreeMap::new();
                for (id, port) in &round {
                    let ports = ports(*port);
                    groups.entry(port_key(&ports)).or_insert_with(|| (ports, vec![])).1.push(endpoint(*id));
                }
                let wanted = BTreeMap::from([(Family::V4, groups)]);
                let writes = reconcile(&template, &state, wanted.clone());
                apply(&mut state, writes, &mut serial);
                prop_assert!(!state.is_empty());
                let mut held: BTreeMap<u16, i32> = BTreeMap::new();
                for slice in &state {
                    let list = slice.endpoints.as_deref().unwrap_or(&[]);
                    prop_assert!(list.len() <= MAX_PER_SLICE);
                    prop_assert!(!list.is_empty() || state.len() == 1, "an empty slice beside others");
                    for e in list {
                        let id: u16 = e.target_ref.as_ref().unwrap().uid.as_ref().unwrap().parse().unwrap();
                        prop_assert!(held.insert(id, slice.ports.as_ref().unwrap()[0].port.unwrap()).is_none());
                    }
                }
                prop_assert_eq!(&held, &round);
                prop_assert!(reconcile(&template, &state, wanted).is_empty());
            }
        }
    }
}
