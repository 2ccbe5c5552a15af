//! `ironclad image`.

use crate::cli::{DataDir as DataDirFlag, ImageCommand, Output};
use crate::control::{self, Request};
use crate::data_dir::DataDir;
use crate::place::Place;
use crate::preflight;
use anyhow::{Context, Result, bail};
use runtime::ImageStatus;
use runtime::builtin::Builtin;
use serde_json::json;

/// Carries the command out and prints what came of it.
pub async fn run(command: ImageCommand) -> Result<()> {
    preflight::require_root("image")?;
    match command {
        ImageCommand::Import { path, name, data_dir, output } => {
            if !path.exists() {
                bail!("there is no file or folder {path}");
            }
            let path = path.canonicalize_utf8().with_context(|| format!("resolve {path}"))?;
            let images = ask(&data_dir, Request::Import { path, name }, &[]).await?;
            print(output, &images, "imported");
        }
        ImageCommand::Pull { image, creds, insecure_registry, data_dir, output } => {
            let (username, password) = match &creds {
                Some(creds) => creds.split_once(':').context("--creds takes USER:PASSWORD")?,
                None => ("", ""),
            };
            let request = Request::Pull { image, username: username.into(), password: password.into() };
            let images = ask(&data_dir, request, &insecure_registry).await?;
            print(output, &images, "pulled");
        }
        ImageCommand::List { data_dir, output } => {
            let images = ask(&data_dir, Request::List, &[]).await?;
            match output {
                Output::Json => print(output, &images, ""),
                Output::Text => table(&images),
            }
        }
        ImageCommand::Rm { images, data_dir } => {
            let removed = ask(&data_dir, Request::Remove { images }, &[]).await?;
            print(Output::Text, &removed, "removed");
        }
    }
    Ok(())
}

/// Through the running node if there is one, else on the store itself.
pub async fn ask(flag: &DataDirFlag, request: Request, insecure: &[String]) -> Result<Vec<ImageStatus>> {
    let place = Place::of(&flag.data_dir);
    if let Some(images) = control::ask(&place.control_socket(), &request).await? {
        return Ok(images);
    }
    if !flag.data_dir.exists() && matches!(request, Request::List | Request::Remove { .. }) {
        // Looking makes nothing.
        return match request {
            Request::Remove { images } => {
                bail!("there is no image {}: nothing is in {}", images.join(", "), flag.data_dir)
            }
            _ => Ok(Vec::new()),
        };
    }
    preflight::require_room(&flag.data_dir)?;
    let data = DataDir::open(&flag.data_dir)?;
    let place = Place::of(data.root());
    place.claim()?;
    let runtime = Builtin::open(place.runtime_options(insecure)).await?;
    control::perform(&runtime, request).await
}

fn print(output: Output, images: &[ImageStatus], verb: &str) {
    match output {
        Output::Json => {
            let images: Vec<_> = images.iter().map(as_json).collect();
            println!("{}", json!({ "images": images }));
        }
        Output::Text => images.iter().for_each(|image| println!("{verb} {}", names(image).join(", "))),
    }
}

fn as_json(image: &ImageStatus) -> serde_json::Value {
    json!({"id": image.id, "repoTags": image.repo_tags, "repoDigests": image.repo_digests, "size": image.size})
}

fn names(image: &ImageStatus) -> Vec<String> {
    if image.repo_tags.is_empty() { vec![image.id.clone()] } else { image.repo_tags.clone() }
}

fn table(images: &[ImageStatus]) {
    let rows: Vec<_> = images.iter().flat_map(|i| names(i).into_iter().map(move |n| (n, i))).collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(5);
    println!("{:width$}  {:19}  {:>9}", "IMAGE", "ID", "SIZE");
    for (name, image) in rows {
        let id: String = image.id.chars().take(19).collect();
        println!("{name:width$}  {id:19}  {:>6.1} MB", image.size as f64 / 1e6);
    }
}
