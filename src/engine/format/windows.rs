//! Names and identifiers as Windows writes them into VHD and VHDX: UTF-16 text and paths with drives and backslashes, turned into
//! names that can be looked for here. It opens nothing: the gate decides.

/// UTF-16 bytes up to the first NUL as text; `big` says which byte comes first. What is no UTF-16 becomes U+FFFD.
pub fn utf16(bytes: &[u8], big: bool) -> String {
    let (pairs, _) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|p| if big { u16::from_be_bytes(*p) } else { u16::from_le_bytes(*p) }).take_while(|u| *u != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// `text` as UTF-16, without a NUL.
pub fn to_utf16(text: &str, big: bool) -> Vec<u8> {
    text.encode_utf16().flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
}

/// Names under which the file that Windows calls `path` may be found here, best first: a relative path with slashes, and in every
/// case the bare file name, as a disk is usually moved together with its parent.
pub fn local_names(path: &str) -> Vec<String> {
    let unix = path.replace('\\', "/");
    let rest = unix.strip_prefix("file://localhost").or_else(|| unix.strip_prefix("file://")).unwrap_or(&unix);
    let drive = rest.as_bytes().get(1) == Some(&b':');
    // `C:/…`, `//server/…`, `//?/Volume{…}/…`: nothing before the file name means anything here.
    let foreign = drive || rest.starts_with("//");
    let mut names = Vec::new();
    if !foreign {
        let mut plain = rest;
        while let Some(shorter) = plain.strip_prefix("./") {
            plain = shorter;
        }
        names.push(plain.to_string());
    }
    let file = rest.rsplit('/').next().unwrap_or_default();
    let file = if drive && !rest.contains('/') { file.get(2..).unwrap_or_default() } else { file };
    names.push(file.to_string());
    names.retain(|n| !n.is_empty() && n != "." && n != ".." && !n.ends_with('/'));
    names.dedup();
    names
}

/// Adds the names that `list` does not have yet.
pub fn add_names(list: &mut Vec<String>, names: Vec<String>) {
    for name in names {
        if !list.contains(&name) {
            list.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_paths_become_local_names() {
        for (path, names) in [
            (r".\base.vhd", vec!["base.vhd"]),
            (r"..\bases\base.vhd", vec!["../bases/base.vhd", "base.vhd"]),
            (r"C:\vm\base.vhd", vec!["base.vhd"]),
            (r"\\server\share\base.vhdx", vec!["base.vhdx"]),
            (r"\\?\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\base.vhdx", vec!["base.vhdx"]),
            ("/srv/base.vhd", vec!["/srv/base.vhd", "base.vhd"]),
            ("file://localhost/srv/base.vhd", vec!["/srv/base.vhd", "base.vhd"]),
            ("C:base.vhd", vec!["base.vhd"]),
            ("", vec![]),
            (r"C:\", vec![]),
            ("..", vec![]),
        ] {
            assert_eq!(local_names(path), names, "{path}");
        }
    }

    #[test]
    fn utf16_both_ways() {
        assert_eq!(utf16(&to_utf16("ä𝄞b", false), false), "ä𝄞b");
        assert_eq!(utf16(&to_utf16("ab", true), true), "ab");
        assert_eq!(utf16(&[b'a', 0, 0, 0, b'b', 0], false), "a");
        assert_eq!(utf16(&[0, 0xd8], false), "\u{fffd}");
    }
}
