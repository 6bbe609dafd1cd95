//! Forms in a real terminal: a new image, an overlay on it and another size, as qemu-img sees them.

use super::tmux::{Tmux, qemu_img};

fn info(path: &std::path::Path) -> serde_json::Value {
    serde_json::from_slice(&qemu_img(&["info", "--output=json", path.to_str().unwrap()]).stdout).unwrap()
}

#[test]
fn makes_a_new_image_an_overlay_on_it_and_resizes_it() {
    let dir = tempfile::tempdir().unwrap();
    qemu_img(&["create", "-q", "-f", "raw", dir.path().join("plain.img").to_str().unwrap(), "4M"]);
    let mut t = Tmux::start(120, 36, dir.path(), &[]);
    t.wait_for("1 image");
    // Format, path, backing file, size, then the options of qcow2: cluster_size is the first.
    t.keys(&["a"]);
    t.wait_for("New image");
    t.keys(&["Enter"]);
    t.wait_for("this is needed");
    t.text("64M");
    t.keys(&["Tab", "C-u"]);
    t.text("3000");
    // What the format would refuse is told beside the option.
    t.wait_for("power of two");
    t.wait_for("✖");
    t.keys(&["C-u"]);
    t.text("128k");
    t.wait_for("✔ it can be done");
    t.keys(&["Enter"]);
    t.wait_for("undo");
    t.keys(&["Enter"]);
    t.wait_for("done: create");
    t.wait_for("2 images");
    let made = info(&dir.path().join("disk.qcow2"));
    assert_eq!((made["virtual-size"].as_u64(), made["cluster-size"].as_u64()), (Some(64 << 20), Some(128 << 10)), "{made}");
    // On its page `a` makes an overlay: nothing has to be typed.
    t.keys(&["/"]);
    t.text("disk");
    t.keys(&["Enter", "Enter", "a"]);
    t.wait_for("New overlay on disk.qcow2");
    t.wait_for("✔ it can be done");
    t.keys(&["Enter"]);
    t.wait_for("undo");
    t.keys(&["Enter"]);
    t.wait_for("disk-overlay.qcow2");
    t.keys(&["Escape", "Escape"]);
    t.wait_for("3 images");
    let made = info(&dir.path().join("disk-overlay.qcow2"));
    assert_eq!(
        (made["backing-filename"].as_str(), made["virtual-size"].as_u64()),
        (Some("disk.qcow2"), Some(64 << 20)),
        "{made}"
    );
    // A raw image is resized; smaller wants a switch and its name.
    t.keys(&["/"]);
    t.text("plain");
    t.keys(&["Enter", "R"]);
    t.text("+4M");
    t.wait_for("✔ it can be done");
    t.keys(&["Enter"]);
    t.wait_for("undo");
    t.keys(&["Enter"]);
    t.wait_for("done: resize");
    assert_eq!(std::fs::metadata(dir.path().join("plain.img")).unwrap().len(), 8 << 20);
    t.keys(&["R"]);
    t.text("-6M");
    t.wait_for("turn this on");
    t.keys(&["Tab", "Space"]);
    t.wait_for("to know before");
    t.keys(&["Enter"]);
    t.wait_for("This cannot be undone");
    t.keys(&["Tab", "Enter"]);
    t.wait_for("type 'plain.img' first");
    t.keys(&["BTab"]);
    t.text("plain.img");
    t.keys(&["Enter"]);
    t.wait_for_not("cannot be undone");
    t.wait_for("done: resize");
    assert_eq!(std::fs::metadata(dir.path().join("plain.img")).unwrap().len(), 2 << 20);
}
