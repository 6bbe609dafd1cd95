//! Composing a descriptor's text, and changing the size in one. The counterpart of [`super::descriptor`].

use super::descriptor::NO_PARENT;
use crate::engine::error::{Error, Result};
use crate::engine::units::SECTOR;

/// What a new descriptor says.
pub(super) struct Text<'a> {
    /// Content id.
    pub(super) cid: u32,
    /// The parent's content id and the name to find it by.
    pub(super) parent: Option<(u32, &'a str)>,
    /// Sub-format.
    pub(super) create_type: &'a str,
    /// Extents: guest bytes, type, file name.
    pub(super) extents: &'a [(u64, &'a str, String)],
    /// Virtual hardware version.
    pub(super) hardware: &'a str,
    /// Adapter type.
    pub(super) adapter: &'a str,
    /// Version of the guest tools.
    pub(super) tools: &'a str,
}

impl Text<'_> {
    /// The text, with Unix line ends.
    ///
    /// Errors: a name that a descriptor cannot hold.
    pub(super) fn compose(&self) -> Result<String> {
        let heads = if self.adapter == "ide" { 16 } else { 255 };
        let sectors: u64 = self.extents.iter().map(|(len, ..)| len / SECTOR).sum();
        let mut out = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={:08x}\nparentCID={:08x}\ncreateType=\"{}\"\n",
            self.cid,
            self.parent.map_or(NO_PARENT, |(cid, _)| cid),
            self.create_type
        );
        if let Some((_, name)) = self.parent {
            out.push_str(&format!("parentFileNameHint=\"{}\"\n", plain(name)?));
        }
        out.push_str("\n# Extent description\n");
        for (len, kind, name) in self.extents {
            out.push_str(&extent_line(*len, kind, name)?);
        }
        out.push_str(&format!(
            "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\nddb.geometry.cylinders = \"{}\"\n\
             ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"{}\"\nddb.toolsVersion = \"{}\"\n",
            plain(self.hardware)?,
            (sectors / (heads * 63)).max(1),
            self.adapter,
            plain(self.tools)?
        ));
        Ok(out)
    }
}

/// `name` if it can stand between quotes on a line.
fn plain(name: &str) -> Result<&str> {
    match name.contains(|c: char| c == '"' || c.is_control()) {
        true => Err(Error::usage(format!("'{name}' cannot stand in a VMDK descriptor: it has a quote or a control character"))),
        false => Ok(name),
    }
}

/// The raw text `old` with another parent: its content id, and the name to find it by (`None`: there is none). Other lines stay.
///
/// Errors: a name that a descriptor cannot hold; there is no line for the parent's content id.
pub(super) fn with_parent(old: &[u8], cid: u32, name: Option<&str>) -> Result<Vec<u8>> {
    let old = crate::engine::io::bytes::until_nul(old);
    let mut out = Vec::with_capacity(old.len() + 64);
    let mut found = false;
    for line in old.split_inclusive(|&b| b == b'\n') {
        let key: Vec<u8> = line.iter().take_while(|b| **b != b'=').copied().collect();
        let ending: &[u8] = if line.ends_with(b"\r\n") { b"\r\n" } else { b"\n" };
        match key.trim_ascii().to_ascii_lowercase().as_slice() {
            b"parentcid" if !found => {
                found = true;
                out.extend_from_slice(format!("parentCID={cid:08x}").as_bytes());
                out.extend_from_slice(ending);
                if let Some(name) = name {
                    out.extend_from_slice(format!("parentFileNameHint=\"{}\"", plain(name)?).as_bytes());
                    out.extend_from_slice(ending);
                }
            }
            b"parentfilenamehint" => {}
            _ => out.extend_from_slice(line),
        }
    }
    if found { Ok(out) } else { Err(Error::corrupt("its descriptor has no line parentCID").op("change the parent")) }
}

fn extent_line(len: u64, kind: &str, name: &str) -> Result<String> {
    let offset = if kind == "FLAT" { " 0" } else { "" };
    Ok(format!("RW {} {kind} \"{}\"{offset}\n", len / SECTOR, plain(name)?))
}

/// The raw text `old` with `len` guest bytes in its only extent line. Nothing else moves but what follows the number.
///
/// Errors: it has not exactly one extent line.
pub(super) fn with_size(old: &[u8], len: u64) -> Result<Vec<u8>> {
    with_extents(old, 1, &[len], &[])
}

/// The raw text `old`, which has `had` extent lines, with `lens` guest bytes in the first of them, without the others, and with
/// lines for `added` extents (guest bytes, type, file name) behind them.
///
/// Errors: it has another number of extent lines; a name that a descriptor cannot hold.
pub(super) fn with_extents(old: &[u8], had: usize, lens: &[u64], added: &[(u64, &str, String)]) -> Result<Vec<u8>> {
    let old = crate::engine::io::bytes::until_nul(old);
    let mut out = Vec::with_capacity(old.len() + 20);
    let mut found = 0;
    for line in old.split_inclusive(|&b| b == b'\n') {
        let number = ["RW ", "RDONLY ", "NOACCESS "].iter().find_map(|word| {
            let rest = line.strip_prefix(word.as_bytes())?;
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            (digits > 0).then_some((word.len(), digits))
        });
        match number {
            Some((start, digits)) => {
                if let Some(len) = lens.get(found) {
                    out.extend_from_slice(line.get(..start).unwrap_or_default());
                    out.extend_from_slice((len / SECTOR).to_string().as_bytes());
                    out.extend_from_slice(line.get(start + digits..).unwrap_or_default());
                }
                found += 1;
                if found == had && !added.is_empty() {
                    // The last line of a text may have no end.
                    if !out.ends_with(b"\n") {
                        out.push(b'\n');
                    }
                    for (len, kind, name) in added {
                        out.extend_from_slice(extent_line(*len, kind, name)?.as_bytes());
                    }
                }
            }
            None => out.extend_from_slice(line),
        }
    }
    if found == had {
        return Ok(out);
    }
    Err(Error::unsupported(format!("the descriptor has {found} extent lines that can be changed, and {had} are needed")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::format::vmdk::descriptor::Descriptor;

    #[test]
    fn what_is_composed_parses_back() {
        let extents = [(1 << 20, "FLAT", "ä b-flat.vmdk".to_string()), (512, "SPARSE", "c".to_string())];
        let text = Text {
            cid: 0xabc,
            parent: Some((7, "/base \\x.vmdk")),
            create_type: "custom",
            extents: &extents,
            hardware: "4",
            adapter: "lsilogic",
            tools: "9",
        };
        let d = Descriptor::parse(text.compose().unwrap().as_bytes()).unwrap();
        assert_eq!((d.cid(), d.parent_cid(), d.get("parentFileNameHint")), (Some(0xabc), Some(7), Some("/base \\x.vmdk")));
        let got: Vec<_> = d.extents.iter().map(|e| (e.sectors * 512, e.kind.as_str(), e.file.clone().unwrap())).collect();
        assert_eq!(got, extents);
        assert!(Text { parent: Some((1, "a\"b")), ..text }.compose().is_err());
    }

    #[test]
    fn a_new_size_changes_its_number_only() {
        let old = b"a=1\r\nRW 5 SPARSE \"x RW 7\"\r\nddb.x = \"1\"\r\n\0\0junk";
        assert_eq!(with_size(old, 1 << 20).unwrap(), b"a=1\r\nRW 2048 SPARSE \"x RW 7\"\r\nddb.x = \"1\"\r\n");
        assert!(with_size(b"RW 1 ZERO\nRW 2 ZERO\n", 512).is_err());
        assert!(with_size(b"", 512).is_err());
        let two = b"RW 5 FLAT \"a\" 0\nRW 6 FLAT \"b\" 0\nddb.x=1\n";
        let more = [(1024, "FLAT", "c".to_string())];
        assert_eq!(
            with_extents(two, 2, &[2560, 4096], &more).unwrap(),
            b"RW 5 FLAT \"a\" 0\nRW 8 FLAT \"b\" 0\nRW 2 FLAT \"c\" 0\nddb.x=1\n"
        );
        assert_eq!(with_extents(two, 2, &[512], &[]).unwrap(), b"RW 1 FLAT \"a\" 0\nddb.x=1\n");
    }
}
