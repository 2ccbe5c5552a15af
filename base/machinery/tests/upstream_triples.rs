//! Upstream's own JSON, YAML and protobuf of every kind, byte for byte.
//!
//! They are in Debian's golang-k8s-api-dev under `k8s.io/api/testdata/HEAD`; IRONCLAD_KUBE_TESTDATA names that folder.

use std::path::PathBuf;

use machinery::codec::{self, Strictness, protobuf, yaml};
use machinery::schema::builtin;
use serde_json::Value;

#[test]
fn upstreams_encodings_of_every_kind_agree() {
    let Some(dir) = std::env::var_os("IRONCLAD_KUBE_TESTDATA").map(PathBuf::from) else {
        println!("skipped: IRONCLAD_KUBE_TESTDATA names no folder of upstream's test data");
        return;
    };
    let table = builtin();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for entry in std::fs::read_dir(&dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_string();
        if path.extension().is_none_or(|e| e != "json") || stem.contains(".after_roundtrip") {
            continue;
        }
        let text = std::fs::read(&path).expect("readable");
        let expected: Value = serde_json::from_slice(&text).expect("JSON");
        let word = |key: &str| expected[key].as_str().unwrap_or_default().to_string();
        let (api_version, kind) = (word("apiVersion"), word("kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let Some(id) = table.kind(group, version, &kind) else { continue };
        checked += 1;
        match codec::decode(&text, &table.schema, id, Strictness::Strict) {
            Ok(read) if read.value == expected && read.strict_errors.is_empty() => {}
            Ok(read) => wrong.push(format!(
                "{stem}: JSON: {} {:?}",
                difference(&expected, &read.value),
                read.strict_errors
            )),
            Err(e) => wrong.push(format!("{stem}: JSON: {e}")),
        }
        match std::fs::read(path.with_extension("yaml")).map(|text| yaml::decode(&text)) {
            Ok(Ok(value)) if value == expected => {}
            Ok(Ok(value)) => wrong.push(format!("{stem}: YAML: {}", difference(&expected, &value))),
            Ok(Err(e)) => wrong.push(format!("{stem}: YAML: {e}")),
            Err(_) => {}
        }
        let Ok(binary) = std::fs::read(path.with_extension("pb")) else { continue };
        match protobuf::decode(&binary, &table.schema, id) {
            Ok(value) if value == expected => {}
            Ok(value) => wrong.push(format!("{stem}: protobuf: {}", difference(&expected, &value))),
            Err(e) => wrong.push(format!("{stem}: protobuf: {e}")),
        }
        match protobuf::encode(&expected, &table.schema, id) {
            Ok(bytes) if bytes == binary => {}
            Ok(bytes) => {
                let at = bytes
                    .iter()
                    .zip(&binary)
                    .position(|(a, b)| a != b)
                    .unwrap_or(bytes.len().min(binary.len()));
                wrong.push(format!(
                    "{stem}: protobuf bytes differ at {at} ({} and {})",
                    bytes.len(),
                    binary.len()
                ));
            }
            Err(e) => wrong.push(format!("{stem}: protobuf: {e}")),
        }
    }
    println!("{checked} kinds");
    assert!(checked > 100, "only {checked} kinds were found in {}", dir.display());
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

/// The first place where two values differ.
fn difference(a: &Value, b: &Value) -> String {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for (key, value) in x {
                match y.get(key) {
                    Some(other) if other == value => {}
                    Some(other) => return format!(".{key}{}", difference(value, other)),
                    None => return format!(".{key}: {value} is missing"),
                }
            }
            let extra = y.keys().find(|k| !x.contains_key(*k));
            extra.map_or_else(String::new, |k| format!(".{k}: {} is too much", y[k]))
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            let at = x.iter().zip(y).position(|(a, b)| a != b).unwrap_or_default();
            format!("[{at}]{}", difference(&x[at], &y[at]))
        }
        _ => format!(": {a} and {b}"),
    }
}
