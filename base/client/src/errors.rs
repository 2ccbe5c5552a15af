//! What a failed request means to a caller that will try again.

use kube::Error;

/// The HTTP status code of an answer that the server refused, or 0.
pub fn code(error: &Error) -> u16 {
    match error {
        Error::Api(status) => status.code,
        _ => 0,
    }
}

pub fn reason(error: &Error) -> &str {
    match error {
        Error::Api(status) => &status.reason,
        _ => "",
    }
}

pub fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Api(s) if s.is_not_found())
}

/// The object was changed under us: read again and retry.
pub fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(s) if s.is_conflict() && !s.is_already_exists())
}

pub fn is_already_exists(error: &Error) -> bool {
    matches!(error, Error::Api(s) if s.is_already_exists())
}

pub fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Api(s) if s.is_forbidden())
}

/// The namespace is going away: creating in it can never succeed.
pub fn is_namespace_terminating(error: &Error) -> bool {
    let Error::Api(status) = error else { return false };
    let named =
        status.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"));
    status.is_forbidden() && (named || status.message.ends_with("because it is being terminated"))
}

/// `Ok(None)` instead of a "not found".
pub fn optional<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Drops a "not found": what should be gone is gone.
pub fn ignore_not_found<T>(result: Result<T, Error>) -> Result<(), Error> {
    optional(result).map(drop)
}
