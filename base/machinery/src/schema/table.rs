//! Reads the table of built-in kinds.
//!
//! ```text
//! package LABEL OPENAPI GO GROUP          LABEL is group/version as other lines name it; GROUP is `core`, `-` for none
//! type NAME [kind] [atomic] [proto] [union]       kind: registered under the package's group and version
//!  JSON NUMBER [*]SHAPE [flags]           one field; NUMBER is the protobuf number
//! enum LABEL.NAME ["A","B"]               values of an enumeration
//! ```
//! A shape is `[]X`, `{}X` (map), a word (`str`, `i32`, ...) or `LABEL.NAME` (`.NAME` in the same package).
//! Flags: `@N.M` numbers of the embedded messages the field lies in; `o` omitempty; `z` omitzero; `r` required;
//! `~set`, `~map:KEYS`, `~atomic`, `~granular`; `p:` patch strategy; `k:` patch merge key; `go:` Go type; `enum:`;
//! `wrapped`; `union`; `=` default in JSON, last on the line.

use std::collections::HashMap;

use super::model::{
    Field, ListKind, ListShape, MapShape, Schema, Shape, Special, Strategic, TypeDef, TypeId,
};

/// The table has a line that does not follow its grammar.
#[derive(Debug, thiserror::Error)]
#[error("schema table line {line}: {reason}")]
pub struct TableError {
    pub line: usize,
    pub reason: String,
}

/// A kind the table registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindRow {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub id: TypeId,
}

pub(super) struct Loaded {
    pub schema: Schema,
    pub kinds: Vec<KindRow>,
    pub names: HashMap<String, TypeId>,
}

struct Package {
    label: &'static str,
    openapi: &'static str,
    go: &'static str,
    group: &'static str,
    version: &'static str,
}

pub(super) fn load(tables: &[&'static str]) -> Result<Loaded, TableError> {
    let mut ids: HashMap<(&'static str, &'static str), TypeId> = HashMap::with_capacity(1200);
    let mut enums: HashMap<&'static str, Vec<String>> = HashMap::new();
    let mut label = "";
    for (line, text) in lines(tables) {
        if let Some(rest) = text.strip_prefix("package ") {
            label = rest.split(' ').next().unwrap_or_default();
        } else if let Some(rest) = text.strip_prefix("type ") {
            let id = TypeId(ids.len() as u32);
            let name = rest.split(' ').next().unwrap_or_default();
            if ids.insert((label, name), id).is_some() {
                return Err(TableError { line, reason: format!("{label}.{name} comes twice") });
            }
        } else if let Some(rest) = text.strip_prefix("enum ") {
            let (name, values) = rest.split_once(' ').unwrap_or((rest, "[]"));
            let values =
                serde_json::from_str(values).map_err(|e| TableError { line, reason: e.to_string() })?;
            enums.insert(name, values);
        }
    }
    let mut reader = Reader { ids, enums, package: None };
    let mut loaded = Loaded {
        schema: Schema { types: Vec::with_capacity(reader.ids.len()), ..Schema::default() },
        kinds: Vec::with_capacity(400),
        names: HashMap::with_capacity(reader.ids.len()),
    };
    for (line, text) in lines(tables) {
        reader.read(text, &mut loaded).map_err(|reason| TableError { line, reason })?;
    }
    for ty in &mut loaded.schema.types {
        ty.fields.shrink_to_fit();
        ty.index();
    }
    let props = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    loaded.schema.props = loaded.names.get(props).copied();
    Ok(loaded)
}

fn lines(tables: &[&'static str]) -> impl Iterator<Item = (usize, &'static str)> {
    tables
        .iter()
        .flat_map(|t| t.lines().enumerate().map(|(i, l)| (i + 1, l)))
        .filter(|(_, l)| !l.starts_with('#'))
}

struct Reader {
    ids: HashMap<(&'static str, &'static str), TypeId>,
    enums: HashMap<&'static str, Vec<String>>,
    package: Option<Package>,
}

impl Reader {
    fn read(&mut self, text: &'static str, into: &mut Loaded) -> Result<(), String> {
        if let Some(field) = text.strip_prefix(' ') {
            let field = self.field(field)?;
            into.schema.types.last_mut().ok_or("a field before any type")?.fields.push(field);
        } else if let Some(rest) = text.strip_prefix("package ") {
            let mut words = rest.split(' ');
            let mut word = || words.next().ok_or("a package has four words");
            let (label, openapi, go, group) = (word()?, word()?, word()?, word()?);
            let version = label.rsplit('/').next().unwrap_or_default();
            let group = if group == "core" { "" } else { group };
            self.package = Some(Package { label, openapi, go, group, version });
        } else if let Some(rest) = text.strip_prefix("type ") {
            let package = self.package.as_ref().ok_or("a type before any package")?;
            let mut words = rest.split(' ');
            let name = words.next().unwrap_or_default();
            let mut ty =
                TypeDef { name: format!("{}.{name}", package.openapi), go: name, ..TypeDef::default() };
            let id = TypeId(into.schema.types.len() as u32);
            for word in words {
                match word {
                    "kind" => into.kinds.push(KindRow {
                        group: package.group,
                        version: package.version,
                        kind: name,
                        id,
                    }),
                    "atomic" => ty.atomic = true,
                    "proto" => ty.proto = true,
                    "union" => ty.union = true,
                    other => return Err(format!("unknown word {other}")),
                }
            }
            ty.go_package = package.go;
            into.names.insert(ty.name.clone(), id);
            into.schema.types.push(ty);
        } else if !text.is_empty() && !text.starts_with("enum ") {
            return Err("neither package, type, field nor enum".into());
        }
        Ok(())
    }

    fn field(&self, text: &'static str) -> Result<Field, String> {
        let mut rest = text;
        let mut word = || -> Option<&'static str> {
            if rest.starts_with('=') {
                return Some(std::mem::take(&mut rest));
            }
            let (head, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = tail;
            (!head.is_empty()).then_some(head)
        };
        let name = word().ok_or("a field without a name")?;
        let number = word().and_then(|n| n.parse().ok()).ok_or("a field without a number")?;
        let shape = word().ok_or("a field without a shape")?;
        let (shape, pointer) = shape.strip_prefix('*').map_or((shape, false), |s| (s, true));
        let mut field =
            Field { proto: number, pointer, omit_empty: false, ..Field::new(name, self.shape(shape)?) };
        while let Some(flag) = word() {
            match flag {
                "o" => field.omit_empty = true,
                "z" => field.omit_zero = true,
                "r" => field.required = true,
                "wrapped" => field.wrapped = true,
                "union" => field.union_discriminator = true,
                _ => self.flag(&mut field, flag)?,
            }
        }
        Ok(field)
    }

    fn flag(&self, field: &mut Field, flag: &'static str) -> Result<(), String> {
        let (head, tail) = flag.split_at(flag.find([':', '=', '@']).map_or(flag.len(), |at| at + 1));
        match (head, &mut field.shape) {
            ("~set", Shape::List(list)) => list.kind = ListKind::Set,
            ("~map:", Shape::List(list)) => {
                list.kind = ListKind::Map(tail.split(',').map(str::to_string).collect())
            }
            ("~granular", Shape::Map(_)) => field.atomic = Some(false),
            ("~atomic", Shape::Map(map)) => map.atomic = true,
            ("~atomic", _) => field.atomic = Some(true),
            ("~granular", _) => field.atomic = Some(false),
            ("p:", _) => {
                for strategy in tail.split(',') {
                    match strategy {
                        "merge" => field.strategic.merge = true,
                        "replace" => field.strategic.replace = true,
                        "retainKeys" => field.strategic.retain_keys = true,
                        other => return Err(format!("unknown patch strategy {other}")),
                    }
                }
            }
            ("k:", _) => {
                field.strategic = Strategic { merge_key: Some(tail.to_string()), ..field.strategic.clone() }
            }
            ("go:", _) => field.go = tail,
            ("enum:", _) => {
                field.enum_values =
                    self.enums.get(tail).ok_or_else(|| format!("unknown enum {tail}"))?.clone();
            }
            ("@", _) => {
                let numbers: Result<Vec<u32>, _> = tail.split('.').map(str::parse).collect();
                field.embed = numbers.map_err(|e| e.to_string())?;
            }
            ("=", _) => field.default = Some(serde_json::from_str(tail).map_err(|e| e.to_string())?),
            _ => return Err(format!("unknown flag {flag}")),
        }
        Ok(())
    }

    fn shape(&self, text: &'static str) -> Result<Shape, String> {
        if let Some(item) = text.strip_prefix("[]") {
            return Ok(Shape::List(Box::new(ListShape { item: self.shape(item)?, kind: ListKind::Atomic })));
        }
        if let Some(value) = text.strip_prefix("{}") {
            return Ok(Shape::Map(Box::new(MapShape { value: self.shape(value)?, atomic: false })));
        }
        Ok(match text {
            "str" => Shape::String,
            "bool" => Shape::Bool,
            "i32" => Shape::Int32,
            "i64" => Shape::Int64,
            "f64" => Shape::Double,
            "bytes" => Shape::Bytes,
            "qty" => Shape::Quantity,
            "time" => Shape::Time,
            "mtime" => Shape::MicroTime,
            "dur" => Shape::Duration,
            "ios" => Shape::IntOrString,
            "raw" => Shape::RawExtension,
            "any" => Shape::Any,
            "propsOrArray" => Shape::Special(Special::JsonSchemaPropsOrArray),
            "propsOrBool" => Shape::Special(Special::JsonSchemaPropsOrBool),
            "propsOrStrings" => Shape::Special(Special::JsonSchemaPropsOrStringArray),
            _ => {
                let (label, name) = text.rsplit_once('.').ok_or_else(|| format!("unknown shape {text}"))?;
                let own = self.package.as_ref().map_or("", |p| p.label);
                let label = if label.is_empty() { own } else { label };
                let id = self.ids.get(&(label, name)).ok_or_else(|| format!("unknown type {text}"))?;
                Shape::Struct(*id)
            }
        })
    }
}
