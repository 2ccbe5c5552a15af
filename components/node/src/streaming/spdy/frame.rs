//! SPDY/3.1 frames on the wire. Header blocks are carried packed.

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub const FIN: u8 = 1;
const VERSION: u16 = 3;
/// A peer that sends larger frames is cut off.
const MAX_FRAME: usize = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
    SynStream {
        stream: u32,
        associated: u32,
        priority: u8,
        flags: u8,
        block: Bytes,
    },
    SynReply {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Settings {
        flags: u8,
        body: Bytes,
    },
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// Of a type we do not know; ignored.
    Other {
        kind: u16,
        flags: u8,
        body: Bytes,
    },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {0} bytes is too large")]
    TooLarge(usize),
    #[error("not SPDY/3: version {0}")]
    Version(u16),
    #[error("frame of type {0} is too short")]
    Short(u16),
}

impl Frame {
    pub fn encode(&self, out: &mut BytesMut) {
        let control = |out: &mut BytesMut, kind: u16, flags: u8, length: usize| {
            out.put_u16(0x8000 | VERSION);
            out.put_u16(kind);
            out.put_u8(flags);
            out.put_uint(length as u64, 3);
        };
        match self {
            Frame::Data { stream, fin, data } => {
                out.put_u32(stream & 0x7fff_ffff);
                out.put_u8(u8::from(*fin) * FIN);
                out.put_uint(data.len() as u64, 3);
                out.put_slice(data);
            }
            Frame::SynStream { stream, associated, priority, flags, block } => {
                control(out, 1, *flags, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(*associated);
                out.put_u8(priority << 5);
                out.put_u8(0);
                out.put_slice(block);
            }
            Frame::SynReply { stream, fin, block } => {
                control(out, 2, u8::from(*fin) * FIN, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(block);
            }
            Frame::Reset { stream, status } => {
                control(out, 3, 0, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Settings { flags, body } => {
                control(out, 4, *flags, body.len());
                out.put_slice(body);
            }
            Frame::Ping(id) => {
                control(out, 6, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last, status } => {
                control(out, 7, 0, 8);
                out.put_u32(*last);
                out.put_u32(*status);
            }
            Frame::Headers { stream, fin, block } => {
                control(out, 8, u8::from(*fin) * FIN, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(block);
            }
            Frame::WindowUpdate { stream, delta } => {
                control(out, 9, 0, 8);
                out.put_u32(*stream);
                out.put_u32(*delta);
            }
            Frame::Other { kind, flags, body } => {
                control(out, *kind, *flags, body.len());
                out.put_slice(body);
            }
        }
    }

    /// Takes one whole frame off the front, `None` when more bytes are needed.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(head) = input.first_chunk::<8>().copied() else { return Ok(None) };
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge(length));
        }
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let version = u16::from_be_bytes([head[0] & 0x7f, head[1]]);
        let is_control = head[0] & 0x80 != 0;
        if is_control && version != VERSION {
            return Err(FrameError::Version(version));
        }
        if input.len() < 8 + length {
            return Ok(None);
        }
        input.advance(8);
        let mut body = input.split_to(length).freeze();
        let fin = flags & FIN != 0;
        if !is_control {
            return Ok(Some(Frame::Data { stream: word & 0x7fff_ffff, fin, data: body }));
        }
        let kind = u16::from_be_bytes([head[2], head[3]]);
        let least = match kind {
            1 => 10,
            2 | 6 | 8 => 4,
            3 | 7 | 9 => 8,
            _ => 0,
        };
        if body.len() < least {
            return Err(FrameError::Short(kind));
        }
        let id = |b: &mut Bytes| b.get_u32() & 0x7fff_ffff;
        Ok(Some(match kind {
            1 => {
                let stream = id(&mut body);
                let associated = id(&mut body);
                let priority = body.get_u8() >> 5;
                body.advance(1);
                Frame::SynStream { stream, associated, priority, flags, block: body }
            }
            2 => Frame::SynReply { stream: id(&mut body), fin, block: body },
            3 => Frame::Reset { stream: id(&mut body), status: body.get_u32() },
            4 => Frame::Settings { flags, body },
            6 => Frame::Ping(body.get_u32()),
            7 => Frame::GoAway { last: id(&mut body), status: body.get_u32() },
            8 => Frame::Headers { stream: id(&mut body), fin, block: body },
            9 => Frame::WindowUpdate { stream: id(&mut body), delta: body.get_u32() },
            _ => Frame::Other { kind, flags, body },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from);
        let id = || 0u32..0x7fff_ffff;
        prop_oneof![
            (id(), any::<bool>(), bytes()).prop_map(|(stream, fin, data)| Frame::Data { stream, fin, data }),
            (id(), id(), 0u8..8, 0u8..4, bytes()).prop_map(|(stream, associated, priority, flags, block)| {
                Frame::SynStream { stream, associated, priority, flags, block }
            }),
            (id(), any::<bool>(), bytes()).prop_map(|(stream, fin, block)| Frame::SynReply {
                stream,
                fin,
                block
            }),
            (id(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
            any::<u32>().prop_map(Frame::Ping),
            (id(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (id(), any::<u32>()).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            (any::<u8>(), bytes()).prop_map(|(flags, body)| Frame::Settings { flags, body }),
        ]
    }

    proptest! {
        #[test]
        fn round_trip_in_pieces(list in prop::collection::vec(frames(), 1..8), cut in 1usize..40) {
            let mut wire = BytesMut::new();
            for f in &list {
                f.encode(&mut wire);
            }
            let mut input = BytesMut::new();
            let mut out = Vec::new();
            for piece in wire.chunks(cut) {
                input.extend_from_slice(piece);
                while let Some(f) = Frame::decode(&mut input).expect("decodes") {
                    out.push(f);
                }
            }
            prop_assert_eq!(out, list);
        }

        #[test]
        fn garbage_never_panics(data in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut input = BytesMut::from(&data[..]);
            while let Ok(Some(_)) = Frame::decode(&mut input) {}
        }
    }
}
