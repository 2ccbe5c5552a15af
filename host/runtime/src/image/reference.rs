//! Image names, written out in full.

use crate::RuntimeError;
use oci_client::Reference;

pub(crate) fn parse(image: &str) -> Result<Reference, RuntimeError> {
    image.parse().map_err(|e| RuntimeError::Image {
        image: image.to_string(),
        why: format!("couldn't parse image reference {image:?}: {e}"),
    })
}

pub(crate) fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// `docker.io/library/busybox:latest`; `None` for a digest reference.
pub(crate) fn tag(reference: &Reference) -> Option<String> {
    let tag = reference.tag().filter(|_| reference.digest().is_none())?;
    Some(format!("{}:{tag}", repository(reference)))
}

pub(crate) fn with_digest(reference: &Reference, digest: &str) -> String {
    format!("{}@{digest}", repository(reference))
}

/// Plain HTTP is right for a registry on this machine.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_out() {
        let full = |s: &str| tag(&parse(s).unwrap());
        assert_eq!(full("busybox").as_deref(), Some("docker.io/library/busybox:latest"));
        assert_eq!(full("a/b:1").as_deref(), Some("docker.io/a/b:1"));
        assert_eq!(full("localhost:5000/x").as_deref(), Some("localhost:5000/x:latest"));
        assert_eq!(full("registry.k8s.io/pause:3.9").as_deref(), Some("registry.k8s.io/pause:3.9"));
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = parse(&format!("busybox@{digest}")).unwrap();
        assert_eq!(tag(&by_digest), None);
        assert_eq!(with_digest(&by_digest, &digest), format!("docker.io/library/busybox@{digest}"));
        assert!(parse("UPPER/Case").is_err());
    }

    #[test]
    fn loopback() {
        assert!(is_loopback("localhost:5000") && is_loopback("127.0.0.1:80") && is_loopback("[::1]:5000"));
        assert!(!is_loopback("docker.io") && !is_loopback("10.0.0.1:5000"));
    }
}
