//! `-o name=value,name=value` as qemu-img takes it.

use crate::engine::error::{Error, Result};
use crate::engine::format::Format;
use crate::engine::format::write::{CreateSpec, OptionKind, OptionSpec};
use crate::engine::ops::create::COMMON_OPTIONS;

use super::out::{Out, Tone};

/// Names and values of all `-o` flags together; in a value a comma is written twice. A name alone means `on`.
pub(super) fn parse(flags: &[String]) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for flag in flags {
        for item in split(flag) {
            let (name, value) = item.split_once('=').unwrap_or((&item, "on"));
            if name.is_empty() {
                return Err(Error::usage(format!("-o {flag}: an option has no name")).hint("write it as name=value,name=value"));
            }
            out.push((name.to_string(), value.to_string()));
        }
    }
    Ok(out)
}

/// Cuts at single commas; a double one is a comma.
fn split(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c != ',' || rest.next_if_eq(&',').is_some() {
            if let Some(last) = items.last_mut() {
                last.push(c);
            }
        } else {
            items.push(String::new());
        }
    }
    items.retain(|i| !i.is_empty());
    items
}

/// True when one of the flags asks for the list of options (`-o help`, `-o list`, `-o ?`).
pub(super) fn wants_help(flags: &[String]) -> bool {
    flags.iter().flat_map(|f| split(f)).any(|i| matches!(i.as_str(), "help" | "list" | "?"))
}

/// Prints the options of `format`, also those that every new image has.
pub(super) fn help(out: &mut Out, format: Format) -> std::io::Result<()> {
    let own = format.entry().options;
    let stands = format.entry().caps.backing;
    let common = COMMON_OPTIONS.iter().filter(|c| (stands || c.name == "size") && own.iter().all(|o| o.name != c.name));
    list(out, format, &own.iter().chain(common).copied().collect::<Vec<_>>())
}

/// Prints `options` of `format`.
pub(super) fn list(out: &mut Out, format: Format, options: &[OptionSpec]) -> std::io::Result<()> {
    out.line(out.paint(Tone::Title, format!("Options of {format}:")))?;
    for o in options {
        let takes = match o.kind {
            OptionKind::Switch => "on|off".to_string(),
            OptionKind::Size => "SIZE".to_string(),
            OptionKind::Number => "NUMBER".to_string(),
            OptionKind::Choice(words) => words.join("|"),
            OptionKind::Text => "TEXT".to_string(),
        };
        let default = if o.default.is_empty() { String::new() } else { format!(" (default {})", o.default) };
        out.line(format!("  {}={takes}: {}{default}", o.name, o.doc))?;
    }
    Ok(())
}

/// `options` checked against those `format` has.
pub(super) fn checked(format: Format, options: Vec<(String, String)>) -> Result<CreateSpec> {
    let spec = CreateSpec { options, ..CreateSpec::default() };
    spec.check(format, format.entry().options)?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_are_doubled_in_values() {
        let flags = ["a=1,b=x,,y".to_string(), "c".to_string()];
        let want = [("a", "1"), ("b", "x,y"), ("c", "on")].map(|(k, v)| (k.to_string(), v.to_string()));
        assert_eq!(parse(&flags).unwrap(), want);
        assert!(parse(&["=1".to_string()]).is_err());
        assert!(wants_help(&["a=1,help".to_string()]) && !wants_help(&["a=help".to_string()]));
    }
}
