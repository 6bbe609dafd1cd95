//! Reading one file: is it a disk image, and what does it say? One open, the probe's reads, then what the format's own open reads.

use std::path::Path;
use std::sync::Arc;

use super::entry::{Facts, Member, Stamp};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::probe::{Confidence, Match, probe};
use crate::engine::format::{FORMATS, Format, Source};
use crate::engine::io::bytes::{array, le32};
use crate::engine::io::file::FileDevice;
use crate::engine::io::gate::Gate;
use crate::engine::io::{Device, ReadAt, read_up_to};
use crate::engine::units::SECTOR;

/// Names (without extension) that kernels and initramfs usually have: their content alone (a gzip stream, an ELF file) is too common.
const BOOT_NAMES: &[&str] = &["vmlinuz", "vmlinux", "bzimage", "zimage", "kernel", "initrd", "initramfs", "ramdisk", "image"];

/// What the file at `path` says, or `None` when it is no disk image.
///
/// A signature makes an image, and so does a file name that promises one: then whatever is wrong is told and not left out. Raw has
/// no signature; it needs a usual extension, a partition table or a filesystem. `wanted` says that somebody pointed at this very file.
pub(super) fn read(path: &Path, gate: &Gate, wanted: bool) -> Option<Facts> {
    let promised = promised(path);
    match look(path, gate, wanted, promised) {
        Ok(facts) => facts,
        Err(e) if wanted || promised.is_some() => Some(Facts { error: Some(e), ..Facts::default() }),
        Err(_) => None,
    }
}

/// The format that the file name promises.
pub(super) fn promised(path: &Path) -> Option<Format> {
    let ext = path.extension()?.to_str()?.to_ascii_lowercase();
    FORMATS.iter().find(|e| e.extensions.contains(&ext.as_str())).map(|e| e.format)
}

fn look(path: &Path, gate: &Gate, wanted: bool, promised: Option<Format>) -> Result<Option<Facts>> {
    let dev: Device = Arc::new(FileDevice::open(path)?);
    if dev.is_empty() {
        return Err(Error::new(ErrorKind::Truncated, "the file is empty").op("open").path(path));
    }
    let matches = probe(dev.as_ref())?;
    let Some(best) = matches.first() else { return Ok(None) };
    if !wanted && !is_image(path, dev.as_ref(), best, promised)? {
        return Ok(None);
    }
    let format = best.format;
    let disguised = disguised(dev.as_ref(), &matches)?;
    let mut facts = Facts { format: Some(format), matches: matches.into(), ..Facts::default() };
    match (format.entry().open)(Source { dev, path: path.to_path_buf(), gate: gate.clone() }) {
        Err(e) => facts.error = Some(e.path(path)),
        Ok(image) => {
            let d = image.describe();
            facts.virtual_size = Some(image.size());
            facts.cluster_size = d.cluster_size;
            facts.snapshots = format.entry().caps.snapshots.then(|| u32::try_from(d.snapshots.len()).unwrap_or(u32::MAX));
            facts.backing = image.backing();
            facts.identity = d.identity.clone();
            facts.members = image.files().iter().skip(1).filter_map(|f| member(f.as_ref())).collect();
            facts.dirty = d.dirty;
            facts.corrupt = d.corrupt;
            facts.encrypted = d.encrypted.clone();
            facts.compressed = d.compressed;
            facts.warnings = d.warnings.clone();
            // Encrypted content is a fact; a missing or gated extent is an error.
            facts.error = image.readable().err().filter(|_| d.encrypted.is_none()).map(|e| e.path(path));
        }
    }
    facts.warnings.extend(promised.and_then(|p| mismatch(p, format)));
    facts.warnings.extend(disguised);
    Ok(Some(facts))
}

fn member(dev: &dyn ReadAt) -> Option<Member> {
    let file = dev.as_file()?;
    Some(Member { path: file.path()?.to_path_buf(), stamp: Stamp::of(&file.file().metadata().ok()?) })
}

/// A raw extension (`img`, `bin`, …) promises nothing; any other that the content does not keep is worth a warning.
fn mismatch(promised: Format, format: Format) -> Option<String> {
    let same = promised == format
        || promised == Format::Raw
        || promised.entry().extensions.iter().any(|e| format.entry().extensions.contains(e));
    let what =
        if format == Format::Raw { "its content has no header of that kind".into() } else { format!("its content is {format}") };
    (!same).then(|| format!("its name says {promised}, {what}"))
}

/// A header at the start of a disk that has a partition table as well: a guest may have written it to its raw disk, to make the host
/// open what it names. Optical discs and kernels are bootable by nature, and a fixed VHD is a raw disk with a footer.
fn disguised(dev: &dyn ReadAt, matches: &[Match]) -> Result<Option<String>> {
    let Some(best) = matches.first() else { return Ok(None) };
    let innocent =
        matches!(best.format, Format::Raw | Format::Vhd | Format::Iso | Format::Ami | Format::Aki | Format::Ari | Format::Dmg);
    if innocent || !has_partitions(&read_up_to(dev, 0, 4096 + 512)?, dev.len()) {
        return Ok(None);
    }
    Ok(Some(format!(
        "it has a partition table behind its {} header: perhaps a raw disk whose guest wrote the header",
        best.format
    )))
}

fn is_image(path: &Path, dev: &dyn ReadAt, best: &Match, promised: Option<Format>) -> Result<bool> {
    if promised.is_some() || best.confidence == Confidence::Certain {
        return Ok(true);
    }
    Ok(match best.format {
        Format::Raw => dev.len() >= SECTOR && has_partitions(&read_up_to(dev, 0, 4096 + 512)?, dev.len()),
        Format::Aki | Format::Ari => has_boot_name(path),
        _ => true,
    })
}

fn has_boot_name(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|n| n.to_str()).map(str::to_ascii_lowercase) else { return false };
    // `initrd.img-6.12`, `vmlinuz-6.12`, `Image`, `Image.gz`; not `images.zip`.
    BOOT_NAMES.iter().any(|b| name.strip_prefix(b).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic())))
}

/// A GPT, or an MBR whose entries make sense.
fn has_partitions(head: &[u8], len: u64) -> bool {
    if [512, 4096].iter().any(|at| array::<8>(head, *at) == Some(*b"EFI PART")) {
        return true;
    }
    let sectors = len / SECTOR;
    let mut used = 0;
    let signature = array::<2>(head, 510) == Some([0x55, 0xaa]);
    let sane = (0..4).map(|i| 446 + 16 * i).all(|at| {
        let (Some(&boot), Some(&kind), Some(start), Some(count)) =
            (head.get(at), head.get(at + 4), le32(head, at + 8), le32(head, at + 12))
        else {
            return false;
        };
        used += u32::from(kind != 0);
        (boot == 0 || boot == 0x80) && (kind == 0 || (start > 0 && count > 0 && u64::from(start) < sectors))
    });
    signature && sane && used > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_a_disk_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::closed();
        let mut mbr = vec![0u8; 4096];
        mbr[450] = 0x83;
        mbr[454] = 1;
        mbr[458] = 7;
        mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (name, bytes, is) in [
            ("notes.txt", b"hello".to_vec(), false),
            ("photo.jpg", vec![0xff; 9000], false),
            ("disk.img", b"hello".to_vec(), true),
            ("disk", mbr.clone(), true),
            ("empty.qcow2", vec![], true),
            ("empty.txt", vec![], false),
            ("renamed.vdi", vec![7; 2048], true),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path, &gate, false).is_some(), is, "{name}");
        }
        // No partition begins behind the end of the disk.
        mbr[456] = 1;
        assert!(!has_partitions(&mbr, 4096));
        assert_eq!(read(&dir.path().join("empty.qcow2"), &gate, false).unwrap().error.unwrap().why(), "the file is empty");
        let odd = read(&dir.path().join("renamed.vdi"), &gate, false).unwrap();
        assert_eq!(odd.warnings, ["its name says vdi, its content has no header of that kind"]);
        let mut disguised = mbr.clone();
        disguised[456] = 0;
        disguised[..4].copy_from_slice(b"QED\0");
        std::fs::write(dir.path().join("guest.img"), &disguised).unwrap();
        let guest = read(&dir.path().join("guest.img"), &gate, false).unwrap();
        assert!(guest.warnings[0].contains("perhaps a raw disk"), "{:?}", guest.warnings);
        // Whoever points at a file sees it, whatever it is.
        assert!(read(&dir.path().join("notes.txt"), &gate, true).is_some());
        assert!(read(&dir.path().join("gone"), &gate, true).unwrap().error.is_some());
    }

    #[test]
    fn kernels_go_by_their_names() {
        for (name, is) in
            [("vmlinuz-6.12", true), ("initrd.img-6.12", true), ("Image", true), ("images.zip", false), ("a.gz", false)]
        {
            assert_eq!(has_boot_name(Path::new(name)), is, "{name}");
        }
    }
}
