//! `ironclad version`.

use crate::cli::{Output, Version};
use anyhow::Result;
use serde_json::json;

pub fn run(flags: Version) -> Result<()> {
    let (own, kubernetes) = (env!("CARGO_PKG_VERSION"), node::config::KUBELET_VERSION);
    match flags.output {
        Output::Json => println!(
            "{}",
            json!({"ironclad": own, "kubernetes": kubernetes, "os": "linux", "arch": std::env::consts::ARCH})
        ),
        Output::Text => println!("ironclad {own}\nkubernetes {kubernetes}"),
    }
    Ok(())
}
