//! For tests of writers: random changes against a model of plain bytes, and the power cut after any of them.

use std::sync::Arc;

use proptest::prelude::*;

use super::Image;
use super::raw::Raw;
use super::write::DiskWriter;
use crate::engine::chain::Disk;
use crate::engine::error::Result;
use crate::engine::io::fault::{Faulty, power_cuts};
use crate::engine::io::memory::Memory;
use crate::engine::io::{Device, ReadAt, WriteDevice};

/// A change of a disk. Offsets are in thousandths of the disk, so that any of them fits any size.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Flush,
    Resize(u64),
}

/// How a writer and a reader of the format are opened.
pub(crate) struct Opened {
    pub writer: fn(WriteDevice, Option<Device>) -> Result<Arc<dyn DiskWriter>>,
    pub reader: fn(Device) -> Result<Arc<dyn Image>>,
}

/// Up to `count` changes of at most `len` bytes; `sizes` are those a resize may choose (none: no resizes).
pub(crate) fn ops(count: usize, len: usize, sizes: Vec<u64>) -> impl Strategy<Value = Vec<Op>> {
    let resize =
        if sizes.is_empty() { Just(Op::Flush).boxed() } else { prop::sample::select(sizes).prop_map(Op::Resize).boxed() };
    let op = prop_oneof![
        5 => (0u64..1000, 1..len, 1u8..).prop_map(|(at, n, v)| Op::Write(at, n, v)),
        2 => (0u64..1000, 1..2 * len as u64).prop_map(|(at, n)| Op::Zero(at, n)),
        1 => Just(Op::Flush),
        1 => resize,
    ];
    prop::collection::vec(op, 1..count)
}

/// Applies `op` to both, with offsets and lengths in multiples of `grain`.
fn apply(op: &Op, writer: &dyn DiskWriter, model: &mut Vec<u8>, grain: u64) -> Result<()> {
    let place = |at: u64, len: u64| {
        let size = model.len() as u64;
        let at = size * at / 1000 / grain * grain;
        (at, len.next_multiple_of(grain).min(size - at))
    };
    match op {
        Op::Write(at, len, v) => {
            let (at, len) = place(*at, *len as u64);
            let data: Vec<u8> = (0..len).map(|i| v.wrapping_add((i / 512) as u8)).collect();
            writer.write(at, &data)?;
            model[at as usize..(at + len) as usize].copy_from_slice(&data);
        }
        Op::Zero(at, len) => {
            let (at, len) = place(*at, *len);
            writer.write_zeroes(at, len)?;
            model[at as usize..(at + len) as usize].fill(0);
        }
        Op::Flush => writer.flush()?,
        Op::Resize(size) => {
            writer.resize(*size)?;
            model.resize(*size as usize, 0);
        }
    }
    Ok(())
}

/// What a guest sees of `image` on `below`.
pub(crate) fn content(image: Arc<dyn Image>, below: Option<&Device>) -> Result<Vec<u8>> {
    let mut layers = vec![image];
    layers.extend(below.map(|b| Arc::new(Raw::new(vec![b.clone()])) as Arc<dyn Image>));
    let disk = Disk::new(layers);
    let mut all = vec![0; disk.len() as usize];
    disk.read_at(0, &mut all)?;
    Ok(all)
}

fn differ(got: &[u8], want: &[u8]) -> Option<usize> {
    if got.len() != want.len() { Some(got.len().min(want.len())) } else { got.iter().zip(want).position(|(a, b)| a != b) }
}

/// Makes the changes and compares what is read, while writing, after opening anew, and after further changes then.
pub(crate) fn agrees_with_model(image: Vec<u8>, below: Option<Vec<u8>>, opened: &Opened, ops: &[Op]) -> Vec<u8> {
    let below: Option<Device> = below.map(|b| Arc::new(Memory::new(b)) as Device);
    let dev = Arc::new(Memory::new(image));
    let mut model = content((opened.reader)(dev.clone()).unwrap(), below.as_ref()).unwrap();
    for half in [&ops[..ops.len() / 2], &ops[ops.len() / 2..]] {
        let writer = (opened.writer)(dev.clone(), below.clone()).unwrap();
        for op in half {
            apply(op, writer.as_ref(), &mut model, 1).unwrap_or_else(|e| panic!("{op:?}: {e}"));
            let got = content(writer.reader(), below.as_ref()).unwrap_or_else(|e| panic!("reading after {op:?}: {e}"));
            assert_eq!(differ(&got, &model), None, "while writing, after {op:?}");
        }
        writer.finish().unwrap();
        let got = content((opened.reader)(dev.clone()).unwrap(), below.as_ref()).unwrap();
        assert_eq!(differ(&got, &model), None, "after opening anew");
    }
    dev.to_vec()
}

/// Makes the changes on a device that records, and looks at every state a power cut may leave: it opens, and each sector is as it
/// was at the last flush before the cut, or as some later change made it. `check` looks at the state too.
pub(crate) fn survives_power_cuts(
    image: Vec<u8>,
    below: Option<Vec<u8>>,
    opened: &Opened,
    ops: &[Op],
    check: &dyn Fn(&str, &dyn Image),
) {
    let below: Option<Device> = below.map(|b| Arc::new(Memory::new(b)) as Device);
    let dev = Faulty::new(image.clone());
    let mut model = content((opened.reader)(dev.clone()).unwrap(), below.as_ref()).unwrap();
    // Every version of the disk, with the length of the record when it was durable (if it ever was).
    let mut versions = vec![(Some(0), model.clone())];
    let writer = (opened.writer)(dev.clone(), below.clone()).unwrap();
    for op in ops {
        apply(op, writer.as_ref(), &mut model, 512).unwrap_or_else(|e| panic!("{op:?}: {e}"));
        let durable = matches!(op, Op::Flush | Op::Resize(_)).then(|| dev.record().len());
        versions.push((durable, model.clone()));
    }
    writer.finish().unwrap();
    versions.push((Some(dev.record().len()), model));
    power_cuts(&image, &dev.record(), |name, bytes| {
        let number: usize = name.split(|c: char| !c.is_ascii_digit()).find(|w| !w.is_empty()).map_or(0, |w| w.parse().unwrap());
        let done = if name.starts_with("after") { number } else { number.saturating_sub(1) };
        let since = versions.iter().rposition(|(durable, _)| durable.is_some_and(|d| d <= done)).unwrap_or(0);
        let allowed = &versions[since..];
        let image = (opened.reader)(Arc::new(Memory::new(bytes.clone()))).unwrap_or_else(|e| panic!("{name}: {e}"));
        check(name, image.as_ref());
        let got = content(image, below.as_ref()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(allowed.iter().any(|(_, v)| v.len() == got.len()), "{name}: a size of {} that it never had", got.len());
        for (i, sector) in got.chunks(512).enumerate() {
            let at = i * 512;
            let known = allowed.iter().any(|(_, v)| {
                // What an older, longer version had past the end of a newer one may still be there after a cut.
                let want = &v[at.min(v.len())..(at + sector.len()).min(v.len())];
                want == &sector[..want.len()] && sector[want.len()..].iter().all(|b| *b == 0)
            });
            assert!(known, "{name}: the sector at {at} is neither old nor new");
        }
        // What is left can be written again.
        let writer = (opened.writer)(Arc::new(Memory::new(bytes)), below.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        if !got.is_empty() {
            writer.write(0, &got[..1]).and_then(|()| writer.flush()).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    });
}
