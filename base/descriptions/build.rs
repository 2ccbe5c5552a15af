//! Takes the descriptions of the built-in kinds out of the k8s-openapi crate, wherever cargo keeps it, and packs them.
//!
//! The crate holds them as JSON schemas in its sources; reading the text costs a tenth of a second, compiling the
//! crate with that feature half a minute. Where the crate cannot be found there are no descriptions, and a warning.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crate's folder for the version we serve.
const VERSION: &str = "v1_36";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let mut lines = Vec::new();
    match sources() {
        Some(dir) => {
            println!("cargo:rerun-if-changed={}", dir.display());
            walk(&dir, &mut lines);
        }
        None => println!(
            "cargo:warning=the sources of k8s-openapi were not found; kubectl explain will say little"
        ),
    }
    lines.sort();
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo names OUT_DIR");
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(lines.join("\n").as_bytes()).expect("memory can be written");
    std::fs::write(out.join("descriptions.zz"), packed.finish().expect("memory can be written"))
        .expect("OUT_DIR can be written");
}

/// Where the crate lies: as cargo says, or (cargo knows only when every crate of the workspace is at hand) in its
/// registry, or as cargo says once it may use the network.
fn sources() -> Option<PathBuf> {
    told(&["--offline"]).or_else(registry).or_else(|| told(&[]))
}

fn told(more: &[&str]) -> Option<PathBuf> {
    let cargo = std::env::var_os("CARGO")?;
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--filter-platform"])
        .arg(std::env::var_os("TARGET")?)
        .args(more)
        .arg("--manifest-path")
        .arg(manifest)
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let packages = metadata.get("packages")?.as_array()?;
    let package = packages.iter().find(|p| p["name"] == "k8s-openapi")?;
    let manifest = PathBuf::from(package["manifest_path"].as_str()?);
    let dir = manifest.parent()?.join("src").join(VERSION);
    dir.is_dir().then_some(dir)
}

fn registry() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let mut found = Vec::new();
    for registry in std::fs::read_dir(home.join("registry/src")).ok()?.flatten() {
        for package in std::fs::read_dir(registry.path()).ok()?.flatten() {
            let dir = package.path().join("src").join(VERSION);
            if package.file_name().to_string_lossy().starts_with("k8s-openapi-") && dir.is_dir() {
                found.push(dir);
            }
        }
    }
    found.sort();
    found.pop()
}

fn walk(dir: &Path, lines: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, lines);
        } else if path.extension().is_some_and(|e| e == "rs")
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            read(&text, lines);
        }
    }
}

/// One file: a type's name, its description, and its properties', told apart by their indentation.
fn read(text: &str, lines: &mut Vec<String>) {
    let Some((_, schema)) = text.split_once("fn schema_name()") else { return };
    let mut name = String::new();
    let mut field = String::new();
    for line in schema.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if name.is_empty() {
            if let Some((found, _)) = string(line) {
                name = found;
            }
            continue;
        }
        let Some((key, rest)) = string(line) else {
            if let Some((_, rest)) = line.split_once("insert(\"description\".into(), ")
                && indent == 20
                && let Some((text, _)) = string(rest)
            {
                push(&name, &field, &text, lines);
            }
            continue;
        };
        if key == "description"
            && (indent == 12 || indent == 20)
            && let Some((text, _)) = string(rest.trim_start_matches(':').trim())
        {
            push(&name, if indent == 12 { "" } else { &field }, &text, lines);
        } else if indent == 16 && (rest == ": {" || rest == ": ({") {
            field = key;
        }
    }
}

fn push(name: &str, field: &str, text: &str, lines: &mut Vec<String>) {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    lines.push(format!("{name}\t{field}\t{text}"));
}

/// A Rust string literal at the start of the line, and what follows it.
fn string(line: &str) -> Option<(String, &str)> {
    let body = line.strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &body[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push(' '),
                'r' => {}
                'u' => {
                    let code: String =
                        chars.by_ref().map(|(_, c)| c).skip(1).take_while(|c| *c != '}').collect();
                    out.extend(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32));
                }
                other => out.push(other),
            },
            c => out.push(if c == '\t' { ' ' } else { c }),
        }
    }
    None
}
