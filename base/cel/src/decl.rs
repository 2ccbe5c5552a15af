//! Declared types: what an OpenAPI v3 schema lets expressions see, and how large data may be.
//!
//! The estimates are upstream's (`pkg/cel/common/schemas.go`); they decide which rules a definition may hold, so a
//! change of them is a change of the API.

use crate::names::escape;
use crate::types::Type;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::sync::Arc;

/// The largest request, for estimates only.
pub const MAX_REQUEST: i64 = 3 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Decl {
    pub kind: DeclKind,
    pub nullable: bool,
    /// The most characters, bytes, items or members; 0 for scalars and objects.
    pub max: i64,
    /// The least bytes of such a value in JSON.
    pub min_size: i64,
}

#[derive(Clone, Debug)]
pub enum DeclKind {
    Dyn,
    /// Anything, of a known greatest size.
    Any,
    IntOrString,
    Bool,
    Int,
    Double,
    Text,
    Bytes,
    Date,
    Timestamp,
    Duration,
    List {
        item: Arc<Decl>,
        kind: ListKind,
    },
    Map {
        /// Where more is known of the keys than that they are strings.
        key: Option<Arc<Decl>>,
        value: Arc<Decl>,
    },
    Object(Arc<ObjectDecl>),
}

#[derive(Clone, Debug)]
pub enum ListKind {
    Atomic,
    Set,
    /// Keyed, by these members (escaped).
    Map(Vec<String>),
}

#[derive(Clone, Debug, Default)]
pub struct ObjectDecl {
    pub name: String,
    /// By escaped name.
    pub fields: HashMap<String, FieldDecl>,
}

#[derive(Clone, Debug)]
pub struct FieldDecl {
    /// Escaped.
    pub name: String,
    pub json: String,
    pub decl: Decl,
    /// The field's type where it is not its declaration's (variables of a policy).
    pub ty: Option<Type>,
}

/// Anything.
pub static DYN: Decl = Decl { kind: DeclKind::Dyn, nullable: true, max: 0, min_size: 1 };

impl ObjectDecl {
    pub fn by_json(&self, name: &str) -> Option<&FieldDecl> {
        if let Some(field) = self.fields.get(name)
            && field.json == name
        {
            return Some(field);
        }
        self.fields.get(&escape(name)?).filter(|f| f.json == name)
    }
}

impl Decl {
    pub fn new(kind: DeclKind, min_size: i64) -> Self {
        Self { kind, nullable: false, max: 0, min_size }
    }

    pub fn object(name: impl Into<String>, fields: impl IntoIterator<Item = FieldDecl>) -> Self {
        let fields = fields.into_iter().map(|f| (f.name.clone(), f)).collect();
        Self::new(DeclKind::Object(Arc::new(ObjectDecl { name: name.into(), fields })), 2)
    }

    /// Items of a list; anything for what is no list.
    pub fn item(&self) -> &Decl {
        match &self.kind {
            DeclKind::List { item, .. } => item,
            DeclKind::Map { value, .. } => value,
            _ => &DYN,
        }
    }

    /// The checker's type for it.
    pub fn ty(&self) -> Type {
        match &self.kind {
            DeclKind::Dyn | DeclKind::IntOrString => Type::Dyn,
            DeclKind::Any => Type::Any,
            DeclKind::Bool => Type::Bool,
            DeclKind::Int => Type::Int,
            DeclKind::Double => Type::Double,
            DeclKind::Text => Type::Text,
            DeclKind::Bytes => Type::Bytes,
            DeclKind::Date | DeclKind::Timestamp => Type::Timestamp,
            DeclKind::Duration => Type::Duration,
            DeclKind::List { item, .. } => Type::list(item.ty()),
            DeclKind::Map { value, .. } => Type::map(Type::Text, value.ty()),
            DeclKind::Object(object) => Type::Object(object.clone()),
        }
    }
}

impl FieldDecl {
    /// `None` where the name has no identifier.
    pub fn new(json: &str, decl: Decl) -> Option<Self> {
        Some(Self { name: escape(json)?, json: json.to_owned(), decl, ty: None })
    }

    pub fn ty(&self) -> Type {
        self.ty.clone().unwrap_or_else(|| self.decl.ty())
    }
}

/// Where the declared type of a schema comes from, and how it is named.
pub struct FromSchema<'s> {
    /// Resolves `$ref` (built-in kinds); custom schemas have none.
    pub resolve: Option<&'s dyn Fn(&str) -> Option<&'s Json>>,
}

/// The declared type of a structural schema, or `None` where expressions may not see it. `root`: it is a whole
/// resource, with apiVersion, kind and metadata.
pub fn from_schema(schema: &Json, root: bool, name: &str) -> Option<Decl> {
    FromSchema { resolve: None }.decl(schema, root, name, 0)
}

fn text<'s>(schema: &'s Json, key: &str) -> &'s str {
    schema.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn flag(schema: &Json, key: &str) -> bool {
    schema.get(key) == Some(&Json::Bool(true))
}

fn count(schema: &Json, key: &str) -> Option<i64> {
    let n = schema.get(key)?;
    n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).map(|n| n.max(0))
}

const DEPTH: usize = 40;

impl<'s> FromSchema<'s> {
    pub fn decl(&self, schema: &'s Json, root: bool, name: &str, depth: usize) -> Option<Decl> {
        if depth > DEPTH {
            return None;
        }
        let mut decl = self.inner(schema, root, name, depth)?;
        decl.nullable = flag(schema, "nullable");
        Some(decl)
    }

    fn inner(&self, schema: &'s Json, root: bool, name: &str, depth: usize) -> Option<Decl> {
        if let Some(resolve) = self.resolve {
            let target = schema.get("$ref").and_then(Json::as_str).or_else(|| {
                let all = schema.get("allOf")?.as_array()?;
                all.first()?.get("$ref")?.as_str()
            });
            if let Some(target) = target {
                return self.inner(resolve(target)?, root, name, depth + 1);
            }
        }
        let format = text(schema, "format");
        if flag(schema, "x-kubernetes-int-or-string") || (self.resolve.is_some() && format == "int-or-string")
        {
            let mut out = Decl::new(DeclKind::IntOrString, 1);
            out.max = count(schema, "maxLength").map_or(MAX_REQUEST - 2, |n| n * 4);
            return Some(out);
        }
        match text(schema, "type") {
            "array" => {
                let items = schema.get("items")?;
                let embedded = flag(items, "x-kubernetes-embedded-resource");
                let item = self.decl(items, embedded, &format!("{name}.@idx"), depth + 1)?;
                let most = (MAX_REQUEST - 2) / (item.min_size + 1);
                let kind = match text(schema, "x-kubernetes-list-type") {
                    "set" => ListKind::Set,
                    "map" => {
                        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
                        let keys = keys.into_iter().flatten().filter_map(Json::as_str);
                        ListKind::Map(keys.filter_map(escape).collect())
                    }
                    _ => ListKind::Atomic,
                };
                let mut out = Decl::new(DeclKind::List { item: Arc::new(item), kind }, 2);
                out.max = count(schema, "maxItems").unwrap_or(most);
                Some(out)
            }
            "object" => self.object(schema, root, name, depth),
            "string" => Some(string(schema, format)),
            "boolean" => Some(Decl::new(DeclKind::Bool, 4)),
            "number" => Some(Decl::new(DeclKind::Double, 1)),
            "integer" => Some(Decl::new(DeclKind::Int, 1)),
            _ => None,
        }
    }

    fn object(&self, schema: &'s Json, root: bool, name: &str, depth: usize) -> Option<Decl> {
        let additional = schema.get("additionalProperties").filter(|a| a.is_object());
        if let Some(values) = additional
            && !root
        {
            let embedded = flag(values, "x-kubernetes-embedded-resource");
            let value = self.decl(values, embedded, &format!("{name}.@elem"), depth + 1)?;
            let most = (MAX_REQUEST - 2) / (value.min_size + 6);
            let mut out = Decl::new(DeclKind::Map { key: None, value: Arc::new(value) }, 2);
            out.max = count(schema, "maxProperties").unwrap_or(most);
            return Some(out);
        }
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect();
        let mut fields = HashMap::new();
        let mut min_size = 2;
        for (json, property) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            if root && self.resolve.is_none() && ["apiVersion", "kind", "metadata"].contains(&json.as_str()) {
                continue;
            }
            let embedded = flag(property, "x-kubernetes-embedded-resource");
            let escaped = escape(json);
            let below = format!("{name}.{}", escaped.as_deref().unwrap_or(json));
            let Some(decl) = self.decl(property, embedded, &below, depth + 1) else { continue };
            if required.contains(&json.as_str()) && property.get("default").is_none_or(Json::is_null) {
                min_size += json.len() as i64 + decl.min_size + 4;
            }
            if let Some(field) = FieldDecl::new(json, decl) {
                fields.insert(field.name.clone(), field);
            }
        }
        if root && self.resolve.is_none() {
            for field in object_fields(schema, name) {
                fields.insert(field.name.clone(), field);
            }
        }
        let object = ObjectDecl { name: name.to_owned(), fields };
        Some(Decl::new(DeclKind::Object(Arc::new(object)), min_size))
    }
}

/// apiVersion, kind, metadata.name and metadata.generateName, which every resource root has.
fn object_fields(schema: &Json, name: &str) -> Vec<FieldDecl> {
    let plain = Json::Null;
    let text = || string(&plain, "");
    let mut metadata: Vec<FieldDecl> =
        ["name", "generateName"].iter().filter_map(|n| FieldDecl::new(n, text())).collect();
    // A schema that spells metadata out keeps what it says of it.
    let given = &schema["properties"]["metadata"]["properties"];
    for (json, property) in given.as_object().into_iter().flatten() {
        if json != "name" && json != "generateName" {
            continue;
        }
        if let Some(decl) = from_schema(property, false, json)
            && let Some(field) = FieldDecl::new(json, decl)
        {
            metadata.retain(|f| f.json != *json);
            metadata.push(field);
        }
    }
    let metadata = Decl::object(format!("{name}.metadata"), metadata);
    [("apiVersion", text()), ("kind", text()), ("metadata", metadata)]
        .into_iter()
        .filter_map(|(n, d)| FieldDecl::new(n, d))
        .collect()
}

fn string(schema: &Json, format: &str) -> Decl {
    let sized = |kind, min, max| {
        let mut out = Decl::new(kind, min);
        out.max = max;
        out
    };
    let longest = count(schema, "maxLength");
    match format {
        "byte" => sized(DeclKind::Bytes, 2, longest.unwrap_or(MAX_REQUEST - 2)),
        "duration" => sized(DeclKind::Duration, 3, 32),
        "date" => sized(DeclKind::Date, 12, 12),
        "date-time" => sized(DeclKind::Timestamp, 21, 32),
        _ => {
            let values = schema.get("enum").and_then(Json::as_array).filter(|v| !v.is_empty());
            let max = match (longest, values) {
                (Some(n), _) => n * 4,
                (None, Some(values)) => {
                    values.iter().filter_map(|v| v.as_str()).map(|v| v.len() as i64).max().unwrap_or(0)
                }
                (None, None) => MAX_REQUEST - 2,
            };
            sized(DeclKind::Text, 2, max)
        }
    }
}
