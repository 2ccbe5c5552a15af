//! Named formats: what a name, a URI or a date must look like.

use super::opaque::Opaque;
use super::{net, time};
use crate::error::EvalError;
use crate::run::Function;
use crate::value::Value;
use machinery::names;

#[derive(Debug)]
pub struct Format {
    pub name: &'static str,
    check: fn(&str) -> Vec<String>,
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", check: |t| names::name_is_label(t, false) },
    Format { name: "dns1123Subdomain", check: |t| names::name_is_subdomain(t, false) },
    Format { name: "dns1035Label", check: |t| names::name_is_1035_label(t, false) },
    Format { name: "qualifiedName", check: names::qualified_name },
    Format { name: "dns1123LabelPrefix", check: |t| names::name_is_label(t, true) },
    Format { name: "dns1123SubdomainPrefix", check: |t| names::name_is_subdomain(t, true) },
    Format { name: "dns1035LabelPrefix", check: |t| names::name_is_1035_label(t, true) },
    Format { name: "labelValue", check: names::label_value },
    Format { name: "uri", check: |t| net::parse_url(t).err().into_iter().collect() },
    Format { name: "uuid", check: |t| unless(uuid(t), "does not match the UUID format") },
    Format { name: "byte", check: |t| unless(base64(t), "invalid base64") },
    Format { name: "date", check: |t| unless(time::parse_date(t).is_some(), "invalid date") },
    Format { name: "datetime", check: |t| unless(time::parse_date_time(t).is_some(), "invalid datetime") },
];

fn unless(good: bool, message: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![message.to_owned()] }
}

fn uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = |t: &str| t.bytes().all(|b| b.is_ascii_hexdigit());
    match groups[..] {
        [whole] => whole.len() == 32 && hex(whole),
        [a, b, c, d, e] => {
            [a.len(), b.len(), c.len(), d.len(), e.len()] == [8, 4, 4, 4, 12] && groups.iter().all(|g| hex(g))
        }
        _ => false,
    }
}

fn base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|f| f.name == name)
}

/// A constant of one format's name each; function pointers carry no data.
macro_rules! constants {
    ($name:expr, $($n:literal),*) => {
        match $name {
            $(concat!("format.", $n) => {
                |_| find($n).map(|f| Value::opaque(Opaque::Format(f))).ok_or_else(EvalError::no_overload)
            })*
            _ => return None,
        }
    };
}

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "format.named" => |args| match args {
            [Value::Text(name)] => Ok(match find(name) {
                Some(format) => Value::some(Value::opaque(Opaque::Format(format))),
                None => Value::Optional(None),
            }),
            _ => Err(EvalError::no_overload()),
        },
        "validate" => |args| match args {
            [Value::Opaque(o), Value::Text(text)] => match &**o {
                Opaque::Format(format) => {
                    let wrong = (format.check)(text);
                    Ok(if wrong.is_empty() {
                        Value::Optional(None)
                    } else {
                        Value::some(Value::list(wrong.into_iter().map(Value::text).collect()))
                    })
                }
                _ => Err(EvalError::no_overload()),
            },
            _ => Err(EvalError::no_overload()),
        },
        other => constants!(
            other,
            "dns1123Label",
            "dns1123Subdomain",
            "dns1035Label",
            "qualifiedName",
            "dns1123LabelPrefix",
            "dns1123SubdomainPrefix",
            "dns1035LabelPrefix",
            "labelValue",
            "uri",
            "uuid",
            "byte",
            "date",
            "datetime"
        ),
    })
}
