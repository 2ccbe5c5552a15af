//! Short stable names for templates, in the form of upstream's `pod-template-hash`.

use serde::Serialize;
use serde_json::Value;

/// No vowels and no look-alikes, so that no word can appear.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Letters as upstream's `rand.SafeEncodeString` chooses them.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// A hash of `value` that depends on nothing but its JSON, and of how often that hash collided before.
pub fn template_hash<T: Serialize>(value: &T, collisions: Option<i32>) -> String {
    // A value goes through `Value` so that maps are written in one order; neither step can fail for API types.
    let json = serde_json::to_value(value).unwrap_or(Value::Null);
    let mut bytes = serde_json::to_vec(&json).unwrap_or_default();
    if let Some(count) = collisions {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fnv_matches_its_published_vectors() {
        assert_eq!(fnv32a(b""), 0x811c_9dc5);
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
        assert_eq!(fnv32a(b"foobar"), 0xbf9c_f968);
    }

    proptest! {
        #[test]
        fn a_hash_is_a_label_value_and_moves_with_collisions(a in ".*", n in 0i32..9) {
            let hash = template_hash(&json!({"a": a}), None);
            prop_assert!((1..=10).contains(&hash.len()));
            prop_assert!(hash.bytes().all(|b| ALPHABET.contains(&b)));
            prop_assert_ne!(template_hash(&json!({"a": a}), Some(n)), template_hash(&json!({"a": a}), Some(n + 1)));
        }
    }
}
