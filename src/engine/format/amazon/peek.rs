//! The first bytes of what a compressed stream holds, in bounded time and memory: enough to recognise a kernel or an archive.

use std::io::Read;

use super::lzma;
use crate::engine::io::bytes::le32;
use crate::engine::io::{ReadAt, read_up_to};

/// Bytes unpacked at most.
pub const HEAD: usize = 8192;
/// Bytes of a bzip2 stream looked at: it is unpacked a block of 900 kB at a time.
const BZIP2_BLOCK: usize = 1 << 20;

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Which compression, as a word: `gzip`, `xz`, …
    pub how: &'static str,
    /// The first bytes, at most [`HEAD`].
    pub head: Vec<u8>,
}

/// Unpacks the head of the stream at byte `at` of `dev`, whose first bytes `packed` are. `None`: no stream known here, or one
/// that yields nothing.
pub fn peek(packed: &[u8], dev: &dyn ReadAt, at: u64) -> Option<Packed> {
    let (how, head) = match packed {
        [0x1f, 0x8b, 8, ..] => ("gzip", drain(flate2::bufread::GzDecoder::new(packed))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", zstd::stream::read::Decoder::with_buffer(packed).ok().map(drain)?),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => {
            let block = read_up_to(dev, at, BZIP2_BLOCK).ok()?;
            ("bzip2", drain(bzip2::bufread::BzDecoder::new(block.as_slice())))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("xz", lzma::xz(packed, HEAD)?),
        [0x5d, 0, 0, ..] => ("lzma", lzma::alone(packed, HEAD)?),
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            let len = le32(packed, 4)? as usize;
            let block = packed.get(8..)?;
            ("lz4", lz4(block.get(..len).unwrap_or(block), HEAD))
        }
        _ => return None,
    };
    (!head.is_empty()).then_some(Packed { how, head })
}

/// As much as comes out, up to [`HEAD`]; what went wrong after that does not matter.
fn drain(stream: impl Read) -> Vec<u8> {
    let mut stream = stream.take(HEAD as u64);
    let mut out = Vec::with_capacity(HEAD);
    let mut buf = [0u8; 1024];
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        out.extend_from_slice(buf.get(..n).unwrap_or_default());
    }
    out
}

/// The head of an LZ4 block (of the legacy frame that Linux uses). Spec: lz4_Block_format.md.
pub(super) fn lz4(mut block: &[u8], max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < max && lz4_sequence(&mut block, &mut out, max).is_some() {}
    out.truncate(max);
    out
}

/// One sequence: literals, then a match further back.
fn lz4_sequence(block: &mut &[u8], out: &mut Vec<u8>, max: usize) -> Option<()> {
    let token = take(block, 1)?.first().copied()?;
    let literals = long(block, token >> 4)?;
    let text = block.get(..literals.min(block.len()))?;
    out.extend_from_slice(text);
    *block = block.get(text.len()..)?;
    let back = usize::from(u16::from_le_bytes(take(block, 2)?.try_into().ok()?));
    let len = long(block, token & 15)?.checked_add(4)?;
    for _ in 0..len.min(max) {
        let byte = *out.get(out.len().checked_sub(back).filter(|_| back > 0)?)?;
        out.push(byte);
    }
    Some(())
}

/// A length of four bits, gone on with in bytes when they are all set.
fn long(block: &mut &[u8], bits: u8) -> Option<usize> {
    let mut n = usize::from(bits);
    let mut more = if bits == 15 { 255 } else { 0 };
    while more == 255 {
        more = take(block, 1)?.first().copied()?;
        n = n.checked_add(usize::from(more))?;
    }
    Some(n)
}

fn take<'a>(block: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, rest) = block.split_at_checked(n)?;
    *block = rest;
    Some(taken)
}
