//! Starts what tests need and cleans it up.
