//! Whether a disc carries Rock Ridge names: looked for in the root directory. Spec: SUSP (IEEE P1281) 4.1, RRIP (P1282) 4.1.

use super::volume::{Primary, SECTOR};
use crate::engine::io::bytes::array;
use crate::engine::io::{ReadAt, read_up_to};

/// Bytes of a directory record before its name.
const RECORD: usize = 33;

/// True when the root directory's records carry Rock Ridge's fields. Reads one sector; damage counts as "no".
pub fn seen(dev: &dyn ReadAt, volume: &Primary) -> bool {
    let at = u64::from(volume.root_block) * u64::from(volume.block_size);
    let Ok(directory) = read_up_to(dev, at, SECTOR.min(volume.root_bytes as usize)) else { return false };
    let mut rest = directory.as_slice();
    let mut announced = false;
    while let Some(len) = rest.first().map(|l| usize::from(*l)).filter(|l| *l > RECORD) {
        let Some((record, next)) = rest.split_at_checked(len) else { return false };
        let name = record.get(RECORD - 1).map_or(0, |n| usize::from(*n));
        // The name is followed by a pad byte when its length is even.
        let fields = record.get(RECORD + name + usize::from(name.is_multiple_of(2))..).unwrap_or_default();
        match carries(fields) {
            Some(true) if announced || has_susp(fields) => return true,
            _ => announced |= has_susp(fields),
        }
        rest = next;
    }
    false
}

/// `SP` in the root's first record says that the system use fields follow the protocol.
fn has_susp(fields: &[u8]) -> bool {
    array::<6>(fields, 0) == Some(*b"SP\x07\x01\xbe\xef")
}

/// Whether one of the fields is Rock Ridge's; `None` when there are no fields.
fn carries(mut fields: &[u8]) -> Option<bool> {
    array::<4>(fields, 0)?;
    while let Some([a, b, len, _]) = array::<4>(fields, 0) {
        if matches!(&[a, b], b"RR" | b"PX" | b"NM") {
            return Some(true);
        }
        match fields.get(usize::from(len)..) {
            Some(next) if len >= 4 => fields = next,
            _ => break,
        }
    }
    Some(false)
}
