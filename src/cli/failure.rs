//! Why a verb failed, with its exit code: one line `cowshed: what, where: why`, and a `hint:` line where there is one.

use clap::error::{ContextKind, ContextValue, ErrorKind as Clap};

use crate::engine::error::Error;
use crate::engine::units::printable;

/// A failure on its way to the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    why: String,
    hint: Option<String>,
    silent: bool,
    refused: bool,
}

impl Failure {
    /// What to print on standard error; `None` when the reader went away and there is nobody to tell.
    pub fn report(&self) -> Option<String> {
        let hint = self.hint.as_ref().map(|h| format!("\nhint: {}", printable(h))).unwrap_or_default();
        (!self.silent).then(|| format!("cowshed: {}{hint}", self.why))
    }

    /// The same failure with another exit code.
    pub(super) fn code(mut self, code: u8) -> Self {
        if !self.silent {
            self.code = code;
        }
        self
    }

    /// It is something that cowshed does not do, rather than something that went wrong.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// The same failure with a hint, where it has none.
    pub(super) fn or_hint(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// A command line that makes no sense.
    pub(super) fn usage(e: &clap::Error, verb: Option<&str>, code: u8) -> Self {
        let command = verb.map(|v| format!("cowshed {v}")).unwrap_or_else(|| "cowshed".into());
        let place = verb.map(|v| format!("{v}: ")).unwrap_or_default();
        let text = e.render().to_string();
        let (first, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
        let why: Vec<_> = first.trim_start_matches("error: ").lines().map(str::trim).collect();
        let tip = rest.lines().find_map(|l| l.trim().strip_prefix("tip: ")).map(str::to_string);
        let choices = match e.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(all)) if e.kind() == Clap::InvalidValue && !all.is_empty() => {
                Some(format!("one of: {}", all.join(", ")))
            }
            _ => None,
        };
        let hint = tip.or(choices).unwrap_or_else(|| format!("{command} --help shows how"));
        Failure { code, why: format!("{place}{}", printable(&why.join(" "))), hint: Some(hint), silent: false, refused: false }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        let silent = e.errno() == Some(libc::EPIPE) && e.file().is_none();
        let refused = e.kind() == crate::engine::error::ErrorKind::Unsupported;
        Failure { code: if silent { 0 } else { 1 }, why: e.to_string(), hint: e.advice().map(str::to_string), silent, refused }
    }
}

impl From<std::io::Error> for Failure {
    /// Standard output cannot be written.
    fn from(e: std::io::Error) -> Self {
        let broken = e.kind() == std::io::ErrorKind::BrokenPipe;
        let failure = Failure::from(Error::from(e).op("write to standard output"));
        Failure { silent: broken, code: if broken { 0 } else { 1 }, ..failure }
    }
}
