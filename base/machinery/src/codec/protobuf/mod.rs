//! Kubernetes protobuf.
