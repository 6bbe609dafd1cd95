//! Which libvirt domain uses an image: read from domain XML files. It must not know where these are; the caller names the folders.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::engine::units::printable;

/// Bytes of a domain's XML file at most; real ones have a few KiB.
const MAX_XML: u64 = 4 << 20;

/// A domain as its XML file defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Name, safe to print.
    pub name: String,
    /// Whether it runs now.
    pub state: DomainState,
    /// Files its disks are on: real path where there is one, and target (`vda`).
    pub disks: Vec<(PathBuf, String)>,
}

/// Whether a domain runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainState {
    /// It runs or is paused.
    Running,
    /// It is defined and does not run.
    Off,
    /// The system does not let us see.
    Unknown,
}

/// A domain's use of one image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DomainUse {
    /// The domain's name, safe to print.
    pub domain: String,
    /// Whether it runs.
    pub state: DomainState,
    /// The target it has there (`vda`); `None` when the domain uses it as a backing file of another.
    pub target: Option<String>,
}

/// The domains defined in the XML files of `defined`, or running according to those of `running`. Folders that are not there hold
/// nothing; files that are no domain are passed over.
pub fn domains(defined: &[PathBuf], running: &[PathBuf]) -> Vec<Domain> {
    let mut hidden = false;
    let live: Vec<Domain> = running.iter().flat_map(|dir| read_folder(dir, DomainState::Running, &mut hidden)).collect();
    let rest = if hidden { DomainState::Unknown } else { DomainState::Off };
    let seen: HashSet<String> = live.iter().map(|d| d.name.clone()).collect();
    let mut all = live;
    let mut ignored = false;
    all.extend(defined.iter().flat_map(|dir| read_folder(dir, rest, &mut ignored)).filter(|d| !seen.contains(&d.name)));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// `hidden` becomes true when the folder is there and cannot be read.
fn read_folder(dir: &Path, state: DomainState, hidden: &mut bool) -> Vec<Domain> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => {
            *hidden |= e.kind() != std::io::ErrorKind::NotFound;
            return Vec::new();
        }
    };
    let xml = |p: &PathBuf| p.extension().is_some_and(|e| e == "xml");
    entries.flatten().map(|e| e.path()).filter(xml).filter_map(|p| read_file(&p, state)).collect()
}

fn read_file(path: &Path, state: DomainState) -> Option<Domain> {
    std::fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= MAX_XML)?;
    parse(&std::fs::read_to_string(path).ok()?, state)
}

/// A definition (`<domain>`) or the state of a running one (`<domstatus>` around it).
fn parse(xml: &str, state: DomainState) -> Option<Domain> {
    let doc = roxmltree::Document::parse(xml).ok()?;
    let domain = doc.descendants().find(|n| n.has_tag_name("domain"))?;
    let child = |n: roxmltree::Node<'_, '_>, name: &str| n.children().find(|c| c.has_tag_name(name)).map(|c| c.id());
    let name = doc.get_node(child(domain, "name")?)?.text()?;
    let devices = child(domain, "devices").and_then(|id| doc.get_node(id));
    let disks = devices.into_iter().flat_map(|d| d.children()).filter(|n| n.has_tag_name("disk")).filter_map(|disk| {
        let source = doc.get_node(child(disk, "source")?)?;
        let file = source.attribute("file").or_else(|| source.attribute("dev"))?;
        let target = child(disk, "target").and_then(|id| doc.get_node(id)).and_then(|t| t.attribute("dev")).unwrap_or("disk");
        let path = std::fs::canonicalize(file).unwrap_or_else(|_| PathBuf::from(file));
        Some((path, printable(target)))
    });
    Some(Domain { name: printable(name), state, disks: disks.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "<domain type='kvm'><name>web</name><devices>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/no/web.qcow2'/><target dev='vda' bus='virtio'/></disk>\
        <disk type='block' device='disk'><source dev='/no/vg/lv'/><target dev='vdb'/></disk>\
        <disk type='file' device='cdrom'><target dev='sda'/></disk></devices></domain>";

    #[test]
    fn definitions_and_running_state() {
        let dir = tempfile::tempdir().unwrap();
        let (defs, run) = (dir.path().join("defs"), dir.path().join("run"));
        std::fs::create_dir_all(&defs).unwrap();
        std::fs::write(defs.join("web.xml"), WEB).unwrap();
        std::fs::write(defs.join("broken.xml"), "<domain><name>x").unwrap();
        std::fs::write(defs.join("net.xml"), "<network><name>default</name></network>").unwrap();
        let disks = vec![("/no/web.qcow2".into(), "vda".to_string()), ("/no/vg/lv".into(), "vdb".to_string())];
        let web = |state| vec![Domain { name: "web".into(), state, disks: disks.clone() }];
        assert_eq!(domains(std::slice::from_ref(&defs), std::slice::from_ref(&run)), web(DomainState::Off));
        std::fs::create_dir(&run).unwrap();
        std::fs::write(run.join("web.xml"), format!("<domstatus state='running' pid='1'>{WEB}</domstatus>")).unwrap();
        assert_eq!(domains(std::slice::from_ref(&defs), &[run]), web(DomainState::Running));
        // A file where the folder should be: it cannot be seen what runs.
        assert_eq!(domains(std::slice::from_ref(&defs), &[defs.join("web.xml")]), web(DomainState::Unknown));
    }
}
