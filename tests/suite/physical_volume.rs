//! Physical volumes of LVM2 made by hand, with checksums as LVM has them, and their metadata changed.

use std::os::unix::fs::FileExt;
use std::path::Path;

pub const EXTENT: usize = 4 << 20;
/// Where the label, the metadata area and its text are, and where extents begin.
pub const LABEL: usize = 512;
pub const AREA: usize = 4096;
pub const TEXT: usize = AREA + 512;
pub const DATA: usize = 1 << 20;

/// LVM's checksum: CRC-32 that begins with a number of its own and is not inverted.
pub fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 0 { c >> 1 } else { c >> 1 ^ 0xedb8_8320 })
    })
}

/// Sets the checksums of the label, the text and the area's header in the first MiB of a physical volume.
pub fn seal(head: &mut [u8]) {
    let len = u64::from_le_bytes(head[AREA + 48..AREA + 56].try_into().unwrap()) as usize;
    let text = crc(&head[TEXT..TEXT + len]);
    head[AREA + 56..AREA + 60].copy_from_slice(&text.to_le_bytes());
    let area = crc(&head[AREA + 4..AREA + 512]);
    head[AREA..AREA + 4].copy_from_slice(&area.to_le_bytes());
    let label = crc(&head[LABEL + 20..LABEL + 512]);
    head[LABEL + 16..LABEL + 20].copy_from_slice(&label.to_le_bytes());
}

/// Makes `text` the metadata.
pub fn set_text(head: &mut [u8], text: &str) {
    let len = text.len() + 1;
    head[TEXT..TEXT + text.len()].copy_from_slice(text.as_bytes());
    head[TEXT + text.len()] = 0;
    head[AREA + 48..AREA + 56].copy_from_slice(&(len as u64).to_le_bytes());
}

/// A physical volume with one volume `vg/root` in two pieces, the second before the first, and `more` volumes in its text.
pub fn physical_volume(path: &Path, content: &Path, more: &str) {
    let source = std::fs::File::open(content).unwrap();
    let extents = (source.metadata().unwrap().len() as usize).div_ceil(EXTENT);
    let (first, second) = (extents / 2, extents - extents / 2);
    let mut head = vec![0u8; DATA];
    let label = &mut head[LABEL..LABEL + 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8] = 1;
    label[20..24].copy_from_slice(&32u32.to_le_bytes());
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(b"AAAAAABBBBCCCCDDDDEEEEFFFFGGGGGG");
    // Size; the data area and its end; the metadata area and its end.
    let words = [1u64 << 30, DATA as u64, 0, 0, 0, AREA as u64, (DATA - AREA) as u64, 0, 0];
    for (i, w) in words.iter().enumerate() {
        label[64 + i * 8..72 + i * 8].copy_from_slice(&w.to_le_bytes());
    }
    let area = &mut head[AREA..];
    area[4..20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    area[40..48].copy_from_slice(&512u64.to_le_bytes());
    set_text(
        &mut head,
        &format!(
            "vg {{ id = \"x\" extent_size = 8192 flags = []\nphysical_volumes {{ pv0 {{ id = \"AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG\" pe_start = 2048 }} }}\n\
             logical_volumes {{ root {{ id = \"r\" segment_count = 2\n\
             segment1 {{ start_extent = 0 extent_count = {first} type = \"striped\" stripe_count = 1 stripes = [ \"pv0\", {second} ] }}\n\
             segment2 {{ start_extent = {first} extent_count = {second} type = \"striped\" stripe_count = 1 stripes = [ \"pv0\", 0 ] }} }} {more} }} }}\n"
        ),
    );
    seal(&mut head);
    let out = std::fs::File::create(path).unwrap();
    out.set_len((DATA + (extents + 1) * EXTENT) as u64).unwrap();
    out.write_all_at(&head, 0).unwrap();
    let mut extent = vec![0; EXTENT];
    for i in 0..extents {
        let n = std::os::unix::fs::FileExt::read_at(&source, &mut extent, (i * EXTENT) as u64).unwrap();
        let place = if i < first { second + i } else { i - first };
        if extent[..n].iter().any(|b| *b != 0) {
            out.write_all_at(&extent[..n], (DATA + place * EXTENT) as u64).unwrap();
        }
    }
}
