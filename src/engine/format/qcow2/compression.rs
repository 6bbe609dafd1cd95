//! Compressed clusters: decoding and encoding one cluster, with the decoders kept per thread so that neighbours are handled in
//! parallel. Knows bytes only. Specification: "Compressed Clusters Descriptor".

use std::cell::RefCell;

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use crate::engine::error::{Error, Result};

use super::header::Compression;

/// Largest zstd window accepted, as a power of two: more than any cluster needs, and little enough to give to hostile bytes.
const ZSTD_WINDOW: u32 = 24;

/// What a thread keeps between clusters.
struct Decoders {
    zlib: libdeflater::Decompressor,
    zstd: Option<Decoder<'static>>,
}

thread_local! {
    static DECODERS: RefCell<Decoders> = RefCell::new(Decoders { zlib: libdeflater::Decompressor::new(), zstd: None });
}

/// Decodes one cluster into `out`, all of it. `packed` may have garbage behind the stream.
///
/// Errors: `Corrupt` when the stream is damaged or holds less than a cluster.
pub fn decompress(kind: Compression, packed: &[u8], out: &mut [u8]) -> Result<()> {
    DECODERS.with_borrow_mut(|d| match kind {
        Compression::Zlib => inflate(&mut d.zlib, packed, out),
        Compression::Zstd => unzstd(&mut d.zstd, packed, out),
    })
}

fn inflate(decoder: &mut libdeflater::Decompressor, packed: &[u8], out: &mut [u8]) -> Result<()> {
    if decoder.deflate_decompress(packed, out).is_ok_and(|n| n == out.len()) {
        return Ok(());
    }
    // A stream that goes on after the cluster is full, or whose end was cut off, is still good: the slower decoder stops there.
    let mut slow = flate2::Decompress::new(false);
    let _ = slow.decompress(packed, out, flate2::FlushDecompress::None);
    if slow.total_out() == out.len() as u64 { Ok(()) } else { Err(damaged()) }
}

fn unzstd(decoder: &mut Option<Decoder<'static>>, packed: &[u8], out: &mut [u8]) -> Result<()> {
    let d = match decoder {
        Some(d) => d,
        None => {
            let mut new = Decoder::new().map_err(Error::from)?;
            new.set_parameter(zstd::zstd_safe::DParameter::WindowLogMax(ZSTD_WINDOW)).map_err(Error::from)?;
            decoder.insert(new)
        }
    };
    d.reinit().map_err(Error::from)?;
    let full = out.len();
    let mut input = InBuffer::around(packed);
    let mut output = OutBuffer::around(out);
    // Several frames may follow each other; each turn takes input or gives output, or ends the loop.
    while output.pos() < full {
        let before = (input.pos, output.pos());
        if d.run(&mut input, &mut output).is_err() || before == (input.pos, output.pos()) {
            return Err(damaged());
        }
    }
    Ok(())
}

fn damaged() -> Error {
    Error::corrupt("a compressed cluster cannot be decoded")
        .hint("the cluster's content is lost; the rest of the image can be read")
}
