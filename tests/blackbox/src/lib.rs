//! Black-box suites over the built binary.
