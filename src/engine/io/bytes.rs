//! Integers out of (and into) byte slices without panics: every format's headers are read through these.
//!
//! A field that is not wholly inside the slice is `None`, so a truncated structure becomes an error and not a crash.

/// `N` bytes at `at`.
pub fn array<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..at.checked_add(N)?)?.try_into().ok()
}

macro_rules! getters {
    ($($be:ident $le:ident $put_be:ident $put_le:ident $t:ty, $n:literal;)*) => {$(
        #[doc = concat!("Big-endian ", stringify!($t), " at byte `at`.")]
        pub fn $be(b: &[u8], at: usize) -> Option<$t> {
            array::<$n>(b, at).map(<$t>::from_be_bytes)
        }
        #[doc = concat!("Little-endian ", stringify!($t), " at byte `at`.")]
        pub fn $le(b: &[u8], at: usize) -> Option<$t> {
            array::<$n>(b, at).map(<$t>::from_le_bytes)
        }
        #[doc = concat!("Writes a big-endian ", stringify!($t), " at byte `at`; false when it does not fit.")]
        #[must_use]
        pub fn $put_be(b: &mut [u8], at: usize, v: $t) -> bool {
            put(b, at, &v.to_be_bytes())
        }
        #[doc = concat!("Writes a little-endian ", stringify!($t), " at byte `at`; false when it does not fit.")]
        #[must_use]
        pub fn $put_le(b: &mut [u8], at: usize, v: $t) -> bool {
            put(b, at, &v.to_le_bytes())
        }
    )*};
}

getters! {
    be16 le16 put_be16 put_le16 u16, 2;
    be32 le32 put_be32 put_le32 u32, 4;
    be64 le64 put_be64 put_le64 u64, 8;
}

/// Copies `src` to byte `at` of `b`; false when it does not fit.
#[must_use]
pub fn put(b: &mut [u8], at: usize, src: &[u8]) -> bool {
    match at.checked_add(src.len()).and_then(|end| b.get_mut(at..end)) {
        Some(dst) => {
            dst.copy_from_slice(src);
            true
        }
        None => false,
    }
}

/// The bytes before the first NUL (all of them when there is none).
pub fn until_nul(b: &[u8]) -> &[u8] {
    b.split(|&c| c == 0).next().unwrap_or_default()
}

/// True when every byte is zero.
pub fn is_zero(b: &[u8]) -> bool {
    // Sixteen bytes at a time: the compiler makes vector code of this.
    let (chunks, rest) = b.as_chunks::<16>();
    chunks.iter().all(|c| u128::from_ne_bytes(*c) == 0) && rest.iter().all(|&x| x == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_outside_are_none() {
        let b = [0x12, 0x34, 0x56, 0x78, 0x9a];
        assert_eq!(be32(&b, 0), Some(0x1234_5678));
        assert_eq!(le16(&b, 3), Some(0x9a78));
        assert_eq!(be32(&b, 2), None);
        assert_eq!(be16(&b, usize::MAX), None);
    }

    #[test]
    fn zeros_of_any_length() {
        for n in 0..70 {
            let mut v = vec![0u8; n];
            assert!(is_zero(&v));
            for i in 0..n {
                v[i] = 1;
                assert!(!is_zero(&v), "{n} {i}");
                v[i] = 0;
            }
        }
    }
}
