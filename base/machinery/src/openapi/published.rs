//! The documents as they are served: made when first asked for, kept compressed, the values thrown away.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::{ResourceDoc, base, document_protobuf, v2, v3_group_version, v3_paths};

/// Looks up a description; see [`super::Describe`].
pub type Describer = Box<dyn Fn(&str, &str) -> Option<String>>;

/// One document, compressed with gzip.
#[derive(Clone, Debug)]
pub struct Document {
    pub gzip: Bytes,
    /// Hash of the content, in hexadecimal.
    pub etag: String,
}

impl Document {
    fn new(content: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(content);
        let mut packed = GzEncoder::new(Vec::with_capacity(content.len() / 8), Compression::new(4));
        // Writing to memory does not fail.
        let gzip = packed.write_all(content).and_then(|()| packed.finish()).unwrap_or_default();
        Self { gzip: gzip.into(), etag: format!("{:016X}", hasher.finish()) }
    }

    /// The content for clients that take no gzip.
    pub fn plain(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if GzDecoder::new(self.gzip.as_ref()).read_to_end(&mut out).is_err() {
            out.clear();
        }
        out
    }
}

/// The documents of one set of resources. Make a new one when the set changes.
pub struct Published {
    resources: Vec<ResourceDoc>,
    describe: fn() -> Option<Describer>,
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
    v3: Mutex<BTreeMap<String, Arc<Document>>>,
}

impl Published {
    /// `describe` loads the descriptions; it is called for each document that is made, and what it returns is
    /// dropped after.
    pub fn new(resources: Vec<ResourceDoc>, describe: fn() -> Option<Describer>) -> Self {
        Self { resources, describe, v2: OnceLock::new(), v2_protobuf: OnceLock::new(), v3: Mutex::default() }
    }

    /// `/openapi/v2`, `application/json`.
    pub fn v2(&self) -> &Document {
        self.v2.get_or_init(|| Document::new(self.v2_value().to_string().as_bytes()))
    }

    /// `/openapi/v2` as protobuf; see [`super::V2_PROTOBUF`].
    pub fn v2_protobuf(&self) -> &Document {
        self.v2_protobuf.get_or_init(|| Document::new(&document_protobuf(&self.v2_value())))
    }

    fn v2_value(&self) -> Value {
        let describe = (self.describe)();
        v2(&self.resources, describe.as_deref().map(|d| d as _))
    }

    /// `/openapi/v3`. The hashes are of what the documents are made from, so none has to be made for it.
    pub fn v3_index(&self) -> Value {
        super::v3_index(&self.resources, &|path| self.v3_hash(path))
    }

    /// The hash the index gives a document: it changes when the document does.
    pub fn v3_hash(&self, path: &str) -> String {
        let mut hasher = DefaultHasher::new();
        hasher.write(env!("CARGO_PKG_VERSION").as_bytes());
        for r in self.resources.iter().filter(|r| base(&r.group, &r.version) == path) {
            hasher.write(format!("{r:?}").as_bytes());
        }
        format!("{:016X}", hasher.finish())
    }

    /// `/openapi/v3/PATH`, as `api/v1` or `apis/apps/v1`.
    pub fn v3(&self, path: &str) -> Option<Arc<Document>> {
        let kept = |cache: &Mutex<BTreeMap<String, Arc<Document>>>| {
            cache.lock().unwrap_or_else(|e| e.into_inner()).get(path).cloned()
        };
        if let Some(document) = kept(&self.v3) {
            return Some(document);
        }
        let (_, group, version) = v3_paths(&self.resources).into_iter().find(|(p, _, _)| p == path)?;
        let describe = (self.describe)();
        let value = v3_group_version(&self.resources, &group, &version, describe.as_deref().map(|d| d as _))?;
        let document = Arc::new(Document::new(value.to_string().as_bytes()));
        let mut cache = self.v3.lock().unwrap_or_else(|e| e.into_inner());
        Some(cache.entry(path.to_string()).or_insert(document).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_kept_compressed() {
        let nodes = ResourceDoc {
            version: "v1".into(),
            kind: "Node".into(),
            plural: "nodes".into(),
            verbs: vec!["get".into(), "list".into()],
            ..ResourceDoc::default()
        };
        let published =
            Published::new(vec![nodes.clone()], || Some(Box::new(|name, _| Some(name.to_string()))));
        let document = published.v3("api/v1").expect("core");
        let value: Value = serde_json::from_slice(&document.plain()).expect("JSON");
        assert!(value["paths"]["/api/v1/nodes/{name}"]["get"].is_object());
        assert!(document.gzip.len() * 4 < document.plain().len());
        assert!(published.v3("apis/none/v1").is_none());
        let v2: Value = serde_json::from_slice(&published.v2().plain()).expect("JSON");
        assert_eq!(v2["definitions"]["io.k8s.api.core.v1.Node"]["description"], "io.k8s.api.core.v1.Node");
        assert_ne!(published.v2().etag, published.v2_protobuf().etag);
        let mut more = nodes.clone();
        more.verbs.push("patch".into());
        let other = Published::new(vec![more], || None);
        assert_ne!(other.v3_hash("api/v1"), published.v3_hash("api/v1"));
    }
}
