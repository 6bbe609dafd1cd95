//! The rules of the house, proved: who may use whom, how large a file may be, what a module opens with, what lies at the top.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `dir`, with its text.
fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    let mut todo = vec![root().join(dir)];
    while let Some(d) = todo.pop() {
        for entry in std::fs::read_dir(&d).expect("a source folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("source is text");
                out.push((path.strip_prefix(root()).expect("below the root").to_path_buf(), text));
            }
        }
    }
    out.sort();
    assert!(!out.is_empty());
    out
}

/// The part of a source file before its tests.
fn code(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text)
}

/// A file that holds tests only, or what tests need.
fn for_tests(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "tests.rs" || n == "testing.rs" || n == "fixture.rs")
}

fn broken(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// One direction: main -> cli -> term -> ui -> app -> engine. A layer names none of those above it.
#[test]
fn layers_look_one_way() {
    let above: &[(&str, &[&str])] = &[
        (
            "src/engine",
            &[
                "crate::app",
                "crate::ui",
                "crate::term",
                "crate::cli",
                "ratatui",
                "crossterm",
                "clap::",
                "tokio",
                "color_eyre",
                "directories::",
                "std::env::var",
                "humansize",
            ],
        ),
        ("src/app", &["crate::ui", "crate::term", "crate::cli", "clap::"]),
        ("src/ui", &["crate::term", "crate::cli", "clap::", "std::fs::", "std::time::Instant::now", "SystemTime::now"]),
        ("src/term", &["crate::cli", "clap::"]),
    ];
    let mut found = Vec::new();
    for (dir, words) in above {
        for (path, text) in sources(dir).into_iter().filter(|(p, _)| !for_tests(p)) {
            for (n, line) in code(&text).lines().enumerate() {
                let line = line.split("//").next().unwrap_or(line);
                for w in words.iter().filter(|w| line.contains(**w)) {
                    found.push(format!("{}:{}: {w}", path.display(), n + 1));
                }
            }
        }
    }
    broken("a layer uses one above it", found);
}

/// Formats know only the block layer: nothing of chains, libraries, operations, jobs or guests.
#[test]
fn formats_know_only_the_block_layer() {
    let words = ["engine::chain", "engine::library", "engine::ops", "engine::job", "engine::guest"];
    let mut found = Vec::new();
    for (path, text) in sources("src/engine/format").into_iter().filter(|(p, _)| !for_tests(p)) {
        for (n, line) in code(&text).lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for w in words.iter().filter(|w| line.contains(**w)) {
                found.push(format!("{}:{}: {w}", path.display(), n + 1));
            }
        }
    }
    broken("a format knows more than it should", found);
}

#[test]
fn rooms_are_small_and_say_what_they_own() {
    let mut found = Vec::new();
    for (path, text) in sources("src") {
        let lines = code(&text).lines().count();
        if lines > 600 && !for_tests(&path) {
            found.push(format!("{} has {lines} lines without its tests", path.display()));
        }
        if !text.starts_with("//!") {
            found.push(format!("{} does not open with //!", path.display()));
        }
    }
    broken("a room is too large or has no sign on its door", found);
}

#[test]
fn unsafe_lives_in_one_file() {
    let found = sources("src")
        .into_iter()
        .filter(|(p, t)| {
            !p.ends_with("io/sys.rs") && (t.contains("unsafe {") || t.contains("unsafe fn") || t.contains("allow(unsafe_code"))
        })
        .map(|(p, _)| p.display().to_string())
        .collect();
    broken("unsafe outside src/engine/io/sys.rs", found);
}

#[test]
fn nothing_is_left_open() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("#[ign", "ore"),
        concat!("allow(dead", "_code)"),
        concat!("(being ", "built)"),
    ];
    let mut found = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        if path.ends_with("suite/common.rs") {
            continue; // a helper that not every subject uses
        }
        for w in words.iter().filter(|w| text.contains(**w)) {
            found.push(format!("{}: {w}", path.display()));
        }
    }
    broken("left open", found);
}

#[test]
fn the_top_level_is_what_was_asked_for() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "assets",
        "tests",
        "README.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "target",
        "shots",
    ];
    let found = std::fs::read_dir(root())
        .expect("the root")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|n| !n.starts_with('.') && !allowed.contains(&n.as_str()))
        .collect();
    broken("at the top, but not asked for", found);
}

/// The table of formats in the README is the engine's. `COWSHED_BLESS=1 cargo test --test arch` writes it anew.
#[test]
fn the_readme_lists_what_the_engine_can() {
    use cowshed::engine::format::FORMATS;
    let mark = |b: bool| if b { "yes" } else { "–" };
    let mut table = String::from(
        "| format | read | write | create | resize | check | repair | snapshots | backing | compression | what it is |\n",
    );
    table.push_str("|---|---|---|---|---|---|---|---|---|---|---|\n");
    for e in FORMATS {
        let c = e.caps;
        let cells =
            [c.read, c.write, c.create, c.resize, c.check, c.repair, c.snapshots, c.backing, c.compression].map(mark).join(" | ");
        table.push_str(&format!("| {} | {cells} | {} |\n", e.name, e.title));
    }
    let path = root().join("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = "keeps it in step -->\n";
    let (from, to) = (text.find(begin).unwrap() + begin.len(), text.find("<!-- /formats -->").unwrap());
    if std::env::var_os("COWSHED_BLESS").is_some() {
        std::fs::write(&path, format!("{}{table}{}", &text[..from], &text[to..])).unwrap();
        return;
    }
    assert_eq!(&text[from..to], table, "README.md is out of step: COWSHED_BLESS=1 cargo test --test arch writes it anew");
}
