//! Text as it goes on the screen: widths of what is wide or combining, fitting, sizes, times. Strings from images come in here and
//! leave without control bytes.

use humansize::{BINARY, FormatSizeOptions, format_size};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use crate::engine::units::printable;

/// Columns a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` in at most `room` columns, its end replaced by `more` when it is longer.
pub fn cut(text: &str, room: usize, more: &str) -> String {
    if width(text) <= room {
        return text.to_string();
    }
    let keep = room.saturating_sub(width(more));
    let mut out = head(text, keep).to_string();
    if room >= width(more) {
        out.push_str(more);
    }
    out
}

/// `text` in at most `room` columns, its middle replaced by `more`: both ends of a name tell something.
pub fn cut_middle(text: &str, room: usize, more: &str) -> String {
    if width(text) <= room {
        return text.to_string();
    }
    let keep = room.saturating_sub(width(more));
    let front = head(text, keep.div_ceil(2));
    let back = tail(text, keep - width(front));
    if room < width(more) { String::new() } else { format!("{front}{more}{back}") }
}

/// `text` in at most `room` columns, its beginning replaced by `more`: the end of a path tells most.
pub fn cut_front(text: &str, room: usize, more: &str) -> String {
    if width(text) <= room {
        return text.to_string();
    }
    let back = tail(text, room.saturating_sub(width(more)));
    if room < width(more) { String::new() } else { format!("{more}{back}") }
}

fn head(text: &str, room: usize) -> &str {
    let mut used = 0;
    for (i, g) in text.grapheme_indices(true) {
        used += width(g);
        if used > room {
            return text.get(..i).unwrap_or_default();
        }
    }
    text
}

fn tail(text: &str, room: usize) -> &str {
    let mut used = 0;
    for (i, g) in text.grapheme_indices(true).rev() {
        used += width(g);
        if used > room {
            return text.get(i + g.len()..).unwrap_or_default();
        }
    }
    text
}

/// A path, safe to print.
pub fn path(path: &std::path::Path) -> String {
    printable(&path.to_string_lossy())
}

/// A sentence with the names of files instead of their whole paths, for where there is little room.
pub fn brief(text: &str) -> String {
    let word = |word: &str| match word.rsplit_once('/') {
        Some((front, name)) if front.starts_with('/') || word.starts_with('/') => {
            if name.is_empty() {
                word.to_string()
            } else {
                name.to_string()
            }
        }
        _ => word.to_string(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// `text` in lines of at most `room` columns, broken at blanks, or anywhere in words that are longer.
pub fn wrap(text: &str, room: usize) -> Vec<String> {
    let room = room.max(1);
    let mut out = Vec::new();
    for line in text.lines() {
        let mut current = String::new();
        for word in line.split_inclusive(' ') {
            if !current.is_empty() && width(&current) + width(word.trim_end()) > room {
                out.push(std::mem::take(&mut current).trim_end().to_string());
            }
            let mut word = word;
            while width(word.trim_end()) > room {
                let part = head(word, room - width(&current).min(room));
                // A grapheme wider than the room: give it up rather than turn for ever.
                if part.is_empty() && current.is_empty() {
                    break;
                }
                current.push_str(part);
                word = word.get(part.len()..).unwrap_or_default();
                out.push(std::mem::take(&mut current));
            }
            current.push_str(word);
        }
        out.push(current.trim_end().to_string());
    }
    out
}

fn options() -> FormatSizeOptions {
    FormatSizeOptions::from(BINARY).decimal_places(1).decimal_zeroes(1).space_after_value(false)
}

/// A size for columns: `512B`, `64.0K`, `20.0G`.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let text = format_size(bytes, options());
    text.trim_end_matches("iB").replace('k', "K")
}

/// A size in a sentence: `20 GiB`, `1.5 TiB`.
pub fn size_words(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    format_size(bytes, FormatSizeOptions::from(BINARY).decimal_places(1).decimal_zeroes(0)).replace("kiB", "KiB")
}

/// A number with its digits in groups of three.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `3 images`, `1 image`.
pub fn count(n: usize, one: &str) -> String {
    let n64 = u64::try_from(n).unwrap_or(u64::MAX);
    format!("{} {one}{}", grouped(n64), if n == 1 { "" } else { "s" })
}

/// A share, never rounded to all or nothing: `<1%`, `37%`, `>99%`.
pub fn percent(share: f64) -> String {
    match share {
        s if s <= 0.0 => "0%".into(),
        s if s >= 1.0 => "100%".into(),
        s if s < 0.005 => "<1%".into(),
        s if s > 0.995 => ">99%".into(),
        s => format!("{:.0}%", s * 100.0),
    }
}

/// Seconds since 1970 as day and minute in UTC.
pub fn date(unix: i64) -> String {
    match Timestamp::from_second(unix) {
        Ok(t) => t.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => unix.to_string(),
    }
}

/// How long ago, roughly: `now`, `5m ago`, `3h ago`, `12d ago`.
pub fn ago(then: i64, now: i64) -> String {
    match now.saturating_sub(then) {
        s if s < 60 => "just now".into(),
        s if s < 3600 => format!("{}m ago", s / 60),
        s if s < 86_400 => format!("{}h ago", s / 3600),
        s if s < 86_400 * 60 => format!("{}d ago", s / 86_400),
        s if s < 86_400 * 730 => format!("{} months ago", s / (86_400 * 30)),
        s => format!("{} years ago", s / (86_400 * 365)),
    }
}

/// A duration: `7s`, `03:41`, `1:02:03`.
pub fn duration(seconds: u64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m:02}:{s:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_and_combining_characters_are_counted() {
        assert_eq!(cut("日本語の円盤.qcow2", 8, "…"), "日本語…");
        assert_eq!(width(&cut("日本語の円盤.qcow2", 8, "…")), 7);
        assert_eq!(cut("e\u{301}e\u{301}e\u{301}", 2, "…"), "e\u{301}…");
        assert_eq!(cut_middle("web-01.before-upgrade.qcow2", 15, "…"), "web-01.…e.qcow2");
        assert_eq!(cut_front("/srv/images/web", 8, "…"), "…ges/web");
        for room in 0..12 {
            for text in ["日本語", "abcdefgh", "👩‍👩‍👧‍👦x"] {
                for f in [cut, cut_middle, cut_front] {
                    assert!(width(&f(text, room, "…")) <= room, "{text} in {room}");
                }
            }
        }
    }

    #[test]
    fn a_brief_sentence_has_names_without_folders() {
        assert_eq!(brief("check /srv/images/web 01.qcow2"), "check web 01.qcow2");
        assert_eq!(brief("convert a.raw to a.vdi (vdi) 3/4"), "convert a.raw to a.vdi (vdi) 3/4");
        assert_eq!(brief("delete snapshot 'a/b' of /x, /srv/"), "delete snapshot 'a/b' of x, /srv/");
    }

    #[test]
    fn wraps_at_blanks_and_ends_whatever_the_room() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("/a/very/long/path x", 6), ["/a/ver", "y/long", "/path", "x"]);
        for room in 0..5 {
            wrap("日本 日本語", room);
        }
    }

    #[test]
    fn sizes_and_shares_do_not_lie() {
        assert_eq!([size(0), size(1023), size(65536), size(20 << 30), size(3 << 39)], ["0B", "1023B", "64.0K", "20.0G", "1.5T"]);
        assert_eq!((size_words(40 << 30), size_words(1536)), ("40 GiB".into(), "1.5 KiB".into()));
        assert_eq!(
            [percent(0.0), percent(1e-6), percent(0.5), percent(0.9999), percent(1.0)],
            ["0%", "<1%", "50%", ">99%", "100%"]
        );
        assert_eq!(grouped(42_949_672_960), "42,949,672,960");
    }
}
