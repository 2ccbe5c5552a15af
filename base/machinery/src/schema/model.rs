//! The types a schema is made of.

use serde_json::Value;
use std::sync::OnceLock;

/// Index of a [`TypeDef`] in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

/// A closed set of types. Built-in kinds share one; each custom version has its own.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    pub types: Vec<TypeDef>,
    /// Compiled from a custom resource's OpenAPI schema: objects are held as they were written (no zero values
    /// are added or dropped), and a wrong type is left to validation.
    pub custom: bool,
    /// `JSONSchemaProps`, which [`Special`] shapes hold.
    pub props: Option<TypeId>,
    /// For each type the fields that static defaults are in or below; found when first asked for.
    pub(super) defaulted: OnceLock<Vec<Vec<u32>>>,
}

impl Schema {
    pub fn get(&self, id: TypeId) -> &TypeDef {
        &self.types[id.0 as usize]
    }

    /// The fields of a type that have a static default or hold something that has one, in declaration order.
    pub fn defaulted(&self, id: TypeId) -> &[u32] {
        &self.defaulted.get_or_init(|| self.find_defaulted())[id.0 as usize]
    }

    fn find_defaulted(&self) -> Vec<Vec<u32>> {
        fn holds(shape: &Shape, known: &[bool]) -> bool {
            match shape {
                Shape::Struct(id) => known[id.0 as usize],
                Shape::List(list) => holds(&list.item, known),
                Shape::Map(map) => holds(&map.value, known),
                _ => false,
            }
        }
        // Types refer to one another in circles: go round until nothing new is found.
        let mut known = vec![false; self.types.len()];
        let concerns = |field: &Field, known: &[bool]| field.default.is_some() || holds(&field.shape, known);
        loop {
            let mut changed = false;
            for (i, ty) in
                self.types.iter().enumerate().filter(|(_, ty)| !ty.fields.is_empty() || ty.rest.is_some())
            {
                let rest = ty.rest.as_deref().is_some_and(|rest| holds(rest, &known));
                if !known[i] && (rest || ty.fields.iter().any(|field| concerns(field, &known))) {
                    known[i] = true;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        let fields = |ty: &TypeDef| -> Vec<u32> {
            let all = (0u32..).zip(&ty.fields);
            all.filter(|(_, field)| concerns(field, &known)).map(|(i, _)| i).collect()
        };
        self.types.iter().map(fields).collect()
    }
}

/// A structure: the fields of one JSON object.
#[derive(Clone, Debug, Default)]
pub struct TypeDef {
    /// OpenAPI definition name, as `io.k8s.api.core.v1.PodSpec`. Empty for anonymous custom types.
    pub name: String,
    /// In declaration order; embedded (`json:",inline"`) structures are flattened.
    pub fields: Vec<Field>,
    /// `x-kubernetes-map-type: atomic` on the structure itself (`+structType=atomic`).
    pub atomic: bool,
    /// Keep members that no field names (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// The value is a complete object: it has apiVersion, kind and metadata (`x-kubernetes-embedded-resource`).
    pub embedded_resource: bool,
    /// Name lookup, sorted by JSON name: (name, index into `fields`). Filled by `TypeDef::index`.
    pub by_name: Vec<(String, u32)>,
    /// Indices of the fields that upstream writes even when they are absent, with their zero value.
    /// Filled by `TypeDef::index`.
    pub always: Vec<u32>,
    /// Indices of the fields with a protobuf form, in the order of their numbers (embedded messages in place).
    /// Filled by `TypeDef::index`.
    pub wire: Vec<u32>,
    /// Go name, as `PodSpec`, and its Go package, as `v1`; decoding errors say them.
    pub go: &'static str,
    pub go_package: &'static str,
    /// At most one of its fields may be set (`+union`).
    pub union: bool,
    /// The type has a protobuf form.
    pub proto: bool,
    /// What members that no field names hold: `additionalProperties` beside `properties` (custom kinds only).
    pub rest: Option<Box<Shape>>,
}

impl TypeDef {
    /// The field of that JSON name; names are case-sensitive, as in upstream's strict decoder.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.by_name.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        self.fields.get(self.by_name[at].1 as usize)
    }

    /// Rebuilds the name lookup; call once after `fields` is complete.
    pub fn index(&mut self) {
        self.by_name = self.fields.iter().enumerate().map(|(i, f)| (f.name.clone(), i as u32)).collect();
        self.by_name.sort();
        let always = self.fields.iter().enumerate().filter(|(_, f)| f.always());
        self.always = always.map(|(i, _)| i as u32).collect();
        let mut wire: Vec<u32> =
            (0..self.fields.len() as u32).filter(|i| self.fields[*i as usize].proto != 0).collect();
        wire.sort_by_key(|i| {
            let field = &self.fields[*i as usize];
            let mut key = field.embed.clone();
            key.push(field.proto);
            key
        });
        self.wire = wire;
    }

    /// The index of the field of that JSON name.
    pub fn position(&self, name: &str) -> Option<usize> {
        let at = self.by_name.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(self.by_name[at].1 as usize)
    }
}

/// One member of a structure.
#[derive(Clone, Debug)]
pub struct Field {
    /// JSON name.
    pub name: String,
    /// Protobuf field number; 0 where the type has no protobuf form (custom kinds).
    pub proto: u32,
    pub shape: Shape,
    /// Required by the API (no `omitempty`/`+optional`).
    pub required: bool,
    /// JSON `omitempty`: upstream leaves the zero value out when it encodes.
    pub omit_empty: bool,
    /// Explicit null is a value, not an absence (custom kinds only).
    pub nullable: bool,
    /// Static default (`+default=` or the custom schema's `default`).
    pub default: Option<Value>,
    /// Allowed strings (`+enum`); empty: any.
    pub enum_values: Vec<String>,
    /// How a strategic merge patch treats this field.
    pub strategic: Strategic,
    /// Union facts, for validation messages only.
    pub union_discriminator: bool,
    /// A Go pointer: null or absent differs from the zero value.
    pub pointer: bool,
    /// JSON `omitzero`: a zero struct (time) is left out too.
    pub omit_zero: bool,
    /// What the field itself says of merging (`+structType=`, `+listType=atomic`, `+mapType=`): as a whole, or
    /// (`Some(false)`) member by member although its type is atomic.
    pub atomic: Option<bool>,
    /// The list (or each list in the map) is a message of its own, `{items=1}` (`ExtraValue`, `Verbs`).
    pub wrapped: bool,
    /// Protobuf numbers of the embedded messages this flattened field lies in, outermost first.
    pub embed: Vec<u32>,
    /// Go type where the shape does not tell it (`v1.RestartPolicy`); empty otherwise.
    pub go: &'static str,
}

impl Field {
    /// An optional field with nothing else said about it.
    pub fn new(name: impl Into<String>, shape: Shape) -> Self {
        Self {
            name: name.into(),
            proto: 0,
            shape,
            required: false,
            omit_empty: true,
            nullable: false,
            default: None,
            enum_values: Vec::new(),
            strategic: Strategic::default(),
            union_discriminator: false,
            pointer: false,
            omit_zero: false,
            atomic: None,
            wrapped: false,
            embed: Vec::new(),
            go: "",
        }
    }

    /// The field's protobuf number at `depth` embedded messages, and whether that is the field itself.
    pub fn number(&self, depth: usize) -> (u32, bool) {
        self.embed.get(depth).map_or((self.proto, true), |n| (*n, false))
    }

    /// Whether upstream writes this field even when it is absent or zero.
    pub fn always(&self) -> bool {
        if self.pointer || self.omit_zero {
            return !self.omit_empty && !self.omit_zero;
        }
        !self.omit_empty || self.shape.is_go_struct()
    }
}

/// `patchStrategy` and `patchMergeKey` of a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strategic {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
    /// Merge key for lists of objects; empty with `merge` means a list of scalars merged as a set.
    pub merge_key: Option<String>,
}

/// What one value looks like.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    /// base64 in JSON, bytes in protobuf.
    Bytes,
    /// Canonical string in JSON (a number is accepted); message `{string=1}` in protobuf.
    Quantity,
    /// RFC 3339, seconds in JSON; message `{seconds=1,nanos=2}`.
    Time,
    /// RFC 3339 with six fractional digits.
    MicroTime,
    /// Go duration string in JSON; message `{duration=1}` nanoseconds.
    Duration,
    /// int32 or string; message `{type=1,intVal=2,strVal=3}`.
    IntOrString,
    /// Any JSON object with its own kind (`runtime.RawExtension`); message `{raw=1}`.
    RawExtension,
    /// Any JSON (`apiextensions JSON`, `FieldsV1`): kept as it is; message `{raw=1}` (`Raw=1`).
    Any,
    /// JSONSchemaPropsOrBool, ...OrArray, ...OrStringArray and the like, by name.
    Special(Special),
    Struct(TypeId),
    List(Box<ListShape>),
    Map(Box<MapShape>),
}

impl Shape {
    /// A Go struct, for which `omitempty` means nothing.
    pub fn is_go_struct(&self) -> bool {
        matches!(
            self,
            Shape::Struct(_)
                | Shape::Quantity
                | Shape::Time
                | Shape::MicroTime
                | Shape::Duration
                | Shape::IntOrString
                | Shape::RawExtension
                | Shape::Special(_)
        )
    }
}

/// Hand-marshalled unions of `apiextensions.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    JsonSchemaPropsOrArray,
    JsonSchemaPropsOrBool,
    JsonSchemaPropsOrStringArray,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListShape {
    pub item: Shape,
    pub kind: ListKind,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// Associative, with its key fields in order.
    Map(Vec<String>),
}

/// String keys to values.
#[derive(Clone, Debug, PartialEq)]
pub struct MapShape {
    pub value: Shape,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
}
