//! `cowshed cat`: a file out of a guest, streamed.

use std::io::{IsTerminal, Write};

use super::guest::{GuestSource, image_and_path};
use super::out::Out;
use super::{Failure, Verb};
use crate::engine::error::{Context, Error};
use crate::engine::guest::fs::FileType;
use crate::engine::limits::COPY_CHUNK;
use crate::engine::units::printable_bytes;

/// Print a file from inside a guest's filesystem
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cowshed cat disk.qcow2:/etc/os-release\n  \
    cowshed cat disk.vhdx:/var/log/syslog > syslog")]
pub(super) struct Args {
    #[command(flatten)]
    guest: GuestSource,

    /// The image, and the path inside it
    #[arg(value_name = "IMAGE:PATH")]
    what: String,
}

impl Verb for Args {
    fn run(self, out: &mut Out) -> Result<u8, Failure> {
        let (image, path) = image_and_path(&self.what)?;
        let (_held, guest) = self.guest.open(&image)?;
        let spot = guest.resolve(path.as_bytes(), true).op("look inside").path(&image)?;
        let stat = guest.stat(spot)?;
        if stat.kind != FileType::File {
            return Err(Error::usage(format!("{path} is no regular file")).hint("cowshed ls shows what is there").into());
        }
        let terminal = std::io::stdout().is_terminal();
        let mut buf = vec![0u8; COPY_CHUNK];
        let mut at = 0;
        while at < stat.size {
            let n = guest.read(spot, at, &mut buf)?;
            if n == 0 {
                break;
            }
            let part = buf.get(..n).unwrap_or_default();
            if terminal {
                // A person's terminal gets lines, never the file's control bytes.
                let lines: Vec<String> = part.split(|c| *c == b'\n').map(|l| printable_bytes(l).replace("\\x09", "\t")).collect();
                out.write_all(lines.join("\n").as_bytes())?;
            } else {
                out.write_all(part)?;
            }
            at += n as u64;
        }
        Ok(0)
    }
}
