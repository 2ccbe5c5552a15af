//! Header blocks: name-value pairs, compressed over the whole life of a connection with the protocol's dictionary.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::sync::LazyLock;

pub type Headers = Vec<(String, String)>;

/// A block that unpacks to more than this is refused.
const MAX_BLOCK: usize = 1 << 20;

const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
    Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8\
    charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary of SPDY/3: each word with its length before it, then common values.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        out.extend(u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        out.extend(word.as_bytes());
    }
    out.extend(TAIL.as_bytes());
    out
});

#[derive(Debug, thiserror::Error)]
#[error("header block: {0}")]
pub struct HeaderError(String);

fn bad(why: impl ToString) -> HeaderError {
    HeaderError(why.to_string())
}

pub struct Packer(Compress);

impl Packer {
    pub fn new() -> Result<Self, HeaderError> {
        let mut z = Compress::new(Compression::new(6), true);
        z.set_dictionary(&DICTIONARY).map_err(bad)?;
        Ok(Self(z))
    }

    pub fn pack(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>, HeaderError> {
        let mut plain = Vec::new();
        let number = |n: usize, out: &mut Vec<u8>| -> Result<(), HeaderError> {
            out.extend(u32::try_from(n).map_err(bad)?.to_be_bytes());
            Ok(())
        };
        number(headers.len(), &mut plain)?;
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            number(name.len(), &mut plain)?;
            plain.extend(name.as_bytes());
            number(value.len(), &mut plain)?;
            plain.extend(value.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - start).map_err(bad)?;
            out.reserve(256);
            let room = out.capacity();
            self.0.compress_vec(&plain[done..], &mut out, FlushCompress::Sync).map_err(bad)?;
            let all = self.0.total_in() - start == plain.len() as u64;
            if all && out.len() < room {
                return Ok(out);
            }
        }
    }
}

pub struct Unpacker(Decompress);

impl Default for Unpacker {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Unpacker {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn unpack(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        let mut plain = Vec::with_capacity(block.len() * 4 + 256);
        let mut done = 0;
        loop {
            if plain.len() > MAX_BLOCK {
                return Err(bad("too large"));
            }
            plain.reserve(1024);
            let (before, had) = (self.0.total_in(), plain.len());
            let status = self.0.decompress_vec(&block[done..], &mut plain, FlushDecompress::Sync);
            done += usize::try_from(self.0.total_in() - before).map_err(bad)?;
            match status {
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(bad)?;
                }
                Err(e) => return Err(bad(e)),
                Ok(Status::StreamEnd) => break,
                Ok(_) if done == block.len() && plain.len() < plain.capacity() => break,
                Ok(_) if self.0.total_in() == before && plain.len() == had => break,
                Ok(_) => {}
            }
        }
        parse(&plain)
    }
}

fn parse(plain: &[u8]) -> Result<Headers, HeaderError> {
    let mut at = plain;
    let number = |at: &mut &[u8]| -> Result<usize, HeaderError> {
        let (head, rest) = at.split_first_chunk::<4>().ok_or_else(|| bad("cut off"))?;
        *at = rest;
        usize::try_from(u32::from_be_bytes(*head)).map_err(bad)
    };
    let count = number(&mut at)?;
    let mut out = Vec::new();
    for _ in 0..count {
        let text = |at: &mut &[u8]| -> Result<String, HeaderError> {
            let n = number(at)?;
            let (head, rest) = at.split_at_checked(n).ok_or_else(|| bad("cut off"))?;
            *at = rest;
            Ok(String::from_utf8_lossy(head).into_owned())
        };
        let name = text(&mut at)?;
        let value = text(&mut at)?;
        out.push((name, value));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn adler32(data: &[u8]) -> u32 {
        let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), x| {
            let a = (a + u32::from(*x)) % 65521;
            (a, (b + a) % 65521)
        });
        b << 16 | a
    }

    /// The checksum zlib peers compare; the protocol fixes the dictionary, so it is a constant.
    #[test]
    fn the_dictionary_is_the_protocols() {
        assert_eq!(DICTIONARY.len(), 1423);
        assert_eq!(adler32(&DICTIONARY), 0xe3c6_a7c2);
    }

    proptest! {
        #[test]
        fn blocks_round_trip(blocks in prop::collection::vec(prop::collection::vec(("[a-z:-]{1,20}", "[ -~]{0,200}"), 0..12), 1..6)) {
            let mut pack = Packer::new().expect("packer");
            let mut unpack = Unpacker::new();
            for block in blocks {
                let headers: Headers = block;
                let wire = pack.pack(&headers).expect("packed");
                prop_assert_eq!(unpack.unpack(&wire).expect("unpacked"), headers);
            }
        }

        #[test]
        fn garbage_is_an_error_not_a_crash(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Unpacker::new().unpack(&data);
        }
    }
}
