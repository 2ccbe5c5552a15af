//! Backends as the server sees them: truncated if asked, and written at once or in batches beside the requests.

use super::event::Event;
use super::log::Log;
use super::policy::Level;
use super::webhook::Webhook;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How events reach a backend (`--audit-*-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Buffered, written beside the requests; lost, and counted, when the buffer is full.
    Batch,
    /// Written before the response goes out.
    Blocking,
    /// The same, and a request whose `RequestReceived` cannot be written is refused.
    BlockingStrict,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "batch" => Ok(Self::Batch),
            "blocking" => Ok(Self::Blocking),
            "blocking-strict" => Ok(Self::BlockingStrict),
            other => Err(format!(
                "invalid audit mode {other}, allowed modes are \"batch,blocking,blocking-strict\""
            )),
        }
    }
}

/// `--audit-*-batch-*` and `--audit-*-truncate-*`.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    pub mode: Mode,
    pub buffer: usize,
    pub max_batch: usize,
    pub max_wait: Duration,
    /// Batches a second, and how many at once after a pause; `None`: no limit.
    pub throttle: Option<(f32, u32)>,
    pub truncate: Option<Truncate>,
}

#[derive(Clone, Copy, Debug)]
pub struct Truncate {
    pub max_event: usize,
    pub max_batch: usize,
}

impl Default for Truncate {
    fn default() -> Self {
        Self { max_event: 100 << 10, max_batch: 10 << 20 }
    }
}

impl Delivery {
    /// Upstream's defaults of the log backend.
    pub fn of_log() -> Self {
        Self {
            mode: Mode::Blocking,
            buffer: 10_000,
            max_batch: 1,
            max_wait: Duration::ZERO,
            throttle: None,
            truncate: None,
        }
    }

    /// Upstream's defaults of the webhook backend.
    pub fn of_webhook() -> Self {
        Self {
            mode: Mode::Batch,
            buffer: 10_000,
            max_batch: 400,
            max_wait: Duration::from_secs(30),
            throttle: Some((10.0, 15)),
            truncate: None,
        }
    }
}

pub(super) enum Sink {
    Log(Log),
    Webhook(Webhook),
}

impl Sink {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Log(_) => "log",
            Self::Webhook(_) => "webhook",
        }
    }

    async fn write(&self, events: &[&Event]) -> Result<(), String> {
        match self {
            Self::Log(log) => log.write(events).map_err(|e| e.to_string()),
            Self::Webhook(webhook) => webhook.send(events).await,
        }
    }
}

/// A sink with its truncation; counts what it could not keep.
struct Writer {
    sink: Sink,
    truncate: Option<Truncate>,
    errors: Arc<AtomicU64>,
}

const TRUNCATED: &str = "audit.k8s.io/truncated";

impl Writer {
    async fn write(&self, events: &[Arc<Event>]) -> bool {
        let Some(limits) = self.truncate else {
            let all: Vec<&Event> = events.iter().map(AsRef::as_ref).collect();
            return self.pass(&all).await;
        };
        let mut fine = true;
        let mut batch: Vec<Event> = Vec::new();
        let mut weight = 0;
        for event in events {
            let mut event = Event::clone(event);
            let mut size = event.json().len();
            if size > limits.max_event && event.level >= Level::Request {
                (event.request_object, event.response_object) = (None, None);
                event.annotations.insert(TRUNCATED.into(), "true".into());
                size = event.json().len();
            }
            if size > limits.max_event {
                self.lost(1, "event is too large even after truncating");
                continue;
            }
            if !batch.is_empty() && weight + size > limits.max_batch {
                fine &= self.pass(&batch.iter().collect::<Vec<_>>()).await;
                batch.clear();
                weight = 0;
            }
            weight += size;
            batch.push(event);
        }
        if !batch.is_empty() {
            fine &= self.pass(&batch.iter().collect::<Vec<_>>()).await;
        }
        fine
    }

    async fn pass(&self, events: &[&Event]) -> bool {
        match self.sink.write(events).await {
            Ok(()) => true,
            Err(why) => {
                self.lost(events.len(), &why);
                false
            }
        }
    }

    fn lost(&self, events: usize, why: &str) {
        self.errors.fetch_add(events as u64, Relaxed);
        tracing::warn!(backend = self.sink.name(), events, why, "audit events were not written");
    }
}

enum Message {
    Event(Arc<Event>),
    /// Everything before it is written when this is answered.
    Flush(oneshot::Sender<()>),
}

pub(super) struct Backend {
    pub name: &'static str,
    pub mode: Mode,
    pub errors: Arc<AtomicU64>,
    writer: Arc<Writer>,
    /// Of batch mode.
    queue: Option<mpsc::Sender<Message>>,
}

impl Backend {
    /// Must be called inside the runtime.
    pub fn new(sink: Sink, delivery: Delivery) -> Self {
        let errors = Arc::new(AtomicU64::new(0));
        let name = sink.name();
        let writer = Arc::new(Writer { sink, truncate: delivery.truncate, errors: errors.clone() });
        let queue = (delivery.mode == Mode::Batch).then(|| {
            let (queue, events) = mpsc::channel(delivery.buffer.max(1));
            tokio::spawn(batches(writer.clone(), delivery, events));
            queue
        });
        Self { name, mode: delivery.mode, errors, writer, queue }
    }

    /// Whether the event is as safe as the mode makes it.
    pub async fn write(&self, event: &Arc<Event>) -> bool {
        match &self.queue {
            None => self.writer.write(std::slice::from_ref(event)).await,
            Some(queue) => {
                if queue.try_send(Message::Event(event.clone())).is_err() {
                    self.writer.lost(1, "audit buffer queue blocked");
                }
                true
            }
        }
    }

    /// Waits until what was handed over before is written.
    pub async fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (done, written) = oneshot::channel();
        if queue.send(Message::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }
}

/// Collects batches and writes them one after the other.
async fn batches(writer: Arc<Writer>, delivery: Delivery, mut events: mpsc::Receiver<Message>) {
    let most = delivery.max_batch.max(1);
    let mut bucket = delivery.throttle.map(|(rate, burst)| Bucket::new(rate, burst));
    let mut open = true;
    while open {
        let mut batch = Vec::new();
        let mut flush = None;
        // A batch's wait begins with its first event, so that an idle server stays asleep.
        match events.recv().await {
            None => return,
            Some(Message::Flush(done)) => {
                let _ = done.send(());
                continue;
            }
            Some(Message::Event(event)) => batch.push(event),
        }
        let full_by = Instant::now() + delivery.max_wait;
        while batch.len() < most {
            match tokio::time::timeout_at(full_by, events.recv()).await {
                Ok(Some(Message::Event(event))) => batch.push(event),
                Ok(Some(Message::Flush(done))) => {
                    flush = Some(done);
                    break;
                }
                Ok(None) => {
                    open = false;
                    break;
                }
                Err(_) => break,
            }
        }
        if let Some(bucket) = &mut bucket
            && flush.is_none()
        {
            bucket.take().await;
        }
        writer.write(&batch).await;
        if let Some(done) = flush {
            let _ = done.send(());
        }
    }
}

/// A token bucket.
struct Bucket {
    rate: f32,
    burst: f32,
    tokens: f32,
    at: Instant,
}

impl Bucket {
    fn new(rate: f32, burst: u32) -> Self {
        let burst = burst.max(1) as f32;
        Self { rate: rate.max(0.001), burst, tokens: burst, at: Instant::now() }
    }

    async fn take(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f32() * self.rate).min(self.burst);
        self.at = now;
        if self.tokens < 1.0 {
            tokio::time::sleep(Duration::from_secs_f32((1.0 - self.tokens) / self.rate)).await;
            self.tokens = 1.0;
            self.at = Instant::now();
        }
        self.tokens -= 1.0;
    }
}
