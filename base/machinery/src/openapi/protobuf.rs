//! The v2 document as gnostic's `openapi.v2.Document`.

use serde_json::Value;

use crate::codec::protobuf::wire::{Back, FIXED64};

/// Writes a v2 document. What gnostic's messages cannot hold is left out.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Writer(Back::default());
    out.document(document);
    out.0.finish()
}

/// Everything is written backwards: last field first, last element first.
struct Writer(Back);

type Part = fn(&mut Writer, &Value);

impl Writer {
    fn document(&mut self, d: &Value) {
        self.named(13, &d["securityDefinitions"], |w, v| {
            w.message(2, v, |w, v| {
                w.text(4, &v["description"]);
                w.text(3, &v["in"]);
                w.text(2, &v["name"]);
                w.text(1, &v["type"]);
            });
        });
        self.each(12, &d["security"], |w, v| {
            w.entries(1, v, |w, v| w.texts(1, v));
        });
        self.message(10, &d["parameters"], |w, v| w.entries(1, v, Self::parameter));
        self.message(9, &d["definitions"], |w, v| w.entries(1, v, Self::schema));
        self.message(8, &d["paths"], |w, v| w.entries(2, v, Self::path_item));
        self.message(2, &d["info"], |w, v| {
            w.text(2, &v["version"]);
            w.text(1, &v["title"]);
        });
        self.text(1, &d["swagger"]);
    }

    fn message(&mut self, number: u32, value: &Value, part: impl FnOnce(&mut Self, &Value)) {
        if !value.is_null() {
            let mark = self.0.len();
            part(self, value);
            self.0.close(mark, number);
        }
    }

    fn each(&mut self, number: u32, value: &Value, part: Part) {
        for item in value.as_array().into_iter().flatten().rev() {
            self.message(number, item, part);
        }
    }

    /// A message whose first field is a list of named values.
    fn named(&mut self, number: u32, value: &Value, part: Part) {
        self.message(number, value, |w, v| w.entries(1, v, part));
    }

    fn entries(&mut self, number: u32, value: &Value, part: Part) {
        for (name, value) in value.as_object().into_iter().flatten().rev() {
            let mark = self.0.len();
            self.message(2, value, part);
            self.0.bytes(1, name.as_bytes());
            self.0.close(mark, number);
        }
    }

    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str() {
            self.0.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u32, value: &Value) {
        for text in value.as_array().into_iter().flatten().rev() {
            self.text(number, text);
        }
    }

    fn flag(&mut self, number: u32, value: &Value) {
        if value == &Value::Bool(true) {
            self.0.number(number, 1);
        }
    }

    fn double(&mut self, number: u32, value: &Value) {
        if let Some(double) = value.as_f64() {
            self.0.raw(&double.to_le_bytes());
            self.0.tag(number, FIXED64);
        }
    }

    fn int(&mut self, number: u32, value: &Value) {
        if let Some(int) = value.as_i64() {
            self.0.number(number, int as u64);
        }
    }

    /// `Any`, whose YAML is our JSON.
    fn any(&mut self, number: u32, value: &Value) {
        let text = value.to_string();
        let mark = self.0.len();
        self.0.bytes(2, text.as_bytes());
        self.0.close(mark, number);
    }

    fn extensions(&mut self, number: u32, object: &Value) {
        for (name, value) in object.as_object().into_iter().flatten().rev() {
            if name.starts_with("x-") {
                let mark = self.0.len();
                self.any(2, value);
                self.0.bytes(1, name.as_bytes());
                self.0.close(mark, number);
            }
        }
    }

    fn path_item(&mut self, v: &Value) {
        self.extensions(10, v);
        self.each(9, &v["parameters"], Self::parameters_item);
        let methods = ["get", "put", "post", "delete", "options", "head", "patch"];
        for (at, method) in methods.iter().enumerate().rev() {
            self.message(at as u32 + 2, &v[*method], Self::operation);
        }
    }

    fn operation(&mut self, v: &Value) {
        self.extensions(13, v);
        self.texts(10, &v["schemes"]);
        self.message(9, &v["responses"], |w, v| {
            w.entries(1, v, |w, v| {
                w.message(1, v, |w, v| {
                    w.message(2, &v["schema"], |w, v| w.message(1, v, Self::schema));
                    w.text(1, &v["description"]);
                });
            });
        });
        self.each(8, &v["parameters"], Self::parameters_item);
        self.texts(7, &v["consumes"]);
        self.texts(6, &v["produces"]);
        self.text(5, &v["operationId"]);
        self.text(3, &v["description"]);
        self.texts(1, &v["tags"]);
    }

    fn parameters_item(&mut self, v: &Value) {
        if v["$ref"].is_string() {
            self.message(2, v, |w, v| w.text(1, &v["$ref"]));
        } else {
            self.message(1, v, Self::parameter);
        }
    }

    fn parameter(&mut self, v: &Value) {
        match v["in"].as_str() {
            Some("body") => self.message(1, v, |w, v| {
                w.message(5, &v["schema"], Self::schema);
                w.flag(4, &v["required"]);
                w.text(3, &v["in"]);
                w.text(2, &v["name"]);
                w.text(1, &v["description"]);
            }),
            Some("path") => self.message(2, v, |w, v| {
                w.message(4, v, |w, v| {
                    w.flag(19, &v["uniqueItems"]);
                    w.text(5, &v["type"]);
                    w.text(4, &v["name"]);
                    w.text(3, &v["description"]);
                    w.text(2, &v["in"]);
                    w.flag(1, &v["required"]);
                });
            }),
            _ => self.message(2, v, |w, v| {
                w.message(3, v, |w, v| {
                    w.flag(20, &v["uniqueItems"]);
                    w.text(6, &v["type"]);
                    w.text(4, &v["name"]);
                    w.text(3, &v["description"]);
                    w.text(2, &v["in"]);
                    w.flag(1, &v["required"]);
                });
            }),
        }
    }

    fn schema(&mut self, v: &Value) {
        self.extensions(31, v);
        self.named(25, &v["properties"], Self::schema);
        self.each(24, &v["allOf"], Self::schema);
        match &v["items"] {
            Value::Null => {}
            items => {
                let mark = self.0.len();
                self.message(1, items, Self::schema);
                self.0.close(mark, 23);
            }
        }
        if let Some(text) = v["type"].as_str() {
            let mark = self.0.len();
            self.0.bytes(1, text.as_bytes());
            self.0.close(mark, 22);
        }
        match &v["additionalProperties"] {
            Value::Null => {}
            Value::Bool(on) => {
                let mark = self.0.len();
                self.0.number(2, u64::from(*on));
                self.0.close(mark, 21);
            }
            schema => {
                let mark = self.0.len();
                self.message(1, schema, Self::schema);
                self.0.close(mark, 21);
            }
        }
        for value in v["enum"].as_array().into_iter().flatten().rev() {
            self.any(20, value);
        }
        self.texts(19, &v["required"]);
        self.int(18, &v["minProperties"]);
        self.int(17, &v["maxProperties"]);
        self.flag(16, &v["uniqueItems"]);
        self.int(15, &v["minItems"]);
        self.int(14, &v["maxItems"]);
        self.text(13, &v["pattern"]);
        self.int(12, &v["minLength"]);
        self.int(11, &v["maxLength"]);
        self.flag(10, &v["exclusiveMinimum"]);
        self.double(9, &v["minimum"]);
        self.flag(8, &v["exclusiveMaximum"]);
        self.double(7, &v["maximum"]);
        self.double(6, &v["multipleOf"]);
        if !v["default"].is_null() {
            self.any(5, &v["default"]);
        }
        self.text(4, &v["description"]);
        self.text(3, &v["title"]);
        self.text(2, &v["format"]);
        self.text(1, &v["$ref"]);
    }
}
