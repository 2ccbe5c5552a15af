//! Just enough Go to read API types: structs, tags, markers, named types and constants, line by line.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use regex::Regex;

#[derive(Default)]
pub struct Package {
    /// Import path, as `k8s.io/api/core/v1`.
    pub path: String,
    /// `v1`.
    pub go: String,
    /// OpenAPI prefix, as `io.k8s.api.core.v1`.
    pub openapi: String,
    /// API group where the package registers one.
    pub group: Option<String>,
    pub structs: Vec<Struct>,
    /// Named types that are not structs.
    pub named: BTreeMap<String, Named>,
    /// `type X = other.Y`.
    pub aliases: BTreeMap<String, Type>,
    /// Constants by name: (type, literal).
    pub constants: Vec<(String, String, String)>,
    /// `generated.proto`: message -> field -> number.
    pub proto: BTreeMap<String, BTreeMap<String, u32>>,
}

pub struct Named {
    pub ty: Type,
    pub is_enum: bool,
}

#[derive(Clone)]
pub struct Struct {
    pub name: String,
    pub markers: Vec<String>,
    pub members: Vec<Member>,
}

#[derive(Clone)]
pub struct Member {
    /// Go name; empty when embedded.
    pub go: String,
    pub ty: Type,
    pub json: String,
    pub options: Vec<String>,
    pub inline: bool,
    pub proto: u32,
    pub patch_strategy: String,
    pub patch_merge_key: String,
    pub markers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    Pointer(Box<Type>),
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    /// Import path (empty for predeclared types) and name.
    Name(String, String),
    Interface,
}

impl Member {
    pub fn marker(&self, name: &str) -> Option<&str> {
        marker(&self.markers, name)
    }
}

impl Struct {
    pub fn marker(&self, name: &str) -> Option<&str> {
        marker(&self.markers, name)
    }
}

fn marker<'a>(markers: &'a [String], name: &str) -> Option<&'a str> {
    markers.iter().find_map(|m| {
        let rest = m.strip_prefix(name)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix('=') }
    })
}

impl Package {
    pub fn read(dir: &Path, path: &str) -> Result<Self> {
        let go = path.rsplit('/').next().unwrap_or_default().to_string();
        let mut package = Package { path: path.to_string(), go, ..Package::default() };
        let mut files: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
        files.sort_by_key(|f| f.file_name());
        for file in files {
            let name = file.file_name().to_string_lossy().into_owned();
            let text = || std::fs::read_to_string(file.path()).with_context(|| name.clone());
            if name == "generated.proto" {
                package.read_proto(&text()?);
            } else if name == "zz_generated.model_name.go" {
                let text = text()?;
                let name = text.split("return \"").nth(1).and_then(|rest| rest.split('"').next());
                package.openapi =
                    name.and_then(|n| n.rsplit_once('.')).map_or(String::new(), |n| n.0.to_string());
            } else if name.ends_with(".go") && !name.ends_with("_test.go") && !name.contains("generated") {
                package.read_go(&text()?).with_context(|| name.clone())?;
            }
        }
        Ok(package)
    }

    fn read_proto(&mut self, text: &str) {
        let mut message = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("message ") {
                message = rest.trim_end_matches(" {").to_string();
                self.proto.entry(message.clone()).or_default();
            } else if !line.starts_with("//")
                && let Some((left, number)) = line.trim_end_matches(';').rsplit_once(" = ")
                && let Ok(number) = number.parse()
            {
                let name = left.rsplit(' ').next().unwrap_or_default().to_string();
                self.proto.entry(message.clone()).or_default().insert(name, number);
            }
        }
    }

    fn read_go(&mut self, text: &str) -> Result<()> {
        let import = Regex::new(r#"^\s*(?:import\s+)?([A-Za-z0-9]*)\s*"([a-z0-9./-]+)"$"#)?;
        let constant = Regex::new(
            r#"^\s*(?:const\s+)?([A-Za-z0-9_]+)\s+([A-Z][A-Za-z0-9]*)\s*=\s*("[^"]*")(?:\s*//.*)?$"#,
        )?;
        let converted = Regex::new(
            r#"^\s*(?:const\s+)?([A-Za-z0-9_]+)\s*=\s*([A-Z][A-Za-z0-9]*)\(("[^"]*")\)(?:\s*//.*)?$"#,
        )?;
        let group = Regex::new(r#"^\s*(?:const\s+)?GroupName\s*=\s*"([^"]*)""#)?;
        let member = Regex::new(r"^([A-Za-z0-9_.*]+)(?:\s+(\S.*?))?\s*`(.*)`\s*(?://.*)?$")?;
        let mut imports: BTreeMap<String, String> = BTreeMap::new();
        let mut comments: Vec<String> = Vec::new();
        let mut blank = false;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let trimmed = line.trim();
            if let Some(comment) = trimmed.strip_prefix("//") {
                if blank && comments.iter().all(|c| !c.starts_with('+')) {
                    comments.clear();
                }
                blank = false;
                comments.push(comment.trim().to_string());
                continue;
            }
            if trimmed.is_empty() {
                blank = true;
                continue;
            }
            if let Some(c) = import.captures(line) {
                let short =
                    if c[1].is_empty() { c[2].rsplit('/').next().unwrap_or("").into() } else { c[1].into() };
                imports.insert(short, c[2].to_string());
            } else if let Some(c) = group.captures(line) {
                self.group = Some(c[1].to_string());
            } else if let Some(c) = constant.captures(line).or_else(|| converted.captures(line)) {
                self.constants.push((c[1].into(), c[2].into(), c[3].into()));
            } else if let Some(rest) = line.strip_prefix("type ") {
                let (name, ty) = rest.split_once(' ').context("type")?;
                let ty = ty.trim();
                if let Some(other) = ty.strip_prefix("= ") {
                    self.aliases.insert(name.to_string(), self.parse(other, &imports)?);
                } else if ty.starts_with("struct") {
                    let markers = markers(&comments);
                    let mut members = Vec::new();
                    let mut notes = Vec::new();
                    if !ty.ends_with('}') {
                        for line in lines.by_ref() {
                            let trimmed = line.trim();
                            if line.starts_with('}') {
                                break;
                            } else if let Some(comment) = trimmed.strip_prefix("//") {
                                notes.push(comment.trim().to_string());
                            } else if trimmed.is_empty() {
                                notes.clear();
                            } else {
                                if let Some(c) = member.captures(trimmed) {
                                    let ty = c.get(2).map(|m| m.as_str()).unwrap_or_default();
                                    let found =
                                        self.member(&c[1], ty, &c[3], &imports, self::markers(&notes));
                                    members.extend(found.with_context(|| format!("{name}: {trimmed}"))?);
                                }
                                notes.clear();
                            }
                        }
                    }
                    self.structs.push(Struct { name: name.to_string(), markers, members });
                } else if !ty.starts_with("interface") && !ty.starts_with("func") && !name.contains('[') {
                    let is_enum = markers(&comments).iter().any(|m| m == "enum");
                    if let Ok(ty) = self.parse(ty.split("//").next().unwrap_or(ty).trim(), &imports) {
                        self.named.insert(name.to_string(), Named { ty, is_enum });
                    }
                }
            }
            comments.clear();
            blank = false;
        }
        Ok(())
    }

    fn member(
        &self,
        name: &str,
        ty: &str,
        tags: &str,
        imports: &BTreeMap<String, String>,
        markers: Vec<String>,
    ) -> Result<Option<Member>> {
        let tag = |key: &str| -> Option<String> {
            let at = tags.find(&format!("{key}:\""))? + key.len() + 2;
            Some(tags[at..].split('"').next()?.to_string())
        };
        let Some(json) = tag("json") else { return Ok(None) };
        let mut parts = json.split(',').map(str::to_string);
        let json = parts.next().unwrap_or_default();
        if json == "-" {
            return Ok(None);
        }
        let options: Vec<String> = parts.collect();
        let embedded = ty.is_empty();
        let inline = options.iter().any(|o| o == "inline") || (embedded && json.is_empty());
        let proto = tag("protobuf").and_then(|p| p.split(',').nth(1)?.parse().ok()).unwrap_or(0);
        let ty = self.parse(if embedded { name } else { ty }, imports)?;
        Ok(Some(Member {
            go: name.to_string(),
            ty,
            json,
            options,
            inline,
            proto,
            patch_strategy: tag("patchStrategy").unwrap_or_default(),
            patch_merge_key: tag("patchMergeKey").unwrap_or_default(),
            markers,
        }))
    }

    fn parse(&self, text: &str, imports: &BTreeMap<String, String>) -> Result<Type> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix('*') {
            return Ok(Type::Pointer(Box::new(self.parse(rest, imports)?)));
        }
        if let Some(rest) = text.strip_prefix("[]") {
            return Ok(Type::List(Box::new(self.parse(rest, imports)?)));
        }
        if let Some(rest) = text.strip_prefix("map[") {
            let (key, value) = rest.split_once(']').context("map")?;
            return Ok(Type::Map(Box::new(self.parse(key, imports)?), Box::new(self.parse(value, imports)?)));
        }
        if text == "interface{}" || text == "any" {
            return Ok(Type::Interface);
        }
        if let Some((package, name)) = text.split_once('.') {
            let path = imports.get(package).with_context(|| format!("unknown import {package}"))?;
            return Ok(Type::Name(path.clone(), name.to_string()));
        }
        if !text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || text.is_empty() {
            bail!("cannot read the type {text:?}");
        }
        let predeclared = ["string", "bool", "int", "int32", "int64", "float32", "float64", "byte", "uint8"];
        let package = if predeclared.contains(&text) { String::new() } else { self.path.clone() };
        Ok(Type::Name(package, text.to_string()))
    }
}

fn markers(comments: &[String]) -> Vec<String> {
    comments.iter().filter_map(|c| c.strip_prefix('+')).map(|m| m.trim().to_string()).collect()
}
