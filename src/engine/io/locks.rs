//! QEMU's byte-range lock protocol (block/file-posix.c): who uses an image, and keeping others away while we write.
