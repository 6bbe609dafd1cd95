//! Compacting by copy: the image file's used bytes go into a new file beside it, the steps are done there, and it takes the image's name.
//! Snapshots, bitmaps, the reference to what it stands on and every option come along, as they are bytes of the file.
//!
//! The image itself is held and only read until the rename, so a crash at any time leaves the old file or the new one, whole; what was
//! begun lies under a partial name ([`Stage`] has the order), and the next attempt removes it.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::edit::is_device;
use super::super::pieces::{self, Buffers};
use super::super::pipeline::Chunk;
use super::super::plan::{Estimate, Plan, PlanFile, Space};
use super::super::stage::{Stage, room};
use super::allocated;
use crate::engine::chain::Chain;
use crate::engine::error::{Context, Error, Result};
use crate::engine::format::Format;
use crate::engine::format::write::NewFiles;
use crate::engine::io::file::FileId;
use crate::engine::io::{ReadAt, WriteDevice, sys};
use crate::engine::job::JobContext;
use crate::engine::units::about;

/// Why it cannot be done by copy, and what can.
fn no(image: &Path, why: impl Into<String>) -> Error {
    Error::unsupported(why).op("compact by copy").path(image).hint("without --copy it is compacted in place")
}

/// Refuses an image at `image`, the top of `chain`, that is more than one file under one name.
fn refuse(image: &Path, chain: &Chain) -> Result<Metadata> {
    if is_device(image) {
        return Err(no(image, "it is a block device, which no file can replace"));
    }
    let meta = std::fs::metadata(image).op("compact by copy").path(image)?;
    if meta.nlink() > 1 {
        let why = format!("the file has {} names (hard links), and the others would keep the old one", meta.nlink());
        return Err(no(image, why));
    }
    let own = FileId::of(&meta);
    let files = chain.layers.first().map(|l| l.files()).unwrap_or_default();
    match files.iter().filter_map(|f| f.as_file()).find(|f| f.id().is_ok_and(|id| id != own)) {
        Some(other) => {
            let name = other.path().map(|p| p.display().to_string()).unwrap_or_default();
            Err(no(image, format!("it consists of several files ({name} is another), and only one can be replaced at once")))
        }
        None => Ok(meta),
    }
}

fn not_ours(image: &Path) -> Error {
    no(image, "the file has another owner or group, which we may not give to a copy")
}

/// Adds to `plan` what a copy of the image at `image`, the top of `chain`, which is the file `dev`, needs and brings.
///
/// Errors: it cannot be done by copy.
pub(super) fn plan(image: &Path, chain: &Chain, dev: &dyn ReadAt, plan: &mut Plan) -> Result<()> {
    let meta = refuse(image, chain)?;
    if ![0, meta.uid()].contains(&sys::user_id()) {
        return Err(not_ours(image));
    }
    let target = std::fs::canonicalize(image).op("compact by copy").path(image)?;
    let on = target.parent().unwrap_or(Path::new("/")).to_path_buf();
    let free = room(&on)?;
    let format = chain.layers.first().map_or(Format::Raw, |l| l.format());
    let (taken, used) = (allocated(chain), pieces::estimate(dev.len(), |at| next(dev, at))?);
    // What moves down takes its new place before it leaves the old one.
    let moving = if format == Format::Qcow2 { dev.len().clamp(used.worst, used.worst.saturating_mul(2)) } else { used.worst };
    let space = Space { on, needed: Estimate { likely: used.likely, worst: moving }, free };
    if space.needed.likely > free {
        plan.warnings.push("the copy will probably not fit on its filesystem; without --copy no room is needed".into());
    } else if !space.is_enough() {
        plan.warnings.push("in the worst case the copy does not fit on its filesystem; without --copy no room is needed".into());
    }
    plan.space = Some(space);
    plan.read_bytes = plan.read_bytes.saturating_add(used.likely);
    plan.write_bytes = used;
    plan.freed_bytes = taken.saturating_sub(used.worst);
    plan.writes = vec![PlanFile {
        path: image.into(),
        what: format!("{format} image, replaced by a copy with its owner, mode, ACLs and attributes"),
    }];
    plan.steps.push(format!(
        "the {} of the file that are used are copied beside it, and what follows is done there",
        about(used.likely)
    ));
    plan.steps.push("the copy takes the image's name when it is complete and durable; until then the image is as it was".into());
    Ok(())
}

/// The piece of `dev` at or after `at` that is no hole.
fn next(dev: &dyn ReadAt, mut at: u64) -> Result<Option<Chunk>> {
    let end = dev.len();
    while at < end {
        let here = dev.host_range(at, end - at)?;
        if !here.hole {
            return Ok(Some(pieces::piece(at, here.len, false)));
        }
        at += here.len;
    }
    Ok(None)
}

/// Gives `to` the extended attributes of `from`, which is the image: ACLs, labels and whatever else is kept in them. What the folder
/// gave it and `from` has not goes.
fn carry(image: &Path, from: &File, to: &File, meta: &Metadata) -> Result<()> {
    let all = sys::attributes(from).op("read its extended attributes").path(image)?;
    for (name, _) in sys::attributes(to).op("compact by copy").path(image)? {
        if name.as_bytes().starts_with(b"system.posix_acl") && all.iter().all(|(n, _)| *n != name) {
            sys::set_attribute(to, &name, None).op("compact by copy").path(image)?;
            to.set_permissions(meta.permissions()).op("compact by copy").path(image)?;
        }
    }
    for (name, value) in all {
        // The kernel makes these anew.
        if name.as_bytes().starts_with(b"security.ima") || name.as_bytes().starts_with(b"security.evm") {
            continue;
        }
        if let Err(e) = sys::set_attribute(to, &name, Some(&value)) {
            return Err(no(image, format!("its attribute {} cannot be given to a copy ({e})", name.to_string_lossy())));
        }
    }
    Ok(())
}

/// A copy, under a partial name, of the file `old`, which is the image at `image` and is held.
///
/// Errors: it cannot be done by copy; reading or writing failed. Nothing is left of it then.
pub(super) fn copied(image: &Path, chain: &Chain, old: &WriteDevice, job: &JobContext) -> Result<Stage> {
    let meta = refuse(image, chain)?;
    let stage = Stage::new(image, Vec::new())?;
    let partial = stage.partial();
    let made = std::fs::metadata(&partial).op("compact by copy").path(&partial)?;
    if (made.uid(), made.gid()) != (meta.uid(), meta.gid()) {
        return Err(not_ours(image));
    }
    let new = stage.image();
    if let (Some(from), Some(to)) = (old.as_file(), new.as_file()) {
        carry(image, from.file(), to.file(), &meta)?;
    }
    job.progress.set_phase("copying");
    new.set_len(old.len())?;
    let copy = |chunk: Chunk, buffers: &mut Buffers| {
        let data = buffers.0.get_mut(..chunk.len as usize).unwrap_or_default();
        old.read_at(chunk.offset, data)?;
        job.progress.add_read(chunk.len);
        pieces::written(job, image, || new.write_at(chunk.offset, data))?;
        job.progress.add_written(chunk.len);
        job.progress.add_done(chunk.len);
        Ok(())
    };
    pieces::each(|at| next(old.as_ref(), at), copy, job)?;
    Ok(stage)
}
