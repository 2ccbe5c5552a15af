//! The built-in scheduler.
