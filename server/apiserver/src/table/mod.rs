//! `Table` output: columns and rows by kind, `Name` and `Age` where nothing more is known.

mod apps;
mod core;
mod others;
mod volumes;
mod words;

pub use words::human_duration;
pub(crate) use words::since;

use crate::resolve::Resource;
use crate::status::ApiError;
use serde_json::{Value, json};

/// How much of the object a row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    pub fn read(text: Option<&str>) -> Result<Self, ApiError> {
        match text {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(ApiError::bad_request(format!(
                "invalid includeObject value: {other:?}, must be one of None, Metadata, Object"
            ))),
        }
    }
}

/// One column of a kind: `priority` 0 is always shown, 1 with `-o wide`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    pub format: &'static str,
    pub priority: u8,
}

pub(crate) const fn column(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0 }
}

pub(crate) const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0 }
}

pub(crate) const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1 }
}

pub(crate) const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0 };
pub(crate) const AGE: Column = column("Age");

/// The printer of one kind.
pub(crate) struct Printer {
    pub columns: &'static [Column],
    pub cells: fn(&Value) -> Vec<Value>,
}

const GENERIC: Printer = Printer {
    columns: &[NAME, Column { name: "Created At", kind: "date", format: "", priority: 0 }],
    cells: |o| vec![words::name(o), o["metadata"]["creationTimestamp"].clone()],
};

fn printer(group: &str, kind: &str) -> &'static Printer {
    core::printer(group, kind)
        .or_else(|| apps::printer(group, kind))
        .or_else(|| others::printer(group, kind))
        .unwrap_or(&GENERIC)
}

/// The table of some objects, given in the version of `resource`.
pub fn table(
    resource: &Resource,
    objects: &[Value],
    include: IncludeObject,
    version: &str,
    list_meta: Value,
    headers: bool,
) -> Value {
    let (columns, cells): (Vec<Value>, Box<dyn Fn(&Value) -> Vec<Value>>) = match &resource.custom {
        Some(custom) => (custom.columns(), Box::new(|o| custom.cells(o))),
        None => {
            // Printers read the storage version's fields.
            let printer = printer(&resource.storage.0, &resource.kind);
            let columns = printer.columns.iter().map(|c| {
                json!({"name": c.name, "type": c.kind, "format": c.format, "description": "", "priority": c.priority})
            });
            (
                columns.collect(),
                Box::new(|o| (printer.cells)(&crate::convert::to_storage(resource, o.clone()))),
            )
        }
    };
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": cells(object)});
            match include {
                IncludeObject::None => {}
                IncludeObject::Metadata => {
                    row["object"] = json!({
                        "kind": "PartialObjectMetadata",
                        "apiVersion": format!("meta.k8s.io/{version}"),
                        "metadata": object["metadata"],
                    });
                }
                IncludeObject::Object => row["object"] = object.clone(),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": list_meta,
        "columnDefinitions": if headers { Value::from(columns) } else { json!([]) },
        "rows": rows,
    })
}
