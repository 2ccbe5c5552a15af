//! The log backend: one file, a line an event, rotated by size, with old files kept by number and age.

use super::event::Event;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Legacy,
}

/// `--audit-log-*`.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// `-` is standard output.
    pub path: PathBuf,
    pub format: Format,
    /// Days; 0: old files are not removed for their age.
    pub max_age: u32,
    /// Files; 0: any number.
    pub max_backups: u32,
    /// Megabytes; 0: never rotated.
    pub max_size: u32,
    pub compress: bool,
}

enum Output {
    Stdout,
    File { file: File, size: u64 },
}

pub(super) struct Log {
    options: LogOptions,
    output: Mutex<Output>,
}

impl Log {
    /// Opens the file at once, so that a place that cannot be written to is refused at the start.
    pub fn open(options: LogOptions) -> io::Result<Self> {
        let output = if options.path.as_os_str() == "-" { Output::Stdout } else { open(&options.path)? };
        Ok(Self { options, output: Mutex::new(output) })
    }

    pub fn write(&self, events: &[&Event]) -> io::Result<()> {
        let mut text = Vec::with_capacity(1024);
        for event in events {
            match self.options.format {
                Format::Json => text.extend(event.json()),
                Format::Legacy => text.extend(event.legacy().into_bytes()),
            }
            text.push(b'\n');
        }
        let mut output = self.output.lock();
        match &mut *output {
            Output::Stdout => io::stdout().lock().write_all(&text),
            Output::File { file, size } => {
                let limit = u64::from(self.options.max_size) * (1 << 20);
                if limit > 0 && *size > 0 && *size + text.len() as u64 > limit {
                    file.flush()?;
                    rotate(&self.options, SystemTime::now())?;
                    *output = open(&self.options.path)?;
                }
                if let Output::File { file, size } = &mut *output {
                    *size += text.len() as u64;
                    return file.write_all(&text);
                }
                Ok(())
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Output> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok(Output::File { file, size })
}

/// `audit.log` gives `audit-<time>.log`, as upstream's rotation names them.
fn rotate(options: &LogOptions, now: SystemTime) -> io::Result<()> {
    let stem = options.path.file_stem().and_then(|s| s.to_str()).unwrap_or("audit");
    let extension =
        options.path.extension().and_then(|s| s.to_str()).map_or(String::new(), |e| format!(".{e}"));
    let time = chrono::DateTime::<chrono::Utc>::from(now).format("%Y-%m-%dT%H-%M-%S%.3f");
    let backup = options.path.with_file_name(format!("{stem}-{time}{extension}"));
    std::fs::rename(&options.path, &backup)?;
    let options = options.clone();
    let (stem, extension) = (stem.to_owned(), extension.clone());
    // Packing and clearing up may take a while, and nobody waits for it.
    std::thread::spawn(move || {
        if options.compress
            && let Err(error) = pack(&backup)
        {
            tracing::warn!(file = %backup.display(), %error, "a rotated audit log was not compressed");
        }
        if let Err(error) = clear(&options, &stem, &extension, now) {
            tracing::warn!(%error, "old audit logs were not removed");
        }
    });
    Ok(())
}

fn pack(backup: &Path) -> io::Result<()> {
    let mut packed = backup.as_os_str().to_owned();
    packed.push(".gz");
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&packed)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    io::copy(&mut File::open(backup)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    std::fs::remove_file(backup)
}

fn clear(options: &LogOptions, stem: &str, extension: &str, now: SystemTime) -> io::Result<()> {
    let folder = options.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = format!("{stem}-");
    let mut old: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let name = name.strip_suffix(".gz").unwrap_or(name);
        if name.strip_prefix(&prefix).and_then(|n| n.strip_suffix(extension)).is_some_and(|t| t.len() == 23) {
            old.push(path);
        }
    }
    // The time in the name sorts them.
    old.sort();
    old.reverse();
    let keep = if options.max_backups == 0 { usize::MAX } else { options.max_backups as usize };
    let oldest = now.checked_sub(Duration::from_secs(u64::from(options.max_age) * 86_400));
    for (i, path) in old.iter().enumerate() {
        // Two rotations close to one another clear up at once: a file that is gone is as it should be.
        let aged = options.max_age > 0
            && std::fs::metadata(path)
                .and_then(|file| file.modified())
                .is_ok_and(|at| oldest.is_some_and(|oldest| at < oldest));
        if i >= keep || aged {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::event;
    use super::*;

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn files_are_rotated_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let options = LogOptions {
            path: path.clone(),
            format: Format::Json,
            max_age: 0,
            max_backups: 2,
            max_size: 1,
            compress: false,
        };
        let log = Log::open(options.clone()).unwrap();
        let mut big = event();
        big.user_agent = "x".repeat(600_000);
        for _ in 0..2 {
            log.write(&[&big]).unwrap();
        }
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), 1);
        let parsed: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
        assert_eq!((&parsed["kind"], &parsed["stage"]), (&"Event".into(), &"ResponseComplete".into()));
        drop(log);
        for second in 0..4u64 {
            std::fs::write(&path, "x").unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000 + second);
            let (stem, extension) = ("audit", ".log");
            rotate(&options, at).unwrap();
            clear(&options, stem, extension, at).unwrap();
        }
        // Clearing up runs beside; ours has left two, whatever it did.
        assert_eq!(files(folder.path()), 2);
        let gone = folder.path().join("file");
        std::fs::write(&gone, "text").unwrap();
        pack(&gone).unwrap();
        assert!(!gone.exists() && folder.path().join("file.gz").exists());
    }

    #[test]
    fn the_legacy_line_is_upstreams() {
        let mut event = event();
        event.user_agent = "kubectl".into();
        assert_eq!(
            event.legacy(),
            "2026-01-02T03:04:05Z AUDIT: id=\"i\" stage=\"ResponseComplete\" ip=\"10.0.0.1\" method=\"get\" user=\"jane\" \
             groups=\"\\\"ops\\\"\" as=\"<self>\" asgroups=\"<lookup>\" user-agent=\"kubectl\" namespace=\"<none>\" \
             uri=\"/x\" response=\"200\""
        );
    }
}
