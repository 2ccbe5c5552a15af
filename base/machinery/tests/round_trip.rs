//! Random objects of every kind survive JSON, protobuf, defaulting and a second reading.

use machinery::codec::{Strictness, decode, decode_value, protobuf};
use machinery::schema::{Schema, Shape, Special, TypeId, builtin, defaults};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Draws from a list of random bytes; when it runs dry everything is small.
struct Dice<'b>(std::slice::Iter<'b, u8>);

impl Dice<'_> {
    fn roll(&mut self, sides: u8) -> u8 {
        self.0.next().map_or(0, |b| b % sides)
    }
}

fn object(schema: &Schema, id: TypeId, dice: &mut Dice, depth: u8) -> Value {
    let mut out = Map::new();
    let ty = schema.get(id);
    // An item's apiVersion and kind have no place in a protobuf list.
    for field in ty.fields.iter().filter(|f| f.proto != 0 || !ty.proto) {
        if dice.roll(3) == 1 {
            out.insert(field.name.clone(), value(schema, &field.shape, dice, depth));
        }
    }
    Value::Object(out)
}

fn value(schema: &Schema, shape: &Shape, dice: &mut Dice, depth: u8) -> Value {
    let deep = depth > 6;
    match shape {
        Shape::Bool => json!(dice.roll(2) == 1),
        Shape::Int32 | Shape::Int64 => json!([0, 1, -7, i32::MAX][dice.roll(4) as usize]),
        Shape::Double => json!([0.0, 1.5, 3.0][dice.roll(3) as usize]),
        Shape::String => json!(["", "a", "x y", "ü"][dice.roll(4) as usize]),
        Shape::Bytes => json!(["AA==", "aGVsbG8="][dice.roll(2) as usize]),
        Shape::Quantity => json!(["0", "100m", "1Gi", "2"][dice.roll(4) as usize]),
        Shape::Time => json!(["2024-01-02T03:04:05Z", "1999-12-31T23:59:59Z"][dice.roll(2) as usize]),
        Shape::MicroTime => json!("2024-01-02T03:04:05.000006Z"),
        Shape::Duration => json!(["0s", "1m30s"][dice.roll(2) as usize]),
        Shape::IntOrString => [json!(0), json!(80), json!("http"), json!("")][dice.roll(4) as usize].clone(),
        Shape::RawExtension => json!({"kind": "X", "n": [1, null]}),
        Shape::Any => json!({"f:a": {}}),
        Shape::Special(Special::JsonSchemaPropsOrBool) => json!(dice.roll(2) == 1),
        Shape::Special(Special::JsonSchemaPropsOrArray) => json!({"type": "string"}),
        Shape::Special(Special::JsonSchemaPropsOrStringArray) => json!(["a", "b"]),
        Shape::Struct(_) if deep => json!({}),
        Shape::Struct(id) => object(schema, *id, dice, depth + 1),
        Shape::List(list) => {
            let item = |dice: &mut Dice| value(schema, &list.item, dice, depth + 1);
            Value::Array((0..=dice.roll(2)).map(|_| item(dice)).collect())
        }
        Shape::Map(map) => {
            let keys = ["b", "a"];
            let item = |dice: &mut Dice| value(schema, &map.value, dice, depth + 1);
            Value::Object((0..=dice.roll(2)).map(|i| (keys[i as usize].to_string(), item(dice))).collect())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_kind_round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let table = builtin();
        for kind in table.kinds() {
            let schema = &table.schema;
            let written = object(schema, kind.id, &mut Dice(bytes.iter()), 0);
            let text = serde_json::to_vec(&written).expect("JSON");
            let read = decode(&text, schema, kind.id, Strictness::Strict);
            let read = read.map_err(|e| TestCaseError::fail(format!("{}: {e}: {written}", kind.kind)))?;
            prop_assert_eq!(&read.strict_errors, &Vec::<String>::new());
            let again = decode_value(read.value.clone(), schema, kind.id, Strictness::Strict).expect("reads back");
            prop_assert_eq!(&again.value, &read.value);

            let mut defaulted = read.value.clone();
            defaults::apply(schema, kind.id, &mut defaulted);
            let mut twice = defaulted.clone();
            defaults::apply(schema, kind.id, &mut twice);
            prop_assert_eq!(&twice, &defaulted);

            if schema.get(kind.id).proto {
                let message = protobuf::encode_message(&read.value, schema, kind.id).expect("writes");
                let back = protobuf::decode_message(&message, schema, kind.id).expect("reads");
                prop_assert_eq!(back, read.value, "{} in protobuf", kind.kind);
            }
        }
    }
}
