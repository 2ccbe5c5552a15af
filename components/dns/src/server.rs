//! The sockets: UDP and TCP on one address.

use crate::DnsError;
use crate::forward::Forwarder;
use crate::zone::Zone;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Questions under way at once; more wait in the socket's queue.
const MOST_AT_ONCE: usize = 1024;
/// A TCP client that says nothing for this long is hung up on.
const IDLE: Duration = Duration::from_secs(10);
const OUR_PAYLOAD: u16 = 1232;

pub(crate) struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    answers: Arc<Answers>,
    room: Arc<Semaphore>,
}

struct Answers {
    zone: Arc<Zone>,
    forwarder: Arc<Forwarder>,
}

impl Server {
    pub(crate) async fn bind(
        ip: Ipv4Addr,
        zone: Arc<Zone>,
        forwarder: Arc<Forwarder>,
    ) -> Result<Self, DnsError> {
        let address = SocketAddr::from((ip, 53));
        let listen = |source| DnsError::Listen { address, source };
        let udp = Arc::new(UdpSocket::bind(address).await.map_err(listen)?);
        let tcp = TcpListener::bind(address).await.map_err(listen)?;
        let answers = Arc::new(Answers { zone, forwarder });
        Ok(Self { udp, tcp, answers, room: Arc::new(Semaphore::new(MOST_AT_ONCE)) })
    }

    /// Until dropped.
    pub(crate) async fn serve(&self) {
        tokio::join!(self.serve_udp(), self.serve_tcp());
    }

    async fn serve_udp(&self) {
        let mut buffer = vec![0; 4096];
        loop {
            let Ok(permit) = self.room.clone().acquire_owned().await else { return };
            let (length, from) = match self.udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP error of an earlier answer; the socket itself is fine.
                    tracing::debug!(%error, "DNS receive");
                    continue;
                }
            };
            let (question, answers, udp) =
                (buffer[..length].to_vec(), self.answers.clone(), self.udp.clone());
            tokio::spawn(async move {
                if let Some(answer) = answers.answer(&question, false).await {
                    let _ = udp.send_to(&answer, from).await;
                }
                drop(permit);
            });
        }
    }

    async fn serve_tcp(&self) {
        loop {
            let Ok(permit) = self.room.clone().acquire_owned().await else { return };
            match self.tcp.accept().await {
                Ok((stream, _)) => {
                    let answers = self.answers.clone();
                    tokio::spawn(async move {
                        // Clients hang up when they please.
                        let _ = converse(stream, &answers).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "DNS accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn converse(mut stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    while let Ok(length) = tokio::time::timeout(IDLE, stream.read_u16()).await {
        let mut question = vec![0; usize::from(length?)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await??;
        let Some(answer) = answers.answer(&question, true).await else { break };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
    }
    Ok(())
}

impl Answers {
    /// `None` for what is no question at all: it gets no answer.
    async fn answer(&self, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let request = match Message::from_vec(bytes) {
            Ok(request) if request.metadata.message_type == MessageType::Query => request,
            Ok(_) => return None,
            Err(_) => {
                let id = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
                return Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok();
            }
        };
        let mut response = self.respond(&request, tcp).await;
        response.metadata.id = request.metadata.id;
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.queries.clone_from(&request.queries);
        let most = request.edns.as_ref().map_or(512, |e| e.max_payload().max(512));
        if request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_PAYLOAD);
            response.edns = Some(edns);
        }
        let bytes = response.to_vec().ok()?;
        if tcp || bytes.len() <= usize::from(most) {
            return Some(bytes);
        }
        response.truncate().to_vec().ok()
    }

    async fn respond(&self, request: &Message, tcp: bool) -> Message {
        let (id, code) = (request.metadata.id, request.metadata.op_code);
        if code != OpCode::Query {
            return Message::error_msg(id, code, ResponseCode::NotImp);
        }
        let [query] = request.queries.as_slice() else {
            return Message::error_msg(id, code, ResponseCode::FormErr);
        };
        let Some(found) = self.zone.answer(&query.name, query.query_type) else {
            return self.forwarder.resolve(request, tcp).await;
        };
        if !self.zone.is_ready() && found.answers.is_empty() {
            // What is not known yet is not denied.
            return Message::error_msg(id, code, ResponseCode::ServFail);
        }
        let mut response = Message::response(id, code);
        response.metadata.authoritative = true;
        response.metadata.response_code = found.code.unwrap_or(ResponseCode::NoError);
        response.answers = found.answers;
        response.authorities = found.authority;
        response.additionals = found.additionals;
        if let Some(target) = found.follow {
            let mut further = request.clone();
            further.queries = vec![Query::query(target.clone(), query.query_type)];
            let answers = match self.zone.answer(&target, query.query_type) {
                Some(inside) => inside.answers,
                None => self.forwarder.resolve(&further, tcp).await.answers,
            };
            response.answers.extend(answers);
        }
        response
    }
}
