//! Container logs: reading CRI log files, from a point in time or the end, across rotation, and on as they grow.

use super::{Answer, Api, Body, Query, text};
use bytes::{Bytes, BytesMut};
use camino::{Utf8Path, Utf8PathBuf};
use flate2::read::GzDecoder;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rustix::fs::inotify;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

const CHUNK: usize = 64 << 10;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub tail: Option<usize>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit: Option<u64>,
    /// `Stdout` or `Stderr` alone.
    pub stream: Option<&'static str>,
}

pub async fn answer(api: &Api, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
    let (options, previous) = match options(query) {
        Ok(o) => o,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let runs = match api.runs(namespace, pod, container).await {
        Ok(runs) => runs,
        Err(refused) => return refused,
    };
    let made: Vec<_> = runs.into_iter().filter(|r| r.state != runtime::ContainerState::Created).collect();
    let chosen = if previous {
        // While a container waits to be started again, the run that ended last is the previous one.
        let last = api.last_ended(namespace, pod, container);
        made.into_iter().find(|run| last.as_ref() == Some(&run.id))
    } else {
        made.last().cloned()
    };
    let Some(run) = chosen else {
        let message = if previous {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        } else {
            format!("container {container:?} in pod {pod:?} is waiting to start: ContainerCreating")
        };
        return text(StatusCode::BAD_REQUEST, message);
    };
    let (tx, rx) = mpsc::channel::<io::Result<Bytes>>(8);
    let runtime = api.shared.runtime.clone();
    let path = Utf8PathBuf::from(&run.log_path);
    let id = run.id.clone();
    tokio::spawn(async move {
        let alive = || {
            let (runtime, id) = (runtime.clone(), id.clone());
            async move {
                let status = runtime.container_status(&id).await;
                status.is_ok_and(|s| s.state == runtime::ContainerState::Running)
            }
        };
        let sink = tx.clone();
        if let Err(error) = copy(&path, &options, alive, runtime.events(), &run.id, sink).await
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            tracing::debug!(%error, %path, "log not read to its end");
        }
    });
    let stream = futures::stream::unfold(rx, |mut rx| async move {
        let item = rx.recv().await?;
        Some((item.map(Frame::data), rx))
    });
    let body: Body = StreamBody::new(stream).boxed_unsync();
    let mut answer = Response::new(body);
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
    answer
}

fn options(query: &Query) -> Result<(Options, bool), String> {
    let number = |key: &str| match query.get(key).filter(|v| !v.is_empty()) {
        None => Ok(None),
        Some(v) => v.parse::<i64>().map(Some).map_err(|_| format!("invalid {key}: {v:?}\n")),
    };
    let since = match (number("sinceSeconds")?, query.get("sinceTime").filter(|t| !t.is_empty())) {
        (Some(_), Some(_)) => {
            return Err("at most one of sinceTime or sinceSeconds may be specified\n".into());
        }
        (Some(s), None) => Timestamp::now().checked_sub(SignedDuration::from_secs(s)).ok(),
        (None, Some(t)) => Some(t.parse().map_err(|_| format!("invalid sinceTime: {t:?}\n"))?),
        (None, None) => None,
    };
    let options = Options {
        follow: query.flag("follow"),
        tail: number("tailLines")?.and_then(|n| usize::try_from(n).ok()),
        since,
        timestamps: query.flag("timestamps"),
        limit: number("limitBytes")?.and_then(|n| u64::try_from(n).ok()),
        stream: match query.get("stream") {
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            _ => None,
        },
    };
    Ok((options, query.flag("previous")))
}

/// One line of a CRI log: time, stream, tag, text (with its newline unless the line is partial).
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let text = parts.next()?;
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    Some(Line { time, stream, partial: tags.split(|b| *b == b':').next() == Some(b"P"), text })
}

/// Turns raw log bytes into what the caller asked for.
struct Writer<'a> {
    options: &'a Options,
    sink: mpsc::Sender<io::Result<Bytes>>,
    left: Option<u64>,
    out: BytesMut,
    rest: Vec<u8>,
    continued: bool,
}

fn broken() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Writer<'_> {
    /// False once the limit is reached.
    async fn feed(&mut self, data: &[u8]) -> io::Result<bool> {
        let mut data = data;
        while let Some(end) = data.iter().position(|b| *b == b'\n') {
            let (line, tail) = data.split_at(end);
            data = &tail[1..];
            let whole = if self.rest.is_empty() {
                self.line(line)
            } else {
                let mut joined = std::mem::take(&mut self.rest);
                joined.extend_from_slice(line);
                self.line(&joined)
            };
            if self.out.len() > CHUNK / 2 {
                self.flush().await?;
            }
            if !whole {
                self.flush().await?;
                return Ok(false);
            }
        }
        self.rest.extend_from_slice(data);
        self.flush().await?;
        Ok(true)
    }

    fn line(&mut self, line: &[u8]) -> bool {
        let Some(l) = parse(line) else { return true };
        if self.options.stream.is_some_and(|s| s != l.stream) {
            return true;
        }
        if let Some(since) = self.options.since
            && l.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return true;
        }
        let start = self.out.len();
        if self.options.timestamps && !self.continued {
            self.out.extend_from_slice(l.time.as_bytes());
            self.out.extend_from_slice(b" ");
        }
        self.out.extend_from_slice(l.text);
        if !l.partial {
            self.out.extend_from_slice(b"\n");
        }
        self.continued = l.partial;
        if let Some(left) = &mut self.left {
            let wrote = (self.out.len() - start) as u64;
            if wrote >= *left {
                self.out.truncate(start + usize::try_from(*left).unwrap_or(0));
                *left = 0;
                return false;
            }
            *left -= wrote;
        }
        true
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let chunk = self.out.split().freeze();
        self.sink.send(Ok(chunk)).await.map_err(|_| broken())
    }
}

/// Writes the log to the sink; with `follow` until the container has ended or the reader is gone.
async fn copy<F>(
    path: &Utf8Path,
    options: &Options,
    alive: impl Fn() -> F,
    mut events: tokio::sync::broadcast::Receiver<runtime::ContainerEvent>,
    id: &str,
    sink: mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()>
where
    F: Future<Output = bool>,
{
    let watcher = if options.follow { Some(Watch::new(path)?) } else { None };
    let mut writer = Writer {
        options,
        sink: sink.clone(),
        left: options.limit,
        out: BytesMut::new(),
        rest: Vec::new(),
        continued: false,
    };
    if options.limit == Some(0) {
        return Ok(());
    }
    let mut file = File::open(path)?;
    match options.tail {
        Some(0) => {
            file.seek(SeekFrom::End(0))?;
        }
        Some(n) => {
            let (older, at) = tail_start(path, &mut file, n)?;
            if !older.is_empty() && !writer.feed(&older).await? {
                return Ok(());
            }
            file.seek(SeekFrom::Start(at))?;
        }
        None => {
            for old in crate::rotate::rotated(path) {
                let data = read_rotated(&old)?;
                if !writer.feed(&data).await? {
                    return Ok(());
                }
            }
        }
    }
    let mut buf = vec![0; CHUNK];
    let mut running = true;
    loop {
        loop {
            let n = file.read(&mut buf)?;
            if n == 0 {
                break;
            }
            if !writer.feed(&buf[..n]).await? {
                return Ok(());
            }
        }
        let Some(watch) = &watcher else { break };
        // A new file in place of this one: go on there, once this one is read to its end.
        if let Ok(now) = std::fs::metadata(path)
            && now.ino() != file.metadata()?.ino()
        {
            let n = file.read(&mut buf)?;
            if n > 0 && !writer.feed(&buf[..n]).await? {
                return Ok(());
            }
            file = File::open(path)?;
            continue;
        }
        if !running {
            break;
        }
        running = alive().await;
        if !running {
            continue;
        }
        tokio::select! {
            changed = watch.changed() => changed?,
            () = ended(&mut events, id) => {}
            () = sink.closed() => return Err(broken()),
        }
    }
    writer.flush().await
}

async fn ended(events: &mut tokio::sync::broadcast::Receiver<runtime::ContainerEvent>, id: &str) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match events.recv().await {
            Ok(e) if e.container_id == id && e.kind != runtime::ContainerEventKind::Started => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn read_rotated(path: &Utf8Path) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let file = File::open(path)?;
    if path.as_str().ends_with(".gz") {
        GzDecoder::new(file).read_to_end(&mut out)?;
    } else {
        (&file).read_to_end(&mut out)?;
    }
    Ok(out)
}

/// Where the last `n` lines begin: bytes of the rotated files before, and an offset in the live one.
fn tail_start(path: &Utf8Path, file: &mut File, n: usize) -> io::Result<(Vec<u8>, u64)> {
    let size = file.seek(SeekFrom::End(0))?;
    let mut missing = n;
    let mut at = size;
    let mut buf = vec![0; CHUNK];
    // A line that partial ones lead up to is one line.
    let mut pending_end = true;
    let mut tail: Vec<u8> = Vec::new();
    while at > 0 {
        let step = usize::try_from(at.min(CHUNK as u64)).unwrap_or(CHUNK);
        at -= step as u64;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut buf[..step])?;
        tail.splice(0..0, buf[..step].iter().copied());
        let _ = pending_end;
        pending_end = false;
        if let Some(offset) = nth_from_end(&tail, missing) {
            return Ok((Vec::new(), at + offset as u64));
        }
    }
    missing -= count_lines(&tail).min(missing);
    let mut older: Vec<u8> = Vec::new();
    for old in crate::rotate::rotated(path).into_iter().rev() {
        if missing == 0 {
            break;
        }
        let data = read_rotated(&old)?;
        match nth_from_end(&data, missing) {
            Some(offset) => {
                older.splice(0..0, data[offset..].iter().copied());
                missing = 0;
            }
            None => {
                missing -= count_lines(&data).min(missing);
                older.splice(0..0, data);
            }
        }
    }
    Ok((older, 0))
}

fn is_full(line: &[u8]) -> bool {
    parse(line).is_none_or(|l| !l.partial)
}

fn count_lines(data: &[u8]) -> usize {
    data.split(|b| *b == b'\n').filter(|l| !l.is_empty() && is_full(l)).count()
}

/// The offset of the n-th whole line from the end, `None` when there are not more than n lines in the data.
fn nth_from_end(data: &[u8], n: usize) -> Option<usize> {
    let mut seen = 0;
    let mut end = data.len();
    if data.last() == Some(&b'\n') {
        end -= 1;
    }
    loop {
        let start = data[..end].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        if is_full(&data[start..end]) {
            seen += 1;
            if seen > n {
                return Some(end + 1);
            }
        }
        if start == 0 {
            return None;
        }
        end = start - 1;
    }
}

/// The last lines of a log as plain text, for termination messages.
pub fn tail_text(path: &Utf8Path, lines: usize, bytes: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let (_, at) = tail_start(path, &mut file, lines)?;
        file.seek(SeekFrom::Start(at))?;
        let mut out = Vec::new();
        file.read_to_end(&mut out)?;
        Ok(out)
    };
    let raw = read().unwrap_or_default();
    let mut out = Vec::new();
    for l in raw.split(|b| *b == b'\n').filter_map(parse) {
        out.extend_from_slice(l.text);
        if !l.partial {
            out.push(b'\n');
        }
    }
    let cut = out.len().saturating_sub(bytes);
    String::from_utf8_lossy(&out[cut..]).into_owned()
}

/// Tells of writes to a file and of files coming and going beside it.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn new(path: &Utf8Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let dir = path.parent().unwrap_or(Utf8Path::new("/"));
        let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, dir.as_std_path(), what)?;
        // An owned descriptor stays what it is for as long as the registration lives.
        #[allow(deprecated)]
        Ok(Self(AsyncFd::new(fd)?))
    }

    async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buf = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.0.get_ref(), &mut buf);
        // Everything that has gathered is one change.
        while reader.next().is_ok() {}
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn line(second: u32, tag: &str, text: &str) -> String {
        format!("2026-01-01T00:00:{second:02}.000000000Z stdout {tag} {text}\n")
    }

    async fn read(path: &Utf8Path, options: Options) -> String {
        let (tx, mut rx) = mpsc::channel(8);
        let (events, _) = tokio::sync::broadcast::channel(1);
        let receiver = events.subscribe();
        let path = path.to_owned();
        let task =
            tokio::spawn(async move { copy(&path, &options, || async { false }, receiver, "x", tx).await });
        let mut out = Vec::new();
        while let Some(chunk) = rx.recv().await {
            out.extend_from_slice(&chunk.expect("data"));
        }
        task.await.expect("joined").expect("copied");
        String::from_utf8(out).expect("text")
    }

    fn setup() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().expect("dir");
        let path = Utf8PathBuf::from_path_buf(dir.path().join("0.log")).expect("utf8");
        std::fs::write(format!("{path}.20260101-000000"), line(1, "F", "one")).expect("write");
        let live = line(2, "P", "tw") + &line(2, "F", "o") + &line(3, "F", "three") + &line(4, "F", "four");
        std::fs::write(&path, live).expect("write");
        (dir, path)
    }

    #[tokio::test]
    async fn whole_tail_since_and_limit() {
        let (_dir, path) = setup();
        assert_eq!(read(&path, Options::default()).await, "one\ntwo\nthree\nfour\n");
        for (n, expected) in [
            (0, ""),
            (1, "four\n"),
            (3, "two\nthree\nfour\n"),
            (4, "one\ntwo\nthree\nfour\n"),
            (9, "one\ntwo\nthree\nfour\n"),
        ] {
            let options = Options { tail: Some(n), ..Options::default() };
            assert_eq!(read(&path, options).await, expected, "tail {n}");
        }
        let since = Some("2026-01-01T00:00:03Z".parse().expect("time"));
        assert_eq!(read(&path, Options { since, ..Options::default() }).await, "three\nfour\n");
        let options = Options { limit: Some(6), ..Options::default() };
        assert_eq!(read(&path, options).await, "one\ntw");
        let options = Options { tail: Some(1), timestamps: true, ..Options::default() };
        assert_eq!(read(&path, options).await, "2026-01-01T00:00:04.000000000Z four\n");
    }

    #[tokio::test]
    async fn follows_through_rotation() {
        let (_dir, path) = setup();
        let (tx, mut rx) = mpsc::channel(8);
        let (events, _) = tokio::sync::broadcast::channel(4);
        let receiver = events.subscribe();
        let running = Arc::new(AtomicBool::new(true));
        let (p, r) = (path.clone(), running.clone());
        let options = Options { follow: true, tail: Some(1), ..Options::default() };
        let task = tokio::spawn(async move {
            copy(
                &p,
                &options,
                || {
                    let r = r.clone();
                    async move { r.load(Ordering::SeqCst) }
                },
                receiver,
                "x",
                tx,
            )
            .await
        });
        let mut got = String::new();
        let mut until = async |want: &str| {
            while !got.ends_with(want) {
                let chunk = rx.recv().await.expect("more").expect("data");
                got.push_str(std::str::from_utf8(&chunk).expect("text"));
            }
            got.clone()
        };
        until("four\n").await;
        let mut file = File::options().append(true).open(&path).expect("open");
        file.write_all(line(5, "F", "five").as_bytes()).expect("write");
        until("five\n").await;
        std::fs::rename(&path, format!("{path}.20260101-000005")).expect("rename");
        std::fs::write(&path, line(6, "F", "six")).expect("write");
        assert_eq!(until("six\n").await, "four\nfive\nsix\n");
        running.store(false, Ordering::SeqCst);
        let gone = runtime::ContainerEvent {
            sandbox_id: String::new(),
            container_id: "x".into(),
            pod_uid: String::new(),
            kind: runtime::ContainerEventKind::Exited,
        };
        events.send(gone).expect("sent");
        task.await.expect("joined").expect("copied");
    }
}
