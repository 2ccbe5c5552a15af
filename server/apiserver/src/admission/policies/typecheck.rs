//! Type checking of a policy against the kinds it is for: warnings for its author, without effect on what it does.

use super::params::ParamKind;
use crate::reader::{items, strings, text};
use crate::resolve::Index;
use crate::schemas;
use cel::decl::{DYN, Decl, DeclKind, FieldDecl, ListKind};
use cel::{Env, Type};
use kinds::expressions::environment::{Has, env, namespace_decl, request_decl, with_variables};
use machinery::schema::{self, Schema, Shape, TypeId};
use serde_json::{Value, json};
use std::sync::Arc;

/// The most kinds one rule is checked against.
const MOST: usize = 10;

/// A kind with its declared type.
struct Kind {
    /// As warnings name it: `apps/v1, Kind=Deployment`.
    shown: String,
    decl: Decl,
}

/// `status.typeChecking.expressionWarnings` of a policy.
pub(super) fn warnings(index: &Index, policy: &Value) -> Vec<Value> {
    let spec = &policy["spec"];
    let kinds = kinds(index, spec);
    let params = ParamKind::read(spec);
    let param_decl = params.as_ref().and_then(|p| {
        let (group, version) = p.api_version.split_once('/').unwrap_or(("", &p.api_version));
        decl(index, group, version, &p.kind)
    });
    let mut out = Vec::new();
    for (i, validation) in items(spec, "/validations").iter().enumerate() {
        for member in ["expression", "messageExpression"] {
            let source = text(validation, &format!("/{member}")).trim();
            if source.is_empty() {
                continue;
            }
            let mut found = Vec::new();
            for kind in &kinds {
                let environment = typed(spec, &kind.decl, params.is_some(), param_decl.as_ref());
                if let Err(e) = cel::compile(&environment, source) {
                    found.push(format!("{}: compilation failed: {e}\n", kind.shown));
                }
            }
            if !found.is_empty() {
                let at = format!("spec.validations[{i}].{member}");
                out.push(json!({"fieldRef": at, "warning": found.join("\n")}));
            }
        }
    }
    out
}

/// The environment where object and parameters have their types.
fn typed(spec: &Value, object: &Decl, params: bool, param_decl: Option<&Decl>) -> Env {
    let mut bare = env(Has { params, authorizer: true, patch_types: false })
        .var("object", object.ty())
        .var("oldObject", object.ty())
        .var("request", request_decl().ty())
        .var("namespaceObject", namespace_decl().ty());
    if let (true, Some(decl)) = (params, param_decl) {
        bare = bare.var("params", decl.ty());
    }
    let mut known: Vec<(String, Type)> = Vec::new();
    for variable in items(spec, "/variables") {
        let scope = with_variables(bare.clone(), &known);
        let compiled = cel::compile(&scope, text(variable, "/expression"));
        let ty = compiled.map_or(Type::Dyn, |p| p.result().clone());
        known.push((text(variable, "/name").to_owned(), ty));
    }
    with_variables(bare, &known)
}

/// The kinds the policy's rules name outright, sorted.
fn kinds(index: &Index, spec: &Value) -> Vec<Kind> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    for rule in items(spec, "/matchConstraints/resourceRules") {
        let plain = |list: &str| -> Vec<String> {
            let all = strings(rule, list);
            if all.iter().any(|t| t.contains('*')) { Vec::new() } else { all }
        };
        let (groups, versions) = (plain("/apiGroups"), plain("/apiVersions"));
        // Subresources are of other kinds.
        let resources: Vec<String> =
            strings(rule, "/resources").into_iter().filter(|r| !r.contains(['*', '/'])).collect();
        let mut count = 0;
        for group in &groups {
            for version in &versions {
                for resource in &resources {
                    let Some(resource) = index.find(group, version, resource).filter(|_| count < MOST) else {
                        continue;
                    };
                    count += 1;
                    found.push((group.clone(), version.clone(), resource.kind.clone()));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    let kind = |(group, version, kind): (String, String, String)| {
        let decl = decl(index, &group, &version, &kind)?;
        Some(Kind { shown: format!("{group}/{version}, Kind={kind}"), decl })
    };
    found.into_iter().filter_map(kind).collect()
}

fn decl(index: &Index, group: &str, version: &str, kind: &str) -> Option<Decl> {
    let resource = index.by_kind(group, version, kind)?;
    if let Some(custom) = &resource.custom {
        let mut schema = custom.published_schema()?;
        // A custom object's metadata is as open as any other's here.
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("metadata");
        }
        let decl = cel::from_schema(&schema, true, kind)?;
        return Some(with_metadata(decl));
    }
    let (schema, root) = schemas::kind_shape(group, version, kind)?;
    Some(of_type(schema, root, kind, &mut Vec::new()))
}

/// Full object metadata in the place of name and generateName.
fn with_metadata(mut decl: Decl) -> Decl {
    let table = schema::builtin();
    let id = table.by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    if let (DeclKind::Object(object), Some(id)) = (&mut decl.kind, id) {
        let metadata = of_type(&table.schema, id, "ObjectMeta", &mut Vec::new());
        if let Some(field) = FieldDecl::new("metadata", metadata) {
            Arc::make_mut(object).fields.insert(field.name.clone(), field);
        }
    }
    decl
}

/// A built-in type; one that holds itself is anything from there on.
fn of_type(schema: &Schema, id: TypeId, name: &str, within: &mut Vec<TypeId>) -> Decl {
    if within.contains(&id) {
        return DYN.clone();
    }
    within.push(id);
    let fields: Vec<FieldDecl> = schema
        .get(id)
        .fields
        .iter()
        .filter_map(|f| {
            FieldDecl::new(&f.name, of_shape(schema, &f.shape, &format!("{name}.{}", f.name), within))
        })
        .collect();
    within.pop();
    Decl::object(name, fields)
}

fn of_shape(schema: &Schema, shape: &Shape, name: &str, within: &mut Vec<TypeId>) -> Decl {
    let plain = |kind| Decl::new(kind, 1);
    match shape {
        Shape::Bool => plain(DeclKind::Bool),
        Shape::Int32 | Shape::Int64 => plain(DeclKind::Int),
        Shape::Double => plain(DeclKind::Double),
        Shape::String | Shape::Quantity | Shape::Duration => plain(DeclKind::Text),
        Shape::Bytes => plain(DeclKind::Bytes),
        Shape::Time | Shape::MicroTime => plain(DeclKind::Timestamp),
        Shape::IntOrString => plain(DeclKind::IntOrString),
        Shape::RawExtension | Shape::Any | Shape::Special(_) => DYN.clone(),
        Shape::Struct(id) => of_type(schema, *id, name, within),
        Shape::List(list) => {
            let item = Arc::new(of_shape(schema, &list.item, &format!("{name}.@idx"), within));
            plain(DeclKind::List { item, kind: ListKind::Atomic })
        }
        Shape::Map(map) => {
            let value = Arc::new(of_shape(schema, &map.value, &format!("{name}.@elem"), within));
            plain(DeclKind::Map { key: None, value })
        }
    }
}
