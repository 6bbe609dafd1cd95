//! The few system calls the standard library does not have. The only place with `unsafe`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn check(r: libc::c_int) -> io::Result<libc::c_int> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

/// Lets all threads have two heaps, before the second is started: with a heap for each, what one gave back is not there for the next, and
/// a sanitise takes more memory at the same speed; with one, threads wait for each other (both measured). Only glibc has heaps for threads.
pub fn two_heaps() {
    // SAFETY: mallopt takes two numbers, and only the main thread is there.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Lets other threads go first from now on: the calling one gets the time they leave (nice 10). Only Linux does this for a thread alone.
pub fn stand_back() {
    // SAFETY: setpriority takes numbers only.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
    }
}

/// The next place at or after `offset` that is data (`data == true`) or a hole; `None` when there is none before the end.
pub fn seek_data_or_hole(file: &File, offset: u64, data: bool) -> io::Result<Option<u64>> {
    let whence = if data { libc::SEEK_DATA } else { libc::SEEK_HOLE };
    // SAFETY: lseek takes no pointers; the descriptor is open for as long as `file` lives.
    let r = unsafe { libc::lseek(file.as_raw_fd(), offset as libc::off_t, whence) };
    if r >= 0 {
        return Ok(Some(r as u64));
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        e => Err(e),
    }
}

/// `fallocate` with `mode` (0 reserves; see [`punch_hole`] and [`zero_range`]).
fn fallocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: fallocate takes no pointers; the descriptor is open for as long as `file` lives.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as libc::off_t, len as libc::off_t) }).map(drop)
}

/// Reserves space for the range and grows the file to hold it.
pub fn reserve(file: &File, offset: u64, len: u64) -> io::Result<()> {
    fallocate(file, 0, offset, len)
}

/// Gives the range's space back; it reads as zeros. The length stays.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

/// Makes the range read as zeros, keeping its space reserved. May grow the file.
pub fn zero_range(file: &File, offset: u64, len: u64) -> io::Result<()> {
    fallocate(file, libc::FALLOC_FL_ZERO_RANGE, offset, len)
}

/// Takes an exclusive `flock` if nobody has one: false when somebody does. Held until the file is closed. QEMU's locks are of
/// another kind and do not meet it.
pub fn try_flock(file: &File) -> io::Result<bool> {
    // SAFETY: flock takes no pointers; the descriptor is open for as long as `file` lives.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Has reads of `file` bring in what they ask for, and nothing behind it.
pub fn no_readahead(file: &File) {
    // SAFETY: posix_fadvise takes numbers only; the descriptor is open for as long as `file` lives. It is advice: an error says nothing.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM);
    }
}

/// Bytes of the range that are in the page cache (`cachestat`, Linux 6.5; an error before).
pub fn cached_bytes(file: &File, offset: u64, len: u64) -> io::Result<u64> {
    /// The same number on every architecture.
    const SYS_CACHESTAT: libc::c_long = 451;
    let range = [offset, len];
    // nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted: pages.
    let mut stat = [0u64; 5];
    // SAFETY: cachestat reads two u64 from range and writes five to stat; both outlive the call.
    if unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), stat.as_mut_ptr(), 0u32) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sysconf takes a number and has no effects.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(stat[0].saturating_mul(u64::try_from(page).unwrap_or(4096)))
}

/// Length in bytes of a block device.
pub fn block_device_len(file: &File) -> io::Result<u64> {
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    let mut len: u64 = 0;
    // SAFETY: BLKGETSIZE64 writes one u64 to the pointer, which is valid for that.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut len) })?;
    Ok(len)
}

/// Discards or zeroes a range of a block device (`BLKZEROOUT`: reads as zeros afterwards).
pub fn block_zero_out(file: &File, offset: u64, len: u64) -> io::Result<()> {
    const BLKZEROOUT: libc::c_ulong = 0x127f;
    let range = [offset, len];
    // SAFETY: BLKZEROOUT reads two u64 from the pointer, which is valid for that.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKZEROOUT, range.as_ptr()) }).map(drop)
}

/// A byte-range lock of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignLock {
    /// It is a write lock: nobody else may hold any lock there.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Bytes; `u64::MAX` when it reaches to the end of the file, however long that gets.
    pub len: u64,
    /// The process, for locks that belong to one; those of open file descriptions name none.
    pub pid: Option<u32>,
}

fn byte_range(kind: libc::c_int, start: u64, len: u64) -> libc::flock {
    // SAFETY: flock is plain integers, for which all zeros is a valid value.
    let mut l: libc::flock = unsafe { std::mem::zeroed() };
    l.l_type = kind as libc::c_short;
    l.l_whence = libc::SEEK_SET as libc::c_short;
    l.l_start = start as libc::off_t;
    l.l_len = len as libc::off_t;
    l
}

/// Somebody else's lock that would keep us from locking `len` bytes (0: to the end) from `start` on for writing. Takes no lock.
pub fn foreign_lock(file: &File, start: u64, len: u64) -> io::Result<Option<ForeignLock>> {
    let mut l = byte_range(libc::F_WRLCK, start, len);
    // SAFETY: F_OFD_GETLK reads and writes one flock at the pointer, which is valid for that.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut l) })?;
    if libc::c_int::from(l.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    Ok(Some(ForeignLock {
        exclusive: libc::c_int::from(l.l_type) == libc::F_WRLCK,
        start: l.l_start as u64,
        len: if l.l_len == 0 { u64::MAX } else { l.l_len as u64 },
        pid: u32::try_from(l.l_pid).ok().filter(|p| *p > 0),
    }))
}

/// Read-locks (or, with `on` false, unlocks) one byte for the open file description of `file`. The lock lives until it is undone or
/// the last descriptor of that description is closed. `false`: somebody else's write lock is there.
pub fn read_lock_byte(file: &File, at: u64, on: bool) -> io::Result<bool> {
    let l = byte_range(if on { libc::F_RDLCK } else { libc::F_UNLCK }, at, 1);
    // SAFETY: F_OFD_SETLK reads one flock from the pointer, which is valid for that.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const l) }) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Magic number of the filesystem an open file is on (`f_type` of statfs).
pub fn filesystem_type(file: &File) -> io::Result<u64> {
    // SAFETY: statfs is plain integers, for which all zeros is a valid value.
    let mut s: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: s is valid for writing one statfs; the descriptor is open for as long as `file` lives.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut s) })?;
    Ok(s.f_type as u64)
}

/// Opens `rel` below the folder `dir` without leaving it and without following any symbolic link (`openat2`, RESOLVE_BENEATH).
/// Never blocks on a FIFO. Returns `Unsupported` (ENOSYS) on kernels before 5.6.
pub fn open_beneath(dir: &File, rel: &Path, write: bool) -> io::Result<File> {
    let path = CString::new(rel.as_os_str().as_bytes())?;
    let access = if write { libc::O_RDWR } else { libc::O_RDONLY };
    // SAFETY: open_how is plain integers, for which all zeros is a valid value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (access | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: path is NUL-terminated and how is as large as is said; both outlive the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), path.as_ptr(), &raw const how, size_of::<libc::open_how>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }))
}

/// Processor time of this process so far: user and system.
pub fn process_cpu() -> std::time::Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec to the pointer, which is valid for that.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut t) };
    std::time::Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Processor time of the calling thread so far.
pub fn thread_cpu() -> std::time::Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec to the pointer, which is valid for that.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    std::time::Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// The real user id of this process.
pub fn user_id() -> u32 {
    // SAFETY: getuid takes nothing and cannot fail.
    unsafe { libc::getuid() }
}

/// Year, month, day, hour, minute and second of `seconds` since 1970 (UTC) where this machine is; all zeros when that cannot be told.
pub fn local_time(seconds: i64) -> [i32; 6] {
    // SAFETY: tm is plain integers and a pointer, for which all zeros is a valid value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: localtime_r reads one time_t and writes one tm; both outlive the call.
    if unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) }.is_null() {
        return [0; 6];
    }
    [tm.tm_year.saturating_add(1900), tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec]
}

/// Extended attributes by name, ACLs and labels among them; none where the filesystem has none.
pub fn attributes(file: &File) -> io::Result<Vec<(CString, Vec<u8>)>> {
    // SAFETY: a null buffer of length 0 asks for the length alone.
    let len = unsafe { libc::flistxattr(file.as_raw_fd(), std::ptr::null_mut(), 0) };
    let mut names = match usize::try_from(len) {
        Ok(len) => vec![0u8; len],
        Err(_) => {
            let e = io::Error::last_os_error();
            return if e.raw_os_error() == Some(libc::ENOTSUP) { Ok(Vec::new()) } else { Err(e) };
        }
    };
    // SAFETY: names is valid for writing its length.
    let len = unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(len).map_err(|_| io::Error::last_os_error())?);
    let mut all = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name)?;
        // SAFETY: name is NUL-terminated; a null buffer of length 0 asks for the length alone.
        let len = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), std::ptr::null_mut(), 0) };
        let mut value = vec![0u8; usize::try_from(len).map_err(|_| io::Error::last_os_error())?];
        // SAFETY: name is NUL-terminated and value is valid for writing its length.
        let len = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(len).map_err(|_| io::Error::last_os_error())?);
        all.push((name, value));
    }
    Ok(all)
}

/// Sets an extended attribute, or removes it (`None`).
pub fn set_attribute(file: &File, name: &CStr, value: Option<&[u8]>) -> io::Result<()> {
    check(match value {
        // SAFETY: name is NUL-terminated and value is valid for reading its length.
        Some(v) => unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), v.as_ptr().cast(), v.len(), 0) },
        // SAFETY: name is NUL-terminated.
        None => unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) },
    })
    .map(drop)
}

/// Bytes free to us on the filesystem that holds `path`.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let c = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain integers, for which all zeros is a valid value.
    let mut s: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: c is NUL-terminated and s is valid for writing one statvfs.
    check(unsafe { libc::statvfs(c.as_ptr(), &raw mut s) })?;
    Ok(s.f_bavail * s.f_frsize)
}

/// True when this process may make files in `folder` (or write to the file): neither its mode nor a read-only filesystem forbids it.
pub fn may_write(folder: &Path) -> bool {
    let Ok(c) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: c is NUL-terminated; nothing is written.
    unsafe { libc::faccessat(libc::AT_FDCWD, c.as_ptr(), libc::W_OK, libc::AT_EACCESS) == 0 }
}
