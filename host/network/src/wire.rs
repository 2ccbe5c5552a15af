//! Netlink's binary form: messages of nested type-length-value attributes.

/// Message flags (`linux/netlink.h`).
pub mod flags {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;

/// Messages that go out in one send, numbered from 1.
#[derive(Default)]
pub struct Messages {
    buf: Vec<u8>,
    count: u32,
    last: usize,
}

impl Messages {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one message: its type, flags, fixed header and attributes.
    pub fn push(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.count += 1;
        self.last = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&flags.to_ne_bytes());
        self.buf.extend_from_slice(&self.count.to_ne_bytes());
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(fixed);
        pad(&mut self.buf);
        attributes(&mut Attributes { buf: &mut self.buf });
        let length = (self.buf.len() - self.last) as u32;
        self.buf[self.last..self.last + 4].copy_from_slice(&length.to_ne_bytes());
        pad(&mut self.buf);
    }

    /// Appends a bare envelope message.
    pub fn push_bare(&mut self, kind: u16, fixed: &[u8]) {
        self.push(kind, flags::REQUEST, fixed, |_| {});
    }

    /// Adds flags to the message pushed last.
    pub fn flag_last(&mut self, flags: u16) {
        if self.count == 0 {
            return;
        }
        let at = self.last + 6;
        let old = u16::from_ne_bytes([self.buf[at], self.buf[at + 1]]);
        self.buf[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Sequence number of the message pushed last; 0 when there is none.
    pub fn last_sequence(&self) -> u32 {
        self.count
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buf
    }
}

fn pad(buf: &mut Vec<u8>) {
    buf.resize(buf.len().next_multiple_of(4), 0);
}

/// Attributes of one message or nest.
pub struct Attributes<'a> {
    buf: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.buf.extend_from_slice(&length.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        pad(self.buf);
    }

    /// NUL-terminated, as the kernel wants names.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes);
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Network order: nf_tables' integers.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    pub fn be64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 2]);
        self.buf.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inner(&mut Attributes { buf: self.buf });
        let length = (self.buf.len() - start) as u16;
        self.buf[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// A nest that starts with a fixed header (veth's peer).
    pub fn nest_with(&mut self, kind: u16, fixed: &[u8], inner: impl FnOnce(&mut Attributes<'_>)) {
        self.nest(kind, |a| {
            a.buf.extend_from_slice(fixed);
            pad(a.buf);
            inner(a);
        });
    }
}

/// One received message.
pub struct Received<'a> {
    pub kind: u16,
    pub sequence: u32,
    /// Port id of the socket that asked for it.
    pub port: u32,
    pub payload: &'a [u8],
}

/// The messages of one datagram; ends at the first that is cut short.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        if length < HEADER || length > datagram.len() {
            return None;
        }
        let message = &datagram[..length];
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
        Some(Received {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            sequence: u32::from_ne_bytes(message[8..12].try_into().ok()?),
            port: u32::from_ne_bytes(message[12..16].try_into().ok()?),
            payload: &message[HEADER..],
        })
    })
}

/// The attributes of a payload after its fixed header: (type without flags, value).
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        if length < 4 || length > bytes.len() {
            return None;
        }
        let value = &bytes[4..length];
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

/// The error number of an `NLMSG_ERROR` payload, positive; 0 is an acknowledgement.
pub fn error_code(payload: &[u8]) -> i32 {
    payload.get(..4).and_then(|b| b.try_into().ok()).map_or(0, |b| -i32::from_ne_bytes(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut out = Messages::new();
        out.push(7, flags::REQUEST, &[1, 2, 3, 4], |a| {
            a.text(1, "eth0");
            a.nest(2, |n| n.u32(3, 9));
        });
        out.push(8, 0, &[], |_| {});
        let all: Vec<_> = messages(out.bytes()).map(|m| (m.kind, m.sequence, m.payload.to_vec())).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].0, all[0].1), (7, 1));
        let attrs: Vec<_> = attributes(&all[0].2[4..]).collect();
        assert_eq!(attrs[0], (1, &b"eth0\0"[..]));
        assert_eq!(attributes(attrs[1].1).next(), Some((3, &9u32.to_ne_bytes()[..])));
    }

    #[test]
    fn cut_input_ends_the_walk() {
        let mut out = Messages::new();
        out.push(7, 0, &[0; 8], |a| a.u32(1, 1));
        for end in 0..out.bytes().len() {
            assert_eq!(messages(&out.bytes()[..end]).count(), 0);
        }
    }
}
