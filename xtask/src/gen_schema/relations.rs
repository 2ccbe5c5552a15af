//! How lists and maps merge, read from the structured-merge-diff schema inside client-go's `internal.go`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

#[derive(Default)]
pub struct Relations {
    types: BTreeSet<String>,
    atomic: BTreeSet<String>,
    fields: BTreeMap<(String, String), Relation>,
}

#[derive(Clone, Default, Debug, PartialEq)]
pub struct Relation {
    pub list: bool,
    /// `atomic`, `associative`, `separable`, or empty where nothing was said.
    pub relationship: String,
    pub keys: Vec<String>,
}

impl Relations {
    pub fn knows(&self, ty: &str) -> bool {
        self.types.contains(ty)
    }

    pub fn is_atomic(&self, ty: &str) -> bool {
        self.atomic.contains(ty)
    }

    pub fn field(&self, ty: &str, field: &str) -> Option<&Relation> {
        self.fields.get(&(ty.to_string(), field.to_string()))
    }

    pub fn read(&mut self, source: &str) -> Result<()> {
        let start = source.find("YAMLObject(`").context("no schema in internal.go")?;
        let text = &source[start..];
        let text = &text[..text[12..].find('`').map_or(text.len(), |at| at + 12)];
        let (mut ty, mut field) = (String::new(), String::new());
        for line in text.lines() {
            let indent = line.len() - line.trim_start().len();
            let word = line.trim();
            match (indent, word) {
                (0, _) => {
                    ty = word.strip_prefix("- name: ").unwrap_or_default().to_string();
                    field.clear();
                    self.types.insert(ty.clone());
                }
                (4, "elementRelationship: atomic") => {
                    self.atomic.insert(ty.clone());
                }
                (4, _) => field = word.strip_prefix("- name: ").unwrap_or_default().to_string(),
                (8 | 10, _) if !field.is_empty() => {
                    let entry = self.fields.entry((ty.clone(), field.clone())).or_default();
                    if word == "list:" {
                        entry.list = true;
                    } else if let Some(kind) = word.strip_prefix("elementRelationship: ") {
                        entry.relationship = kind.to_string();
                    } else if indent == 10
                        && let Some(key) = word.strip_prefix("- ")
                    {
                        entry.keys.push(key.to_string());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
