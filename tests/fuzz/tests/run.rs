//! A bounded run of every target: three seconds each, or `FUZZ_SECONDS`.

use anyhow::Result;
use fuzz::{drive, targets};

macro_rules! run {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() -> Result<()> {
            drive::run(stringify!($name), targets::$name).map(drop)
        })*
    };
}

run!(
    json,
    protobuf,
    yaml,
    json_patch,
    merge_patch,
    strategic_patch,
    apply,
    labels,
    fields,
    quantity,
    cel,
    token,
    request,
    certificate
);
