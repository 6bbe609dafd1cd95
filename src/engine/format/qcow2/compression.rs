//! Compressed clusters: decoding and encoding one cluster, with the decoders kept per thread so that neighbours are handled in
//! parallel. Knows bytes only. Specification: "Compressed Clusters Descriptor".

use std::cell::RefCell;

use flate2::{Compress, FlushCompress, Status};
use zstd::bulk::Compressor;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use crate::engine::error::{Error, Result};

use super::header::Compression;

/// Largest zstd window accepted, as a power of two: more than any cluster needs, and little enough to give to hostile bytes.
const ZSTD_WINDOW: u32 = 24;

/// Deflate window as a power of two: readers need not accept more (QEMU writes the same).
const WINDOW: u8 = 12;
/// Deflate level of zlib-rs: within 3 % of the size that zlib's default level gives with this window, at almost three times its speed
/// (level 6: 2 % and a little over twice; level 2: 6 % and over three times).
const ZLIB_LEVEL: u32 = 4;
/// Level of zstd: on clusters of 64 KiB of a filesystem tree as fast as the default level (258 and 262 MB/s a core) and 1.3 % smaller, so
/// that what is allocated by several threads is no larger than what the reference tool makes.
const ZSTD_LEVEL: i32 = 4;

/// What a thread keeps between clusters.
struct Encoders {
    zlib: Compress,
    zstd: Option<Compressor<'static>>,
}

thread_local! {
    static ENCODERS: RefCell<Encoders> = RefCell::new(Encoders {
        zlib: deflater(),
        zstd: None,
    });
}

/// Encodes one cluster; `None` when that would not make it smaller.
pub fn compress(kind: Compression, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
    ENCODERS.with_borrow_mut(|e| match kind {
        Compression::Zlib => Ok(deflate(&mut e.zlib, cluster)),
        Compression::Zstd => zstandard(&mut e.zstd, cluster),
    })
}

fn deflate(encoder: &mut Compress, cluster: &[u8]) -> Option<Vec<u8>> {
    encoder.reset();
    // Room for any stream to end in: one that was given up in the middle leaves zlib-rs (0.6.8) in a state that resetting it does not
    // mend, and that makes it panic sooner or later.
    let mut out = vec![0; cluster.len() + cluster.len() / 8 + 64];
    let status = encoder.compress(cluster, &mut out, FlushCompress::Finish);
    if !matches!(status, Ok(Status::StreamEnd)) {
        *encoder = deflater();
        return None;
    }
    out.truncate(usize::try_from(encoder.total_out()).ok()?);
    (out.len() < cluster.len()).then_some(out)
}

fn deflater() -> Compress {
    Compress::new_with_window_bits(flate2::Compression::new(ZLIB_LEVEL), false, WINDOW)
}

fn zstandard(encoder: &mut Option<Compressor<'static>>, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
    let encoder = match encoder {
        Some(e) => e,
        None => encoder.insert(Compressor::new(ZSTD_LEVEL).map_err(Error::from)?),
    };
    let mut out = vec![0; cluster.len().saturating_sub(1)];
    // The one thing that can go wrong is that the output does not fit.
    Ok(encoder.compress_to_buffer(cluster, out.as_mut_slice()).ok().map(|n| {
        out.truncate(n);
        out
    }))
}

/// What a thread keeps between clusters, for reading.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        (0..len)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x as u8
            })
            .collect()
    }

    #[test]
    fn clusters_of_every_size_and_sort_come_back() {
        for bits in 9..=21 {
            let size = 1usize << bits;
            let text: Vec<u8> = b"disks are mostly text and zeros ".iter().copied().cycle().take(size).collect();
            let half: Vec<u8> = noise(size / 2).into_iter().chain(vec![0; size / 2]).collect();
            for kind in [Compression::Zlib, Compression::Zstd] {
                for cluster in [&text, &half, &vec![0; size]] {
                    let mut packed = compress(kind, cluster).unwrap().unwrap();
                    assert!(packed.len() < size);
                    // The rest of the last sector belongs to somebody else.
                    packed.extend_from_slice(&[0xff; 400]);
                    let mut out = vec![1; size];
                    decompress(kind, &packed, &mut out).unwrap();
                    assert!(out == *cluster, "{kind:?} {bits}");
                }
                assert_eq!(compress(kind, &noise(size)).unwrap(), None);
            }
        }
    }

    #[test]
    fn clusters_that_do_not_shrink_leave_nothing_behind_for_the_next() {
        for round in 0..3000 {
            let size = [4096, 65_536, 512][round % 3];
            // Just short of what would pay: the stream is long when it turns out not to.
            let mut cluster = noise(size + round)[round..].to_vec();
            cluster[..size / 64].fill(b'x');
            if let Some(packed) = compress(Compression::Zlib, &cluster).unwrap() {
                let mut out = vec![0; size];
                decompress(Compression::Zlib, &packed, &mut out).unwrap();
                assert!(out == cluster, "{round}");
            }
        }
    }

    #[test]
    fn streams_longer_than_a_cluster_and_several_frames_are_read() {
        let data = vec![3u8; 8192];
        let mut out = vec![0; 4096];
        decompress(Compression::Zlib, &compress(Compression::Zlib, &data).unwrap().unwrap(), &mut out).unwrap();
        assert!(out == data[..4096]);
        let frame = compress(Compression::Zstd, &data[..2048]).unwrap().unwrap();
        out.fill(0);
        decompress(Compression::Zstd, &[frame.clone(), frame.clone()].concat(), &mut out).unwrap();
        assert!(out == data[..4096]);
        assert!(decompress(Compression::Zstd, &frame, &mut out).is_err());
        assert!(decompress(Compression::Zlib, &[], &mut out).is_err());
    }
}
