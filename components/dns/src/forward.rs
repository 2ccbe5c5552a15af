//! Everything outside the cluster domain: asked of the machine's resolvers, and remembered.

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Longest a positive answer is kept, in seconds, whatever its TTL.
const KEEP_ANSWERS: u32 = 30;
/// Longest a negative answer is kept, in seconds.
const KEEP_FAILURES: u32 = 5;
const MOST_ENTRIES: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(2);

type CacheKey = (Query, bool);

struct Cached {
    message: Message,
    stored: Instant,
    expires: Instant,
}

pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    cache: Mutex<HashMap<CacheKey, Cached>>,
}

/// The resolvers a resolv.conf names, without those in `except` (ourselves).
pub fn upstreams_of(resolv_conf: &str, except: &[IpAddr]) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    servers.filter(|ip| !except.contains(ip)).map(|ip| SocketAddr::new(ip, 53)).collect()
}

impl Forwarder {
    pub(crate) fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self { upstreams, cache: Mutex::default() }
    }

    /// The upstream's answer to `request`, or an error answer of our own: REFUSED with no upstream, SERVFAIL when
    /// none of them answers.
    pub(crate) async fn resolve(&self, request: &Message, tcp: bool) -> Message {
        let fail = |code| Message::error_msg(request.metadata.id, request.metadata.op_code, code);
        let [query] = request.queries.as_slice() else { return fail(ResponseCode::FormErr) };
        if self.upstreams.is_empty() {
            return fail(ResponseCode::Refused);
        }
        let key = (query.clone(), request.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok));
        if let Some(hit) = self.cached(&key) {
            return hit;
        }
        let Ok(bytes) = request.to_vec() else { return fail(ResponseCode::FormErr) };
        for upstream in &self.upstreams {
            let asked = async {
                let answer = match tcp {
                    true => ask_tcp(*upstream, &bytes).await?,
                    false => ask_udp(*upstream, &bytes).await?,
                };
                Message::from_vec(&answer).map_err(std::io::Error::other)
            };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(answer))
                    if answer.metadata.id == request.metadata.id && answer.queries == request.queries =>
                {
                    self.remember(key, &answer);
                    return answer;
                }
                Ok(Ok(_)) => tracing::debug!(%upstream, "an answer to another question was dropped"),
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "upstream resolver failed"),
                Err(_) => tracing::debug!(%upstream, "upstream resolver did not answer in time"),
            }
        }
        fail(ResponseCode::ServFail)
    }

    fn cached(&self, key: &CacheKey) -> Option<Message> {
        let cache = self.cache.lock();
        let hit = cache.get(key)?;
        let now = Instant::now();
        if hit.expires <= now {
            return None;
        }
        let age = (now - hit.stored).as_secs() as u32;
        let mut message = hit.message.clone();
        let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(message)
    }

    /// Truncated answers and server failures are never kept.
    fn remember(&self, key: CacheKey, message: &Message) {
        let code = message.metadata.response_code;
        let known = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        if message.metadata.truncation || !known {
            return;
        }
        let of_soa = |r: &hickory_proto::rr::Record| r.record_type() == RecordType::SOA;
        let seconds = match message.answers.iter().map(|r| r.ttl).min() {
            Some(ttl) => ttl.min(KEEP_ANSWERS),
            None => message.authorities.iter().find(|r| of_soa(r)).map_or(0, |r| r.ttl).min(KEEP_FAILURES),
        };
        if seconds == 0 {
            return;
        }
        let now = Instant::now();
        let mut cache = self.cache.lock();
        if cache.len() >= MOST_ENTRIES {
            cache.retain(|_, c| c.expires > now);
            if cache.len() >= MOST_ENTRIES {
                cache.clear();
            }
        }
        let expires = now + Duration::from_secs(u64::from(seconds));
        cache.insert(key, Cached { message: message.clone(), stored: now, expires });
    }
}

async fn ask_udp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65535];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

async fn ask_tcp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_and_ourselves_left_out() {
        let text = "# comment\nsearch a b\nnameserver 10.0.0.1\nnameserver  10.96.0.10\nnameserver ::1\noptions ndots:5\n";
        let ours: IpAddr = "10.96.0.10".parse().unwrap();
        let found: Vec<_> = upstreams_of(text, &[ours]).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[::1]:53"]);
    }
}
