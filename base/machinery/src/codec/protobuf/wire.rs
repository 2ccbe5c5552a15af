//! Varints and tags. The writer fills its buffer backwards, so that lengths are known when they are written.

use super::ProtobufError;

pub(crate) const VARINT: u8 = 0;
pub(crate) const FIXED64: u8 = 1;
pub(crate) const BYTES: u8 = 2;
pub(crate) const FIXED32: u8 = 5;

/// Bytes in reverse.
#[derive(Default)]
pub(crate) struct Back(Vec<u8>);

impl Back {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.reverse();
        self.0
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes.iter().rev());
    }

    pub(crate) fn varint(&mut self, mut value: u64) {
        let mut out = [0u8; 10];
        let mut at = 0;
        while value >= 0x80 {
            out[at] = value as u8 | 0x80;
            value >>= 7;
            at += 1;
        }
        out[at] = value as u8;
        self.raw(&out[..=at]);
    }

    pub(crate) fn tag(&mut self, number: u32, kind: u8) {
        self.varint(u64::from(number) << 3 | u64::from(kind));
    }

    /// Length and tag of what was written since `mark`.
    pub(crate) fn close(&mut self, mark: usize, number: u32) {
        self.varint((self.len() - mark) as u64);
        self.tag(number, BYTES);
    }

    pub(crate) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.raw(bytes);
        self.varint(bytes.len() as u64);
        self.tag(number, BYTES);
    }

    pub(crate) fn number(&mut self, number: u32, value: u64) {
        self.varint(value);
        self.tag(number, VARINT);
    }
}

/// One field of a message.
pub(crate) enum Token<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Skipped,
}

impl<'a> Token<'a> {
    pub(crate) fn int(&self) -> u64 {
        match self {
            Token::Varint(v) => *v,
            _ => 0,
        }
    }

    pub(crate) fn slice(&self) -> &'a [u8] {
        match self {
            Token::Bytes(b) => b,
            _ => &[],
        }
    }
}

/// The fields of a message, in order.
pub(crate) struct Tokens<'a>(pub &'a [u8]);

impl<'a> Tokens<'a> {
    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Overflow)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ProtobufError> {
        if len > self.0.len() {
            return Err(ProtobufError::Truncated);
        }
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn next(&mut self) -> Result<Option<(u32, Token<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtobufError::Overflow)?;
        let token = match (tag & 7) as u8 {
            VARINT => Token::Varint(self.varint()?),
            FIXED64 => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(self.take(8)?);
                Token::Fixed64(bytes)
            }
            BYTES => {
                let len = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Overflow)?;
                Token::Bytes(self.take(len)?)
            }
            FIXED32 => {
                self.take(4)?;
                Token::Skipped
            }
            other => return Err(ProtobufError::WireType(other)),
        };
        Ok(Some((number, token)))
    }
}
