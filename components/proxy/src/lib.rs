//! Services and EndpointSlices to one nftables ruleset.
