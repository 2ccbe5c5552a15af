//! What the built-in kinds and their fields mean, in upstream's words.
//!
//! The texts come from the k8s-openapi crate when this one is built (see `build.rs`) and lie compressed in the
//! program. [`Descriptions::load`] unpacks them, about two megabytes; drop it when the documents are made.

use std::collections::HashMap;
use std::io::Read as _;

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.zz"));

/// The unpacked texts.
pub struct Descriptions {
    text: String,
    /// (definition, property or empty) -> where the text lies.
    at: HashMap<u64, (u32, u32)>,
}

impl Descriptions {
    /// Unpacks the texts. Where the program was built without them, there are none.
    pub fn load() -> Self {
        let mut text = String::new();
        if flate2::read::ZlibDecoder::new(PACKED).read_to_string(&mut text).is_err() {
            text.clear();
        }
        let mut at = HashMap::with_capacity(8192);
        let mut start = 0;
        for line in text.split('\n') {
            let mut parts = line.splitn(3, '\t');
            if let (Some(name), Some(field), Some(said)) = (parts.next(), parts.next(), parts.next()) {
                let begin = start + name.len() + field.len() + 2;
                at.insert(key(name, field), (begin as u32, (begin + said.len()) as u32));
            }
            start += line.len() + 1;
        }
        Self { text, at }
    }

    /// What a definition (`io.k8s.api.core.v1.Pod`, with an empty field) or one of its properties means.
    pub fn get(&self, name: &str, field: &str) -> Option<String> {
        let (begin, end) = *self.at.get(&key(name, field))?;
        let said = self.text.get(begin as usize..end as usize)?;
        Some(unescape(said))
    }

    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }
}

fn key(name: &str, field: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (name, field).hash(&mut hasher);
    hasher.finish()
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_fields_are_described() {
        let texts = Descriptions::load();
        let pod = texts.get("io.k8s.api.core.v1.Pod", "").expect("Pod");
        assert!(pod.starts_with("Pod is a collection of containers"), "{pod}");
        let metadata = texts.get("io.k8s.api.core.v1.Pod", "metadata").expect("metadata");
        assert!(metadata.starts_with("Standard object"), "{metadata}");
        let protocol = texts.get("io.k8s.api.core.v1.ContainerPort", "protocol").expect("protocol");
        assert!(protocol.ends_with("Defaults to \"TCP\"."), "{protocol}");
        assert!(texts.get("io.k8s.api.core.v1.Pod", "nothing").is_none());
        assert!(texts.at.len() > 3000, "only {} texts", texts.at.len());
    }
}
