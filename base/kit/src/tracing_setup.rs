//! Where logs go: standard error, one line a fact, filtered by `IRONCLAD_LOG`.

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The variable that overrides the filter, in `tracing`'s syntax (`info,apiserver=debug`).
pub const FILTER_VARIABLE: &str = "IRONCLAD_LOG";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the log filter {filter:?} cannot be read")]
    Filter { filter: String, source: ParseError },
    #[error("logging is already set up")]
    Twice,
}

/// Installs the process's subscriber. `default` is the filter where [`FILTER_VARIABLE`] is not set.
/// To be called once, from the app.
pub fn init(default: &str, format: Format) -> Result<(), SetupError> {
    let filter =
        std::env::var(FILTER_VARIABLE).ok().filter(|f| !f.is_empty()).unwrap_or_else(|| default.into());
    let parsed = EnvFilter::try_new(&filter).map_err(|source| SetupError::Filter { filter, source })?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr).with_target(true);
    let done = match format {
        Format::Text => {
            builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).finish().try_init()
        }
        Format::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    done.map_err(|_| SetupError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named_and_the_second_set_up_refused() {
        let error = init("no=such=level", Format::Text).unwrap_err();
        assert!(error.to_string().contains("no=such=level"), "{error}");
        init("warn", Format::Json).unwrap();
        assert!(matches!(init("warn", Format::Text), Err(SetupError::Twice)));
    }
}
