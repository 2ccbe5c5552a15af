//! The built-in plugins, in the order in which they are asked.

mod affinity;
mod basic;
mod fit;
mod interpod;
mod spread;
mod volumes;

pub use affinity::node_selector_matches;
pub use basic::tolerates;

use crate::framework::Plugin;

pub fn all() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(basic::NodeUnschedulable),
        Box::new(basic::NodeName),
        Box::new(basic::TaintToleration),
        Box::new(affinity::NodeAffinity),
        Box::new(basic::NodePorts),
        Box::new(fit::Fit),
        Box::new(volumes::VolumeBinding),
        Box::new(spread::PodTopologySpread),
        Box::new(interpod::InterPodAffinity),
        Box::new(fit::Balanced),
        Box::new(basic::ImageLocality),
    ]
}
