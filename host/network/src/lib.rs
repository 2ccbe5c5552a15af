//! Links, routes, addresses, nftables: Linux networking through netlink, nothing of Kubernetes.
