//! The volumes of a disk: its partitions, the logical volumes inside them, or the whole disk when it has no partition table.

use std::path::Path;
use std::sync::Arc;

use super::lvm::{self, LinearVolume, VolumeGroup};
use super::partition::{self, PartitionTable};
use super::recognise::{FsInfo, FsKind, recognise};
use crate::engine::error::{Error, Result};
use crate::engine::io::window::Window;
use crate::engine::io::{Device, HostRange, ReadAt, WriteAt, WriteDevice, past_end};

/// A disk as its guest sees it divided.
pub struct Layout {
    /// Its partition table, if it has one.
    pub table: Option<PartitionTable>,
    /// Its volumes, in the order of the disk, logical volumes behind the partition that holds them.
    pub volumes: Vec<Volume>,
    /// Volume groups found.
    pub groups: Vec<VolumeGroup>,
    /// What went wrong while looking.
    pub problems: Vec<String>,
}

/// One volume.
#[derive(Clone)]
pub struct Volume {
    /// `p1`, `p2`, … for partitions, `vg/lv` for logical volumes, `disk` for the whole disk.
    pub name: String,
    /// Partition number, also for logical volumes (of the partition that holds them); `None` for the whole disk.
    pub partition: Option<u32>,
    /// First byte on the disk; `None` for a logical volume in several pieces.
    pub start: Option<u64>,
    /// Bytes.
    pub len: u64,
    /// Where its bytes lie on the disk: (offset in the volume, offset on the disk, length), in order. Empty when it cannot be read.
    pub places: Vec<(u64, u64, u64)>,
    /// What it holds.
    pub info: Option<FsInfo>,
    /// Its content; `None` when it cannot be read (see `problem`).
    pub dev: Option<Device>,
    /// Why it cannot be read.
    pub problem: Option<String>,
    /// It is a logical volume.
    pub logical_volume: bool,
}

impl Volume {
    /// Calls `visit` with the parts of the volume's `offset..offset + len`: where each lies on the disk, and its length.
    pub fn on_disk(&self, offset: u64, len: u64, mut visit: impl FnMut(u64, u64)) {
        let end = offset.saturating_add(len);
        for (at, place, n) in &self.places {
            let (from, to) = (offset.max(*at), end.min(at.saturating_add(*n)));
            if from < to {
                visit(place + (from - at), to - from);
            }
        }
    }
    /// The volume on another `disk` that is divided alike, for reading.
    pub fn over(&self, disk: Device) -> Device {
        Arc::new(Placed { volume: self.clone(), disk })
    }
    /// The same for reading and writing.
    pub fn writable(&self, disk: WriteDevice) -> WriteDevice {
        Arc::new(Placed { volume: self.clone(), disk })
    }
}

/// A volume on a disk.
struct Placed<D: ?Sized> {
    volume: Volume,
    disk: Arc<D>,
}

impl<D: ReadAt + ?Sized> Placed<D> {
    /// Calls `act` with each part of `offset..offset + len`: bytes before it, where it lies on the disk, its length.
    fn each(&self, offset: u64, len: u64, mut act: impl FnMut(u64, u64, u64) -> Result<()>) -> Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.volume.len) {
            return Err(past_end(self, offset, len));
        }
        let (mut done, mut result) = (0, Ok(()));
        self.volume.on_disk(offset, len, |place, n| {
            if result.is_ok() {
                result = act(done, place, n);
            }
            done += n;
        });
        result.and(if done == len { Ok(()) } else { Err(past_end(self, offset + done, len - done)) })
    }
}

impl<D: ReadAt + ?Sized> ReadAt for Placed<D> {
    fn len(&self) -> u64 {
        self.volume.len
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.each(offset, buf.len() as u64, |done, place, n| {
            self.disk.read_at(place, buf.get_mut(done as usize..(done + n) as usize).unwrap_or_default())
        })
    }
    fn path(&self) -> Option<&Path> {
        self.disk.path()
    }
    fn host_range(&self, offset: u64, max: u64) -> Result<HostRange> {
        let mut first = None;
        self.volume.on_disk(offset, max, |place, n| {
            first.get_or_insert((place, n));
        });
        let Some((place, n)) = first else { return Ok(HostRange { len: 1, hole: false }) };
        let range = self.disk.host_range(place, n)?;
        Ok(HostRange { len: range.len.min(n), ..range })
    }
}

impl WriteAt for Placed<dyn WriteAt> {
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.each(offset, buf.len() as u64, |done, place, n| {
            self.disk.write_at(place, buf.get(done as usize..(done + n) as usize).unwrap_or_default())
        })
    }
    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        if len == self.volume.len { Ok(()) } else { Err(Error::unsupported("a volume's length stays")) }
    }
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.each(offset, len, |_, place, n| self.disk.write_zeroes(place, n))
    }
}

/// Looks at `disk`. Damage in one place is a problem in words; only a disk that cannot be read at all is an error.
pub fn volumes(disk: &Device) -> Result<Layout> {
    let mut layout =
        Layout { table: partition::read(disk.as_ref())?, volumes: Vec::new(), groups: Vec::new(), problems: Vec::new() };
    match layout.table.clone() {
        None => add(&mut layout, disk, "disk".into(), None, 0, disk.len()),
        Some(table) => {
            layout.problems.extend(table.problems.iter().cloned());
            let mut order: Vec<_> = table.partitions.iter().filter(|p| !p.extended).collect();
            order.sort_by_key(|p| p.start);
            for p in order {
                // A partition that ends beyond the disk is looked at as far as there is disk.
                let len = p.len.min(disk.len().saturating_sub(p.start));
                add(&mut layout, disk, format!("p{}", p.number), Some(p.number), p.start, len);
            }
        }
    }
    Ok(layout)
}

fn add(layout: &mut Layout, disk: &Device, name: String, partition: Option<u32>, start: u64, len: u64) {
    let dev: Device = if partition.is_some() { Arc::new(Window::new(disk.clone(), start, len)) } else { disk.clone() };
    let info = note(layout, &name, recognise(dev.as_ref()));
    let is_pv = info.as_ref().is_some_and(|i| i.kind == FsKind::Lvm2);
    let at = Place { partition, start };
    layout.volumes.push(Volume {
        name: name.clone(),
        partition,
        start: Some(start),
        len,
        places: vec![(0, start, len)],
        info,
        dev: Some(dev.clone()),
        problem: None,
        logical_volume: false,
    });
    if !is_pv {
        return;
    }
    match lvm::read(dev.as_ref()) {
        Ok(Some(group)) => {
            for lv in &group.volumes {
                logical(layout, &dev, &group, lv, &at);
            }
            layout.problems.extend(group.problems.iter().map(|p| format!("{name}: LVM2: {p}")));
            layout.groups.push(group);
        }
        Ok(None) => {}
        Err(e) => layout.problems.push(format!("{name}: {e}")),
    }
}

struct Place {
    partition: Option<u32>,
    start: u64,
}

fn logical(layout: &mut Layout, pv: &Device, group: &VolumeGroup, lv: &lvm::LogicalVolume, at: &Place) {
    let name = format!("{}/{}", group.name, lv.name);
    let dev: Option<Device> = LinearVolume::new(pv.clone(), lv).ok().map(|v| Arc::new(v) as Device);
    let info = dev.as_ref().and_then(|d| note(layout, &name, recognise(d.as_ref())));
    let start = match lv.segments.as_slice() {
        [(_, place, _)] => at.start.checked_add(*place),
        _ => None,
    };
    layout.volumes.push(Volume {
        name,
        partition: at.partition,
        start,
        len: lv.size,
        places: lv.segments.iter().filter_map(|(o, p, n)| Some((*o, at.start.checked_add(*p)?, *n))).collect(),
        info,
        dev,
        problem: lv.problem.clone(),
        logical_volume: true,
    });
}

/// A failed look at one volume becomes a problem of the layout.
fn note(layout: &mut Layout, name: &str, found: Result<Option<FsInfo>>) -> Option<FsInfo> {
    found.unwrap_or_else(|e| {
        layout.problems.push(format!("{name}: {e}"));
        None
    })
}
