//! The engines under test, each fresh and private.

use std::sync::Arc;
use store::Store;

pub struct Subject {
    pub store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

pub fn embedded() -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let store = store::embedded::open(dir.path(), store::embedded::Options::default()).unwrap();
    Subject { store, _dir: dir }
}
