//! The CRI log file: `<time> <stream> <F|P> <text>`, lines beyond 16 KiB in parts.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

const LONGEST: usize = 16 << 10;
const NAMES: [&str; 2] = ["stdout", "stderr"];

pub(super) struct Log {
    path: String,
    file: Option<File>,
    partial: [Vec<u8>; 2],
}

fn open(path: &str) -> io::Result<File> {
    if let Some(dir) = std::path::Path::new(path).parent() {
        std::fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

impl Log {
    /// An empty path: nothing is kept.
    pub(super) fn open(path: &str) -> io::Result<Log> {
        let file = if path.is_empty() { None } else { Some(open(path)?) };
        Ok(Log { path: path.to_string(), file, partial: Default::default() })
    }

    /// Opens the path anew; if the old file still lies there, it first gets a time as suffix.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        if self.path.is_empty() {
            return Ok(());
        }
        let inode = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let ours = self.file.as_ref().and_then(|f| f.metadata().ok()).map(inode);
        if ours.is_some() && std::fs::metadata(&self.path).ok().map(inode) == ours {
            let suffix = chrono::Utc::now().format("%Y%m%d-%H%M%S");
            std::fs::rename(&self.path, format!("{}.{suffix}", self.path))?;
        }
        self.file = Some(open(&self.path)?);
        Ok(())
    }

    pub(super) fn write(&mut self, stream: usize, mut bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let head = header(stream);
        let mut out = Vec::with_capacity(bytes.len() + 2 * head.len());
        let partial = &mut self.partial[stream];
        while !bytes.is_empty() {
            let room = LONGEST - partial.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            match window.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    line(&mut out, &head, b'F', partial, &bytes[..end]);
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() >= room => {
                    line(&mut out, &head, b'P', partial, &bytes[..room]);
                    bytes = &bytes[room..];
                }
                None => {
                    partial.extend_from_slice(bytes);
                    bytes = &[];
                }
            }
        }
        // A full disk loses lines; it must not stop the container.
        let _ = file.write_all(&out);
    }

    /// Writes what has no newline yet.
    pub(super) fn finish(&mut self) {
        let Some(file) = &mut self.file else { return };
        for (stream, partial) in self.partial.iter_mut().enumerate() {
            if !partial.is_empty() {
                let mut out = Vec::new();
                line(&mut out, &header(stream), b'F', partial, &[]);
                let _ = file.write_all(&out);
            }
        }
    }
}

fn header(stream: usize) -> String {
    let mut head = String::with_capacity(40);
    let now = chrono::Utc::now();
    let _ = write!(head, "{} {} ", now.format("%Y-%m-%dT%H:%M:%S%.9fZ"), NAMES[stream]);
    head
}

fn line(out: &mut Vec<u8>, head: &str, tag: u8, partial: &mut Vec<u8>, rest: &[u8]) {
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&[tag, b' ']);
    out.append(partial);
    out.extend_from_slice(rest);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(chunks: &[&[u8]]) -> Vec<(String, usize)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c/0.log");
        let mut log = Log::open(path.to_str().unwrap()).unwrap();
        for chunk in chunks {
            log.write(0, chunk);
        }
        log.finish();
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|l| {
                let parts: Vec<&str> = l.splitn(4, ' ').collect();
                assert!(chrono::DateTime::parse_from_rfc3339(parts[0]).is_ok(), "{l}");
                assert_eq!(parts[1], "stdout");
                (parts[2].to_string(), parts[3].len())
            })
            .collect()
    }

    #[test]
    fn lines_and_parts() {
        assert_eq!(
            logged(&[b"a\nbc", b"d\n\nx"]),
            [("F".into(), 1), ("F".into(), 3), ("F".into(), 0), ("F".into(), 1)]
        );
        let long = vec![b'z'; LONGEST * 2 + 5];
        assert_eq!(logged(&[&long, b"\n"]), [("P".into(), LONGEST), ("P".into(), LONGEST), ("F".into(), 5)]);
        let exact = [&long[..LONGEST], b"\n"].concat();
        assert_eq!(logged(&[&exact]), [("F".into(), LONGEST)]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        /// However the bytes arrive, the lines put together again are the bytes.
        #[test]
        fn chunking_does_not_matter(
            lengths in proptest::collection::vec(0usize..40_000, 1..5),
            cuts in proptest::collection::vec(1usize..20_000, 1..10),
        ) {
            let text: Vec<u8> = lengths.iter().flat_map(|n| [vec![b'x'; *n], vec![b'\n']].concat()).collect();
            let mut rest = &text[..];
            let mut chunks = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            let lines = logged(&chunks);
            proptest::prop_assert!(lines.iter().all(|(_, n)| *n <= LONGEST));
            let mut whole = vec![0];
            for (i, (tag, n)) in lines.iter().enumerate() {
                if let Some(last) = whole.last_mut() {
                    *last += n;
                }
                if tag == "F" && i + 1 < lines.len() {
                    whole.push(0);
                }
            }
            proptest::prop_assert_eq!(whole, lengths);
        }
    }
}
