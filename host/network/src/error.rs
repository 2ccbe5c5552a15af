//! What can go wrong, with what it was done to.

/// An operation on the machine's network that the kernel or the disk refused.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{doing}")]
    Os { doing: String, source: std::io::Error },
    #[error("no address is left in {0}")]
    Exhausted(String),
    #[error("host port {port}/{protocol} is already taken by pod {by}")]
    HostPortTaken { port: u16, protocol: &'static str, by: String },
    #[error("{0}")]
    Invalid(String),
    #[error("{0} overlaps with {1}, which is already routed on this machine")]
    Overlap(String, String),
}

impl NetworkError {
    pub(crate) fn os(doing: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Os { doing: doing.into(), source: source.into() }
    }

    /// The kernel's error number, where it was the kernel.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Os { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
