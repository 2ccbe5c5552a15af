//! OpenAPI v3 to the model, with upstream's words for what is not structural.

use serde_json::Value;

use crate::field::{FieldErrors, Path};
use crate::schema::model::{Field, ListKind, ListShape, MapShape, Schema, Shape, TypeDef, TypeId};
use crate::schema::{Builtin, builtin};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// Deeper schemas are refused, so that walking one can never exhaust the stack.
const DEPTH: usize = 100;

/// Compiles one version's `openAPIV3Schema`. Error paths are relative to the schema; `at` names its place
/// (`spec.versions[0].schema.openAPIV3Schema`).
pub fn compile(schema: &Value, at: &Path<'_>) -> Result<(Schema, TypeId), FieldErrors> {
    let mut compiler = Compiler {
        table: builtin(),
        out: Schema { custom: true, ..Schema::default() },
        errors: FieldErrors::default(),
        meta: None,
    };
    match text(schema, "type") {
        "" => compiler.errors.required(&at.child("type"), "must not be empty at the root"),
        "object" => {}
        other => compiler.errors.invalid(&at.child("type"), other, "must be object at the root"),
    }
    if flag(schema, "nullable") {
        compiler.errors.forbidden(&at.child("nullable"), "nullable cannot be true at the root");
    }
    let mut root = compiler.structure(schema, at, 0);
    compiler.object_fields(&mut root);
    root.index();
    let id = compiler.push(root);
    for ty in &mut compiler.out.types {
        ty.index();
    }
    if compiler.errors.is_empty() { Ok((compiler.out, id)) } else { Err(compiler.errors) }
}

fn text<'v>(schema: &'v Value, key: &str) -> &'v str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key) == Some(&Value::Bool(true))
}

struct Compiler {
    table: &'static Builtin,
    out: Schema,
    errors: FieldErrors,
    /// `ObjectMeta`, copied in when first needed.
    meta: Option<TypeId>,
}

impl Compiler {
    fn push(&mut self, ty: TypeDef) -> TypeId {
        self.out.types.push(ty);
        TypeId(self.out.types.len() as u32 - 1)
    }

    /// Copies a built-in type and what it refers to.
    fn copy(&mut self, id: TypeId) -> TypeId {
        let source = self.table.schema.get(id);
        if let Some(at) = self.out.types.iter().position(|t| t.name == source.name) {
            return TypeId(at as u32);
        }
        let mut ty = source.clone();
        for field in &mut ty.fields {
            match &mut field.shape {
                Shape::Struct(inner) => *inner = self.copy(*inner),
                Shape::List(list) => {
                    if let Shape::Struct(inner) = &mut list.item {
                        *inner = self.copy(*inner);
                    }
                }
                _ => {}
            }
        }
        self.push(ty)
    }

    fn object_meta(&mut self) -> Shape {
        if self.meta.is_none() {
            self.meta = self.table.by_name(&format!("{META}.ObjectMeta")).map(|id| self.copy(id));
        }
        self.meta.map_or(Shape::Any, Shape::Struct)
    }

    /// apiVersion, kind and metadata, whatever the schema says of them.
    fn object_fields(&mut self, ty: &mut TypeDef) {
        ty.fields.retain(|f| !matches!(f.name.as_str(), "apiVersion" | "kind" | "metadata"));
        let meta = self.object_meta();
        for (name, shape) in [("apiVersion", Shape::String), ("kind", Shape::String), ("metadata", meta)] {
            ty.fields.push(Field::new(name, shape));
        }
    }

    fn structure(&mut self, schema: &Value, at: &Path<'_>, depth: usize) -> TypeDef {
        let mut ty = TypeDef {
            preserve_unknown: flag(schema, "x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag(schema, "x-kubernetes-embedded-resource"),
            atomic: text(schema, "x-kubernetes-map-type") == "atomic",
            ..TypeDef::default()
        };
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let parent = at.child("properties");
            let path = parent.key(name);
            let shape = self.shape(property, &path, "specified object fields", depth + 1);
            let mut field = Field::new(name.clone(), shape);
            field.required = required.contains(&name.as_str());
            field.nullable = flag(property, "nullable");
            field.default = property.get("default").filter(|d| !d.is_null() || field.nullable).cloned();
            let values =
                property.get("enum").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            if values.iter().all(Value::is_string) {
                field.enum_values = values.iter().filter_map(Value::as_str).map(str::to_string).collect();
            }
            ty.fields.push(field);
        }
        if ty.embedded_resource {
            self.object_fields(&mut ty);
        }
        ty
    }

    fn shape(&mut self, schema: &Value, at: &Path<'_>, place: &str, depth: usize) -> Shape {
        if depth > DEPTH {
            self.errors.forbidden(at, format!("schemas may be nested at most {DEPTH} levels deep"));
            return Shape::Any;
        }
        self.check(schema, at);
        let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
        let int_or_string = flag(schema, "x-kubernetes-int-or-string");
        let ty = text(schema, "type");
        if int_or_string {
            if !ty.is_empty() {
                let detail = "must be empty if x-kubernetes-int-or-string is true";
                self.errors.forbidden(&at.child("type"), detail);
            }
            return Shape::IntOrString;
        }
        match ty {
            "string" => Shape::String,
            "boolean" => Shape::Bool,
            "integer" if text(schema, "format") == "int32" => Shape::Int32,
            "integer" => Shape::Int64,
            "number" => Shape::Double,
            "array" => self.list(schema, at, depth),
            "object" => self.object(schema, at, depth),
            "" if preserve => {
                if schema.get("properties").is_some() {
                    self.object(schema, at, depth)
                } else {
                    Shape::Any
                }
            }
            "" => {
                self.errors.required(&at.child("type"), format!("must not be empty for {place}"));
                Shape::Any
            }
            other => {
                let known = ["array", "boolean", "integer", "number", "object", "string"];
                self.errors.not_supported(&at.child("type"), other, &known);
                Shape::Any
            }
        }
    }

    fn list(&mut self, schema: &Value, at: &Path<'_>, depth: usize) -> Shape {
        let items = at.child("items");
        let item = match schema.get("items") {
            Some(item) if item.is_object() => self.shape(item, &items, "specified array items", depth + 1),
            Some(item) if item.is_array() => {
                self.errors.forbidden(&items, "items must be a schema object and not an array");
                Shape::Any
            }
            _ => {
                self.errors.required(&items, "must be specified");
                Shape::Any
            }
        };
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let keys: Vec<String> =
            keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
        let keys_at = at.child("x-kubernetes-list-map-keys");
        let kind = match text(schema, "x-kubernetes-list-type") {
            "" | "atomic" => ListKind::Atomic,
            "set" => ListKind::Set,
            "map" => {
                if keys.is_empty() {
                    self.errors.required(&keys_at, "must not be empty if x-kubernetes-list-type is map");
                }
                let properties = schema.get("items").and_then(|i| i.get("properties"));
                for (index, key) in keys.iter().enumerate() {
                    if properties.and_then(|p| p.get(key)).is_none() {
                        let detail = "entries must all be names of item properties";
                        self.errors.invalid(&keys_at.index(index), key.as_str(), detail);
                    }
                }
                ListKind::Map(keys.clone())
            }
            other => {
                let known = ["atomic", "map", "set"];
                self.errors.not_supported(&at.child("x-kubernetes-list-type"), other, &known);
                ListKind::Atomic
            }
        };
        if !keys.is_empty() && !matches!(kind, ListKind::Map(_)) {
            self.errors.forbidden(&keys_at, "must not be set when x-kubernetes-list-type is not map");
        }
        Shape::List(Box::new(ListShape { item, kind }))
    }

    fn object(&mut self, schema: &Value, at: &Path<'_>, depth: usize) -> Shape {
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        let additional = at.child("additionalProperties");
        let value = match schema.get("additionalProperties") {
            Some(value) if value.is_object() => {
                Some(self.shape(value, &additional, "specified object fields", depth + 1))
            }
            Some(Value::Bool(true)) => Some(Shape::Any),
            _ => None,
        };
        let has_properties = schema
            .get("properties")
            .and_then(Value::as_object)
            .is_some_and(|properties| !properties.is_empty());
        if value.is_some() && has_properties {
            self.errors.forbidden(&additional, "additionalProperties and properties are mutual exclusive");
        }
        if let (Some(value), false) = (value, embedded) {
            let atomic = text(schema, "x-kubernetes-map-type") == "atomic";
            return Shape::Map(Box::new(MapShape { value, atomic }));
        }
        let ty = self.structure(schema, at, depth);
        Shape::Struct(self.push(ty))
    }

    /// What no structural schema may say.
    fn check(&mut self, schema: &Value, at: &Path<'_>) {
        let said = |key: &str| schema.get(key).is_some_and(|v| !v.is_null() && *v != Value::Bool(false));
        for key in
            ["$ref", "definitions", "dependencies", "deprecated", "discriminator", "id", "patternProperties"]
        {
            if said(key) {
                self.errors.forbidden(&at.child(key), format!("{key} is not supported"));
            }
        }
        if said("uniqueItems") {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.errors.forbidden(&at.child("uniqueItems"), detail);
        }
        if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
            let detail = "additionalProperties cannot be set to false";
            self.errors.forbidden(&at.child("additionalProperties"), detail);
        }
        if flag(schema, "x-kubernetes-embedded-resource")
            && !flag(schema, "x-kubernetes-preserve-unknown-fields")
            && schema.get("properties").is_none()
        {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                          x-kubernetes-preserve-unknown-fields";
            self.errors.required(&at.child("properties"), detail);
        }
        match text(schema, "x-kubernetes-map-type") {
            "" | "atomic" | "granular" => {}
            other => {
                self.errors.not_supported(&at.child("x-kubernetes-map-type"), other, &["atomic", "granular"]);
            }
        }
    }
}
