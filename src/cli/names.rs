//! Files named as the person named the image: what lies beside it is shown relative to how it was given, as qemu-img does.

use std::path::{Path, PathBuf};

use crate::engine::model::ChainNode;

/// Every node's name as a person would type it: the image's as given, each one below relative to the one above.
pub(super) fn chain(image: &Path, nodes: &[ChainNode]) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = vec![image.to_path_buf()];
    for node in nodes.iter().skip(1) {
        let above = names.last().map(PathBuf::as_path).unwrap_or(image);
        names.push(match &node.spelled {
            Some(spelled) => joined(above, spelled),
            None => node.path.clone(),
        });
    }
    names
}

/// `name` as the image at `from` means it, joined as text.
pub(super) fn joined(from: &Path, name: &str) -> PathBuf {
    let plain = name.strip_prefix("file:").unwrap_or(name);
    let address = plain.split_once(':').is_some_and(|(head, _)| head.len() > 1 && !head.contains('/'));
    match from.parent() {
        Some(dir) if !address && !dir.as_os_str().is_empty() => dir.join(plain),
        _ => PathBuf::from(plain),
    }
}

/// The file `full`, named the way a person would who calls the image at `path` `name`: relative to it where it lies below its
/// folder.
pub(super) fn beside(full: &Path, path: &Path, name: &Path) -> PathBuf {
    let folder = std::fs::canonicalize(path).ok().and_then(|real| real.parent().map(Path::to_path_buf));
    match (folder.and_then(|f| full.strip_prefix(f).ok().map(Path::to_path_buf)), name.parent()) {
        (Some(inside), Some(shown)) => shown.join(inside),
        _ => full.to_path_buf(),
    }
}
