//! Expressions that select devices: what they may name, and what they may cost.

use cel::decl::{Decl, DeclKind, FieldDecl};
use cel::library::signatures::QUANTITY;
use cel::{Env, Type};
use std::sync::{Arc, OnceLock};

/// The most a selector may be estimated to cost.
const MOST: u64 = 1_000_000;
/// The most attributes and capacities of a device.
const MOST_NAMES: i64 = 32;

/// Why a selector is refused.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    Invalid(String),
    TooExpensive,
}

fn sized(kind: DeclKind, max: i64) -> Decl {
    Decl { max, ..Decl::new(kind, 2) }
}

/// `device`: its maps go from a domain to a name to a value.
fn device() -> &'static Decl {
    static DECL: OnceLock<Decl> = OnceLock::new();
    DECL.get_or_init(|| {
        let text = |max| sized(DeclKind::Text, max);
        let map = |keys: i64, value: Decl| {
            let kind = DeclKind::Map { key: Some(Arc::new(text(keys))), value: Arc::new(value) };
            sized(kind, MOST_NAMES)
        };
        let maps = |value: Decl| map(63, map(32, value));
        let quantities = Type::map(Type::Text, Type::map(Type::Text, Type::Opaque(QUANTITY)));
        let fields = [
            ("driver", text(63), None),
            ("allowMultipleAllocations", sized(DeclKind::Bool, 1), None),
            ("attributes", maps(sized(DeclKind::Any, 64)), None),
            ("capacity", maps(sized(DeclKind::Text, 0)), Some(quantities)),
        ];
        let field = |(name, decl, ty): (&str, Decl, Option<Type>)| FieldDecl {
            name: name.into(),
            json: name.into(),
            decl,
            ty,
        };
        Decl::object("kubernetes.DRADevice", fields.map(field))
    })
}

/// The environment of a selector.
pub fn env() -> Env {
    Env::default().var("device", device().ty()).with_bindings()
}

/// Whether the expression compiles, selects, and costs no more than it may.
pub fn check(source: &str) -> Result<(), Refusal> {
    let program =
        cel::compile(&env(), source).map_err(|e| Refusal::Invalid(format!("compilation failed: {e}")))?;
    match program.result() {
        Type::Bool | Type::Any => {}
        other => {
            let why = format!("must evaluate to bool or the unknown type, not {other}");
            return Err(Refusal::Invalid(why));
        }
    }
    if program.estimate(Some(device())).max > MOST {
        return Err(Refusal::TooExpensive);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        for good in [
            "true",
            "device.driver == 'd.e'",
            "device.attributes['d.e'].flag",
            "device.attributes['d.e'].model == 'x' && 'd.e' in device.capacity",
            "device.capacity['d.e'].mem.compareTo(quantity('1Gi')) >= 0",
            "cel.bind(a, device.attributes['d.e'], a.one && a.two)",
            "device.attributes['d.e'].version.isGreaterThan(semver('1.2.3'))",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let refused = |source: &str| match check(source) {
            Err(Refusal::Invalid(why)) => why,
            other => panic!("{source}: {other:?}"),
        };
        assert_eq!(refused("device.driver"), "must evaluate to bool or the unknown type, not string");
        assert!(
            refused("device.nothing")
                .starts_with("compilation failed: ERROR: <input>:1:7: undefined field 'nothing'")
        );
        assert!(refused("nothing").contains("undeclared reference to 'nothing'"));
        let costly = "device.attributes['a'].x.matches('[a-z]*') && ".repeat(40)
            + "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, a + b + c + d == 'x'))))";
        assert_eq!(check(&costly), Err(Refusal::TooExpensive));
    }
}
