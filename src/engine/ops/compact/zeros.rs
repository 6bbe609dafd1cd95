//! Finding stored zeros, and letting go of them: by one write each of the format's own; in a qcow2 file by its tables, all at once, so that
//! what snapshots share goes too, and bitmaps do not call it written.

use std::sync::{Mutex, PoisonError};

use super::super::free_space::least;
use super::super::{pieces, pipeline::Chunk};
use crate::engine::chain::Disk;
use crate::engine::error::Result;
use crate::engine::format::qcow2::edit::Editor;
use crate::engine::format::ranges::Ranges;
use crate::engine::format::write::DiskWriter;
use crate::engine::format::{Format, Image};
use crate::engine::io::bytes::is_zero;
use crate::engine::io::{Device, ReadAt, WriteDevice, read_padded};
use crate::engine::job::JobContext;
use crate::engine::model::Kind;
use crate::engine::units::count;

/// The piece at or after `at` that is stored in the host file.
pub(super) fn next(image: &dyn Image, files: &[Device], mut at: u64) -> Result<Option<Chunk>> {
    while at < image.size() {
        let m = image.map(at, image.size() - at)?;
        let mut len = m.len;
        let stored = match (m.kind, m.place) {
            (Kind::Data, Some(place)) => match files.get(place.file) {
                Some(dev) => {
                    let host = dev.host_range(place.offset, m.len)?;
                    len = len.min(host.len).max(1);
                    !host.hole || image.format() == Format::Qcow2
                }
                None => true,
            },
            (Kind::Compressed, _) => true,
            _ => false,
        };
        if stored {
            return Ok(Some(pieces::piece(at, len, false)));
        }
        at += len;
    }
    Ok(None)
}

/// Lets go of units of `writer`'s image that hold nothing but zeros. The guest bytes let go of.
pub(super) fn drop_zeros(writer: &dyn DiskWriter, job: &JobContext) -> Result<()> {
    let image = writer.reader();
    let files = image.files();
    let disk = Disk::new(vec![image.clone()]);
    let cell = least(image.as_ref());
    let size = image.size();
    let copy = |chunk: Chunk, buffers: &mut pieces::Buffers| {
        let data = buffers.0.get_mut(..chunk.len as usize).unwrap_or_default();
        disk.read_at(chunk.offset, data)?;
        job.progress.add_read(chunk.len);
        job.progress.add_done(chunk.len);
        let mut run: Option<(u64, u64)> = None;
        let (mut at, end) = (chunk.offset, chunk.offset + chunk.len);
        while at < end {
            let stop = (at - at % cell + cell).min(end);
            let whole = at.is_multiple_of(cell) && (stop.is_multiple_of(cell) || stop == size);
            let part = data.get((at - chunk.offset) as usize..(stop - chunk.offset) as usize).unwrap_or_default();
            if whole && is_zero(part) {
                run = Some(run.map_or((at, stop), |(start, _)| (start, stop)));
            } else if let Some((start, stop)) = run.take() {
                writer.write_zeroes(start, stop - start)?;
            }
            at = stop;
        }
        if let Some((start, stop)) = run {
            writer.write_zeroes(start, stop - start)?;
        }
        Ok(())
    };
    pieces::each(|at| next(image.as_ref(), &files, at), copy, job)?;
    writer.flush()
}

/// Lets go of clusters of the qcow2 file `dev`, open in `editor`, that hold nothing but zeros.
pub(in crate::engine::ops) fn drop_clusters(dev: &WriteDevice, editor: &mut Editor, job: &JobContext) -> Result<()> {
    let bits = editor.header().cluster_bits;
    let mut data =
        editor.data_clusters(&|| job.checkpoint())?.iter().map(|r| (r.start << bits, r.end << bits)).collect::<Vec<_>>();
    data.sort_unstable();
    let zeros = Mutex::new(Ranges::default());
    let look = |chunk: Chunk, buffers: &mut pieces::Buffers| {
        let bytes = buffers.0.get_mut(..chunk.len as usize).unwrap_or_default();
        read_padded(dev.as_ref(), chunk.offset, bytes)?;
        job.progress.add_read(chunk.len);
        job.progress.add_done(chunk.len);
        let first = chunk.offset >> bits;
        for (n, _) in (first..).zip(bytes.chunks(1 << bits)).filter(|(_, cluster)| is_zero(cluster)) {
            zeros.lock().unwrap_or_else(PoisonError::into_inner).insert(n..n + 1);
        }
        Ok(())
    };
    // The piece at or after a place: whole clusters, as buffers are whole clusters of any size.
    let next = |at: u64| {
        let found = data.get(data.partition_point(|(_, end)| *end <= at)).copied();
        Ok(found.map(|(start, end)| pieces::piece(start.max(at), end - start.max(at), false)))
    };
    pieces::each(next, look, job)?;
    let zeros = zeros.into_inner().unwrap_or_else(PoisonError::into_inner);
    let freed = editor.drop_zeros(&zeros, &|| job.checkpoint())?;
    if freed > 0 {
        job.log(format!("{} of zeros given back", count(freed, "cluster")));
    }
    Ok(())
}
