//! `cargo xtask gen-schema`: the Go API packages -> `base/machinery/schema/v1.36.txt`.
//!
//! Structures, tags and markers come from the Go sources, field numbers are checked against `generated.proto`, and
//! what client-go's apply configurations say of lists and maps wins over the markers. No prose is copied.

mod golang;
mod relations;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

#[derive(clap::Args)]
#[command(long_about = "Generate the table of built-in kinds from the Go API packages.

DIR is a folder that holds api/, apimachinery/, client-go/ and apiextensions-apiserver/, as Debian's packages
golang-k8s-{api,apimachinery,client-go,apiextensions-apiserver}-dev (0.36.4 in sid) put them in
/usr/share/gocode/src/k8s.io. To have them without installing anything:

  mkdir lists; echo 'deb http://deb.debian.org/debian sid main' > sid.list
  OPTS=\"-o Dir::Etc::sourcelist=$PWD/sid.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$PWD/lists\"
  apt-get $OPTS update
  apt-get $OPTS download golang-k8s-{api,apimachinery,client-go,apiextensions-apiserver}-dev
  for f in *.deb; do dpkg -x $f go; done
  cargo xtask gen-schema --src go/usr/share/gocode/src/k8s.io")]
pub struct Args {
    /// Folder that holds api/, apimachinery/, client-go/ and apiextensions-apiserver/; repeat it to search several
    #[arg(long, value_name = "DIR", required = true)]
    src: Vec<PathBuf>,
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "base/machinery/schema/v1.36.txt")]
    out: PathBuf,
}

/// Versions whose kinds v1.36 no longer serves.
const GONE: &[&str] = &[
    "api/apps/v1beta1",
    "api/apps/v1beta2",
    "api/extensions/v1beta1",
    "api/admission/v1beta1",
    "api/authentication/v1alpha1",
    "api/authentication/v1beta1",
    "api/authorization/v1beta1",
    "api/batch/v1beta1",
    "api/discovery/v1beta1",
    "api/events/v1beta1",
    "api/flowcontrol/v1beta1",
    "api/flowcontrol/v1beta2",
    "api/flowcontrol/v1beta3",
    "api/imagepolicy/v1alpha1",
    "api/node/v1alpha1",
    "api/node/v1beta1",
    "api/policy/v1beta1",
    "api/rbac/v1alpha1",
    "api/rbac/v1beta1",
    "api/scheduling/v1beta1",
    "api/storage/v1alpha1",
];

/// Packages beside api/*/*.
const BESIDE: &[&str] = &[
    "apimachinery/pkg/apis/meta/v1",
    "apimachinery/pkg/runtime",
    "apimachinery/pkg/types",
    "apimachinery/pkg/version",
    "apiextensions-apiserver/pkg/apis/apiextensions/v1",
];

pub fn run(args: Args) -> Result<()> {
    let find = |rel: &str| -> Result<PathBuf> {
        let found = args.src.iter().map(|dir| dir.join(rel)).find(|p| p.exists());
        found.with_context(|| format!("{rel} is in none of the --src folders"))
    };
    let mut folders: Vec<String> = Vec::new();
    for group in listing(&find("api")?)? {
        for version in listing(&find("api")?.join(&group))? {
            let rel = format!("api/{group}/{version}");
            let is_version =
                version.starts_with('v') && version[1..].starts_with(|c: char| c.is_ascii_digit());
            if is_version && !GONE.contains(&rel.as_str()) && find(&rel)?.join("register.go").exists() {
                folders.push(rel);
            }
        }
    }
    folders.extend(BESIDE.iter().map(|s| s.to_string()));
    let mut packages = Vec::new();
    for rel in &folders {
        packages
            .push(golang::Package::read(&find(rel)?, &format!("k8s.io/{rel}")).with_context(|| rel.clone())?);
    }
    copy_structs(&mut packages);
    let mut relations = relations::Relations::default();
    let internal = find("client-go/applyconfigurations/internal/internal.go")?;
    relations.read(&std::fs::read_to_string(internal)?)?;
    let text = table::write(&packages, &relations)?;
    ensure!(text.lines().count() > 3000, "the sources hold too few types");
    std::fs::write(&args.out, &text).with_context(|| args.out.display().to_string())?;
    println!("{}: {} lines, {} bytes", args.out.display(), text.lines().count(), text.len());
    Ok(())
}

/// `type X other.Y` of a struct is a struct of its own.
fn copy_structs(packages: &mut [golang::Package]) {
    let mut copies = Vec::new();
    for (at, package) in packages.iter().enumerate() {
        for (name, named) in &package.named {
            let golang::Type::Name(path, target) = &named.ty else { continue };
            let home = packages.iter().find(|p| p.path == *path);
            let found = home.and_then(|p| p.structs.iter().find(|s| s.name == *target));
            copies.extend(found.map(|s| (at, golang::Struct { name: name.clone(), ..s.clone() })));
        }
    }
    for (at, copy) in copies {
        packages[at].named.remove(&copy.name);
        packages[at].structs.push(copy);
    }
}

fn listing(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
