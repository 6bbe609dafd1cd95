//! Letting an image stand on another, or on nothing: the name and its format in the first cluster, changed by one sector.

use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::format::write::NewBacking;
use crate::engine::io::{Device, WriteDevice};
use crate::engine::limits::MAX_NAME;

use super::extensions::{BACKING_FORMAT, FEATURES, read_head};
use super::head::rewrite;
use super::header::{BITMAPS, RAW_EXTERNAL};

/// Records that the image on `dev` stands on `backing`, or on nothing, durably. Content is not looked at.
///
/// Errors: a name that is too long; an external data file that must be a raw disk by itself.
pub fn set_backing(dev: &WriteDevice, backing: Option<&NewBacking>) -> Result<()> {
    let reader: Device = dev.clone();
    let (mut header, mut ext) = read_head(&reader)?;
    if backing.is_some() && header.raw_external() {
        return Err(Error::usage("its external data file must be a raw disk by itself, so it cannot stand on another image"));
    }
    if let Some(b) = backing
        && (b.name.is_empty() || b.name.len() > MAX_NAME)
    {
        return Err(Error::usage(format!("a backing file's name has 1 to {MAX_NAME} bytes")));
    }
    ext.set(BACKING_FORMAT, backing.map(|b| b.format.driver().as_bytes().to_vec()));
    ext.backing = backing.map(|b| b.name.as_bytes().to_vec());
    // Bits not known here promise something nobody keeps.
    header.autoclear &= BITMAPS | RAW_EXTERNAL;
    let done = rewrite(dev.as_ref(), &mut header.clone(), &ext);
    match done {
        // In the smallest clusters the names of features, which are a courtesy, give way.
        Err(e) if matches!(e.kind(), ErrorKind::Usage | ErrorKind::Unsupported) && ext.get(FEATURES).is_some() => {
            ext.set(FEATURES, None);
            rewrite(dev.as_ref(), &mut header, &ext)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::format::Format;
    use crate::engine::format::qcow2::extensions::{DATA_FILE, Extensions};
    use crate::engine::format::qcow2::header::{FEATURE_NAMES, Header};
    use crate::engine::io::fault::{Faulty, power_cuts};
    use crate::engine::io::memory::Memory;

    fn names() -> Vec<u8> {
        FEATURE_NAMES
            .iter()
            .flat_map(|(kind, bit, name)| [&[*kind, *bit][..], name.as_bytes()].concat())
            .chain([0; 300])
            .collect()
    }

    #[test]
    fn a_cut_leaves_the_old_name_or_the_new_one() {
        for bits in [9u32, 10, 12, 16] {
            let mut header =
                Header { cluster_bits: bits, header_length: 112, rest: Vec::new(), ..super::super::header::tests::sample() };
            (header.backing_offset, header.backing_len, header.l1_entries) = (0, 0, 1 << 16);
            header.size = 1 << 20;
            (header.l1_offset, header.reftable_offset) = (1 << 20, 1 << 21);
            let mut ext = Extensions::default();
            if bits > 9 {
                ext.set(FEATURES, Some(names()));
            }
            ext.set(0x1234_5678, Some(vec![7; 20]));
            ext.set(DATA_FILE, Some(b"data".to_vec()));
            let mut cluster = ext.encode(&mut header).unwrap();
            cluster.resize(1 << bits, 0);
            let mut last: Option<(Option<Vec<u8>>, Option<String>)> = None;
            let long: &str = &"n".repeat(if bits > 10 { 900 } else { 200 });
            for (name, format) in [
                ("a", Format::Raw),
                ("bb/base.qcow2", Format::Qcow2),
                (long, Format::Vmdk),
                ("c", Format::Qcow2),
                ("", Format::Raw),
                (long, Format::Raw),
            ] {
                let dev = Faulty::new(cluster.clone());
                let device: WriteDevice = dev.clone();
                let reader: Device = dev.clone();
                let backing = (!name.is_empty()).then(|| NewBacking {
                    name: name.to_string(),
                    path: name.to_string().into(),
                    format,
                    size: 0,
                    identity: Default::default(),
                    disk: None,
                });
                let before = last.clone().unwrap_or((None, None));
                if let Err(e) = set_backing(&device, backing.as_ref()) {
                    assert!(bits < 11 && name.len() > 100, "{bits} {name}: {e}");
                    continue;
                }
                let after =
                    (backing.as_ref().map(|b| b.name.clone().into_bytes()), backing.map(|b| b.format.driver().to_string()));
                power_cuts(&cluster, &dev.record(), |cut, bytes| {
                    let reader: Device = Arc::new(Memory::new(bytes));
                    let (_, seen) = read_head(&reader).unwrap_or_else(|e| panic!("{bits} {name} {cut}: {e}"));
                    let now = (seen.backing.clone(), seen.backing_format());
                    assert!(now == before || now == after, "{bits} {name} {cut}: {now:?}");
                    assert_eq!(seen.get(0x1234_5678), Some(&[7; 20][..]), "{cut}");
                    assert_eq!(seen.data_file().as_deref(), Some("data"), "{cut}");
                });
                let (_, seen) = read_head(&reader).unwrap();
                assert_eq!((seen.backing.clone(), seen.backing_format()), after);
                if bits > 10 {
                    assert_eq!(seen.get(FEATURES).map(<[u8]>::len), Some(names().len()), "{bits} {name}");
                }
                last = Some(after);
                cluster = dev.to_vec();
            }
        }
    }
}
