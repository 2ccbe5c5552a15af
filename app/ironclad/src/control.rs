//! The image store belongs to one process. While a node runs, other commands ask it over a socket in the run folder:
//! one JSON line there, one JSON line back.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use runtime::builtin::{Builtin, BuiltinFile, FileContent};
use runtime::{ImageStatus, RegistryAuth, Runtime};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Longest request line.
const LONGEST: u64 = 1 << 20;

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    Import {
        path: Utf8PathBuf,
        name: Option<String>,
    },
    Pull {
        image: String,
        username: String,
        password: String,
    },
    List,
    Remove {
        images: Vec<String>,
    },
    /// Makes an image out of the running binary.
    ImportSelf {
        name: String,
        arguments: Vec<String>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Images(Vec<ImageStatus>),
    Error(String),
}

/// Carries a request out on this process's own store.
pub async fn perform(runtime: &Builtin, request: Request) -> Result<Vec<ImageStatus>> {
    match request {
        Request::Import { path, name } => Ok(runtime.import_image(&path, name.as_deref()).await?),
        Request::Pull { image, username, password } => {
            let auth = RegistryAuth { username, password, ..RegistryAuth::default() };
            let auth = (!auth.username.is_empty()).then_some(auth);
            Ok(vec![runtime.pull_image(&image, auth).await?])
        }
        Request::List => Ok(runtime.list_images().await?),
        Request::Remove { images } => {
            let mut removed = Vec::new();
            for image in images {
                let found = runtime.image_status(&image).await?;
                removed.push(found.with_context(|| format!("there is no image {image}"))?);
                runtime.remove_image(&image).await?;
            }
            Ok(removed)
        }
        Request::ImportSelf { name, arguments } => {
            let own = std::env::current_exe().context("find this program")?;
            let folder =
                |path: &str| BuiltinFile { path: path.into(), mode: 0o755, content: FileContent::Folder };
            let program =
                BuiltinFile { path: "/ironclad".into(), mode: 0o755, content: FileContent::CopyOf(own) };
            let files =
                [folder("/proc"), folder("/sys"), folder("/dev"), folder("/etc"), folder("/tmp"), program];
            let mut entrypoint = vec!["/ironclad".to_owned()];
            entrypoint.extend(arguments);
            Ok(vec![runtime.import_builtin(&name, &files, &entrypoint).await?])
        }
    }
}

/// Answers on the socket until dropped. Only root can connect.
pub async fn serve(path: Utf8PathBuf, runtime: Arc<Builtin>) -> Result<()> {
    // A socket that an earlier run left behind; the data directory's lock says that nobody listens on it.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {path}"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    loop {
        let (stream, _) = listener.accept().await.context("accept on the control socket")?;
        let runtime = runtime.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &runtime).await {
                tracing::debug!(%error, "control connection");
            }
        });
    }
}

async fn converse(stream: UnixStream, runtime: &Builtin) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(LONGEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            perform(runtime, request).await.map_or_else(|e| Answer::Error(format!("{e:#}")), Answer::Images)
        }
        Err(error) => Answer::Error(format!("cannot read the request: {error}")),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await?;
    Ok(())
}

/// Asks the process that runs the node; `None` when there is none.
pub async fn ask(socket: &Utf8Path, request: &Request) -> Result<Option<Vec<ImageStatus>>> {
    let Ok(stream) = UnixStream::connect(socket).await else { return Ok(None) };
    let (reader, mut writer) = stream.into_split();
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await.context("ask the running node")?;
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await.context("hear from the running node")?;
    match serde_json::from_str(&line) {
        Ok(Answer::Images(images)) => Ok(Some(images)),
        Ok(Answer::Error(error)) => bail!("{error}"),
        Err(_) => bail!("the running node hung up; its log says why"),
    }
}
