//! The names of all files in an initramfs: every archive, stored or compressed, unpacked as a stream and thrown away.
//!
//! Bounded: so many bytes unpacked, so many files, whatever the headers claim. LZMA streams need what was unpacked as their
//! dictionary, so less of them is looked at.

use std::io::{self, BufReader, Read};

use super::initramfs::Entry;
use super::{lzma, peek};
use crate::engine::error::{Error, Result};
use crate::engine::io::bytes::le32;
use crate::engine::io::{ReadAt, read_up_to};

/// Bytes unpacked, at most.
const MAX_UNPACKED: u64 = 512 << 20;
/// Bytes of an LZMA or xz stream unpacked, at most: they are kept.
const MAX_LZMA: usize = 64 << 20;
/// Files looked at, at most.
const MAX_FILES: usize = 200_000;
/// Archives looked at, at most.
const MAX_ARCHIVES: usize = 8;
/// An LZ4 block of Linux's frame holds this much.
const LZ4_BLOCK: usize = 8 << 20;

/// A device read from the start to the end.
struct Stream<'a> {
    dev: &'a dyn ReadAt,
    at: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.dev.len().saturating_sub(self.at).min(buf.len() as u64) as usize;
        let part = buf.get_mut(..n).unwrap_or_default();
        self.dev.read_at(self.at, part).map_err(|e| io::Error::other(e.to_string()))?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Calls `visit` with the path of every file in the initramfs `dev`.
///
/// Errors: no archive begins there, or one cannot be read to its end (damaged, too large, an unknown compression); what came
/// before has been visited.
pub fn members(dev: &dyn ReadAt, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
    let mut at = 0;
    for n in 0..MAX_ARCHIVES {
        let head = read_up_to(dev, at, 64 << 10)?;
        if Entry::parse(&head).is_some() {
            let mut stream = Counted { inner: BufReader::with_capacity(1 << 16, Stream { dev, at }), count: 0 };
            archive(&mut stream, visit)?;
            at += stream.count;
            match padding(dev, at)? {
                Some(next) => at = next,
                None => return Ok(()),
            }
            continue;
        }
        if n > 0 && head.iter().all(|b| *b == 0) {
            return Ok(());
        }
        return packed(dev, at, &head, visit);
    }
    Ok(())
}

/// The first byte from `at` on that is not zero; `None` when only zeros follow.
fn padding(dev: &dyn ReadAt, mut at: u64) -> Result<Option<u64>> {
    for _ in 0..64 {
        let gap = read_up_to(dev, at, 64 << 10)?;
        match gap.iter().position(|b| *b != 0) {
            Some(zeros) => return Ok(Some(at + zeros as u64)),
            None if gap.is_empty() => return Ok(None),
            None => at += gap.len() as u64,
        }
    }
    Ok(None)
}

/// A compressed archive; Linux takes only one, the last.
fn packed(dev: &dyn ReadAt, at: u64, head: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<()> {
    let input = BufReader::with_capacity(1 << 17, Stream { dev, at });
    let whole = || read_up_to(dev, at, MAX_LZMA);
    let stream: Box<dyn Read + '_> = match head {
        [0x1f, 0x8b, 8, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(io::Cursor::new(lzma::xz(&whole()?, MAX_LZMA).unwrap_or_default())),
        [0x5d, 0, 0, ..] => Box::new(io::Cursor::new(lzma::alone(&whole()?, MAX_LZMA).unwrap_or_default())),
        [0x02, 0x21, 0x4c, 0x18, ..] => Box::new(Lz4 { dev, at: at + 4, block: io::Cursor::new(Vec::new()) }),
        _ => return Err(Error::unsupported("it is no cpio archive, nor one in a compression that Linux knows").at(at)),
    };
    archive(&mut Counted { inner: stream.take(MAX_UNPACKED), count: 0 }, visit)
}

/// The blocks of Linux's LZ4 frame, each by itself.
struct Lz4<'a> {
    dev: &'a dyn ReadAt,
    at: u64,
    block: io::Cursor<Vec<u8>>,
}

impl Read for Lz4<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.block.read(buf)?;
        if n > 0 || buf.is_empty() {
            return Ok(n);
        }
        let fail = |e: Error| io::Error::other(e.to_string());
        let head = read_up_to(self.dev, self.at, 4).map_err(fail)?;
        let len = match le32(&head, 0) {
            Some(len) if len > 0 && len as usize <= 2 * LZ4_BLOCK => len as usize,
            _ => return Ok(0),
        };
        let bytes = read_up_to(self.dev, self.at + 4, len).map_err(fail)?;
        self.at += 4 + len as u64;
        self.block = io::Cursor::new(peek::lz4(&bytes, LZ4_BLOCK));
        self.block.read(buf)
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Counted<R> {
    /// Fills `buf`; false at the end.
    fn fill(&mut self, buf: &mut [u8]) -> Result<bool> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            match self.inner.read(rest)? {
                0 => return Ok(false),
                n => (done, self.count) = (done + n, self.count + n as u64),
            }
        }
        Ok(true)
    }
    fn skip(&mut self, n: u64) -> Result<bool> {
        let skipped = io::copy(&mut (&mut self.inner).take(n), &mut io::sink())?;
        self.count += skipped;
        Ok(skipped == n)
    }
}

/// The files of one cpio archive, up to its trailer.
fn archive<R: Read>(stream: &mut Counted<R>, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
    let cut = || Error::corrupt("an archive in it ends before its last file, or is too large to be looked at");
    for _ in 0..MAX_FILES {
        // The smallest header that tells the magic, then the rest of it, then the name.
        let mut header = vec![0u8; 26];
        if !stream.fill(&mut header)? {
            return Err(cut());
        }
        let long = Entry::header_len(&header).ok_or_else(|| Error::corrupt("what follows a file in it is no file"))?;
        let mut rest = vec![0u8; long - header.len()];
        if !stream.fill(&mut rest)? {
            return Err(cut());
        }
        header.append(&mut rest);
        let name_len = Entry::name_len(&header).ok_or_else(|| Error::corrupt("a file in it has a name of no length"))?;
        let mut name = vec![0u8; name_len];
        if !stream.fill(&mut name)? {
            return Err(cut());
        }
        header.extend_from_slice(&name);
        let entry = Entry::parse(&header).ok_or_else(|| Error::corrupt("a file's header in it is damaged"))?;
        let (padding, body) = entry.after(header.len());
        let name = name.split_last().map_or(&[][..], |(_, n)| n);
        if name == b"TRAILER!!!" {
            stream.skip(padding)?;
            return Ok(());
        }
        visit(name);
        if !stream.skip(padding + body)? {
            return Err(cut());
        }
    }
    Err(Error::unsupported(format!("it holds more than {MAX_FILES} files")))
}
