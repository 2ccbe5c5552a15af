//! The cache against a real store and a model.
