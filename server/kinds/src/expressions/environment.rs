//! What admission expressions may name, and with what types.

use cel::decl::{DYN, Decl, DeclKind, FieldDecl, ListKind, ObjectDecl};
use cel::library::signatures::{AUTHORIZER, RESOURCE_CHECK};
use cel::{Env, Type};
use std::sync::{Arc, OnceLock};

fn string() -> Decl {
    Decl::new(DeclKind::Text, 2)
}

fn strings() -> Decl {
    Decl::new(DeclKind::List { item: Arc::new(string()), kind: ListKind::Atomic }, 2)
}

fn map(value: Decl) -> Decl {
    Decl::new(DeclKind::Map { key: None, value: Arc::new(value) }, 2)
}

/// Fields under their own names: upstream escapes none of these.
fn object(name: &str, fields: Vec<(&str, Decl)>) -> Decl {
    let field = |(n, decl): (&str, Decl)| FieldDecl { name: n.into(), json: n.into(), decl, ty: None };
    Decl::object(name, fields.into_iter().map(field))
}

/// `request`.
pub fn request_decl() -> &'static Decl {
    static DECL: OnceLock<Decl> = OnceLock::new();
    DECL.get_or_init(|| {
        let kind = || {
            let fields = vec![("group", string()), ("version", string()), ("kind", string())];
            object("kubernetes.GroupVersionKind", fields)
        };
        let resource = || {
            let fields = vec![("group", string()), ("version", string()), ("resource", string())];
            object("kubernetes.GroupVersionResource", fields)
        };
        let user = object(
            "kubernetes.UserInfo",
            vec![("username", string()), ("uid", string()), ("groups", strings()), ("extra", map(strings()))],
        );
        object(
            "kubernetes.AdmissionRequest",
            vec![
                ("kind", kind()),
                ("resource", resource()),
                ("subResource", string()),
                ("requestKind", kind()),
                ("requestResource", resource()),
                ("requestSubResource", string()),
                ("name", string()),
                ("namespace", string()),
                ("operation", string()),
                ("userInfo", user),
                ("dryRun", Decl::new(DeclKind::Bool, 4)),
                ("options", DYN.clone()),
            ],
        )
    })
}

/// `namespaceObject`.
pub fn namespace_decl() -> &'static Decl {
    static DECL: OnceLock<Decl> = OnceLock::new();
    DECL.get_or_init(|| {
        let time = || Decl::new(DeclKind::Timestamp, 21);
        let int = || Decl::new(DeclKind::Int, 1);
        let condition = object(
            "kubernetes.NamespaceCondition",
            vec![
                ("status", string()),
                ("type", string()),
                ("lastTransitionTime", time()),
                ("message", string()),
                ("reason", string()),
            ],
        );
        let conditions = Decl::new(DeclKind::List { item: Arc::new(condition), kind: ListKind::Atomic }, 2);
        let mut metadata = object(
            "kubernetes.NamespaceMetadata",
            vec![
                ("name", string()),
                ("generateName", string()),
                ("namespace", string()),
                ("labels", map(string())),
                ("annotations", map(string())),
                ("creationTimestamp", time()),
                ("deletionGracePeriodSeconds", int()),
                ("deletionTimestamp", time()),
                ("generation", int()),
                ("resourceVersion", string()),
                ("finalizers", strings()),
            ],
        );
        // Upstream declares it under its Go name.
        if let DeclKind::Object(fields) = &mut metadata.kind {
            let uid = FieldDecl { name: "UID".into(), json: "uid".into(), decl: string(), ty: None };
            Arc::make_mut(fields).fields.insert("UID".into(), uid);
        }
        object(
            "kubernetes.Namespace",
            vec![
                ("metadata", metadata),
                ("spec", object("kubernetes.NamespaceSpec", vec![("finalizers", strings())])),
                (
                    "status",
                    object(
                        "kubernetes.NamespaceStatus",
                        vec![("conditions", conditions), ("phase", string())],
                    ),
                ),
            ],
        )
    })
}

/// Which of the optional variables there are.
#[derive(Clone, Copy, Default)]
pub struct Has {
    pub params: bool,
    pub authorizer: bool,
    pub patch_types: bool,
}

/// The environment of an admission expression.
pub fn env(has: Has) -> Env {
    let mut env = Env::default()
        .var("object", Type::Dyn)
        .var("oldObject", Type::Dyn)
        .var("namespaceObject", namespace_decl().ty())
        .var("request", request_decl().ty());
    if has.params {
        env = env.var("params", Type::Dyn);
    }
    if has.authorizer {
        env = env
            .var("authorizer", Type::Opaque(AUTHORIZER))
            .var("authorizer.requestResource", Type::Opaque(RESOURCE_CHECK));
    }
    if has.patch_types {
        env = env.with_patch_types();
    }
    env
}

/// The environment with `variables.name` for each of these.
pub fn with_variables(env: Env, variables: &[(String, Type)]) -> Env {
    let fields = variables.iter().filter_map(|(name, ty)| {
        let mut field = FieldDecl::new(name, DYN.clone())?;
        field.ty = Some(ty.clone());
        Some((field.name.clone(), field))
    });
    let object = ObjectDecl { name: "kubernetes.variables".into(), fields: fields.collect() };
    env.var("variables", Type::Object(Arc::new(object)))
}
