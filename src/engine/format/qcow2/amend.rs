//! Changing the options of an image that is there: version, width of the refcounts, lazy refcounts, the data file's name.
//!
//! All of it is one switch of the header's first sector (see `head` and `repair`): a power cut leaves the old or the new image.

use crate::engine::error::{Error, Result};
use crate::engine::format::write::{CreateSpec, OptionKind, OptionSpec};
use crate::engine::io::{Device, WriteDevice};
use crate::engine::limits::MAX_NAME;

use super::check::Tick;
use super::create::{LENGTH, with_feature_names};
use super::describe::bit_names;
use super::extensions::{DATA_FILE, Extensions, FEATURES, read_head};
use super::header::{CORRUPT, DIRTY, Header, LAZY_REFCOUNTS, RAW_EXTERNAL, V2_LENGTH};
use super::{head, repair, snapshots};

const fn option(name: &'static str, doc: &'static str, kind: OptionKind) -> OptionSpec {
    OptionSpec { name, doc, kind, default: "" }
}

/// The options of `amend -f qcow2`.
pub static OPTIONS: &[OptionSpec] = &[
    option("backing_file", "File name of a base image; taken when it is the one there is (rebase changes it)", OptionKind::Text),
    option("backing_fmt", "Image format of the base image; taken when it is the one there is", OptionKind::Text),
    option("compat", "Compatibility level: v2 (0.10) or v3 (1.1)", OptionKind::Choice(&["0.10", "1.1", "v2", "v3"])),
    option("data_file", "File name of the external data file, where the image has one", OptionKind::Text),
    option(
        "data_file_raw",
        "The external data file must stay valid as a raw image; can only be switched off",
        OptionKind::Switch,
    ),
    option("lazy_refcounts", "Postpone refcount updates", OptionKind::Switch),
    option("refcount_bits", "Bits of a reference count: 1 to 64, a power of two", OptionKind::Number),
    option("size", "Virtual disk size", OptionKind::Size),
];

/// A checked request: the head as it is, and as it is to be.
pub struct Amendment {
    old: (Header, Extensions),
    header: Header,
    ext: Extensions,
    /// What changes, in words.
    pub steps: Vec<String>,
}

impl Amendment {
    /// What `spec` asks of the image on `dev`; the size is the caller's.
    ///
    /// Errors: options the image's version cannot have, or cannot hold; an image marked as damaged or not closed.
    pub fn new(dev: &Device, spec: &CreateSpec) -> Result<Amendment> {
        spec.check(crate::engine::format::Format::Qcow2, OPTIONS)?;
        let old = read_head(dev)?;
        if old.0.incompatible & (CORRUPT | DIRTY) != 0 {
            return Err(Error::unsupported("it is marked as damaged, or was not closed properly")
                .hint("look with cowshed check, repair with check -r all"));
        }
        let (header, ext) = old.clone();
        let mut a = Amendment { old, header, ext, steps: Vec::new() };
        a.version(spec);
        a.backing(spec)?;
        a.data_file(spec)?;
        a.lazy(spec)?;
        a.width(spec)?;
        if a.header.version < a.old.0.version {
            a.check_version_2(dev)?;
        }
        Ok(a)
    }

    /// Nothing changes.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// It goes to an older version, which a resize would be refused in.
    pub fn is_downgrade(&self) -> bool {
        self.header.version < self.old.0.version
    }

    fn version(&mut self, spec: &CreateSpec) {
        let version = match spec.option("compat") {
            Some("0.10" | "v2") => 2,
            Some(_) => 3,
            None => self.header.version,
        };
        if version == self.header.version {
            return;
        }
        self.header.version = version;
        if version >= 3 {
            self.header.header_length = LENGTH;
            self.ext = with_feature_names(self.ext.clone(), &self.header);
            self.steps.push("compat 0.10, then 1.1".into());
        } else {
            // What version 2 does not know, and may do without.
            self.header.header_length = V2_LENGTH;
            self.header.compatible = 0;
            self.header.rest = Vec::new();
            self.ext.set(FEATURES, None);
            self.steps.push("compat 1.1, then 0.10: clusters with the zero flag are written without it".into());
        }
    }

    fn backing(&self, spec: &CreateSpec) -> Result<()> {
        let other = |given: Option<&str>, now: Option<String>| given.is_some_and(|g| g != now.unwrap_or_default());
        if other(spec.option("backing_file"), self.ext.backing_name())
            || other(spec.option("backing_fmt"), self.ext.backing_format())
        {
            return Err(Error::usage("the backing file cannot be amended").hint("cowshed rebase changes it (-u: the name alone)"));
        }
        Ok(())
    }

    fn data_file(&mut self, spec: &CreateSpec) -> Result<()> {
        if let Some(name) = spec.option("data_file") {
            if !self.header.external_data() {
                return Err(Error::usage("data_file can only be set for images that have an external data file"));
            }
            if name.len() > MAX_NAME {
                return Err(Error::usage(format!("a name has at most {MAX_NAME} bytes")));
            }
            self.ext.set(DATA_FILE, (!name.is_empty()).then(|| name.as_bytes().to_vec()));
            self.steps.push(format!("the data file is called '{name}'"));
        }
        if spec.option("data_file_raw").is_some() {
            let on = spec.switch("data_file_raw", false)?;
            if on && !self.header.raw_external() {
                return Err(Error::usage("data_file_raw cannot be set on an image that is there"));
            }
            if !on && self.header.raw_external() {
                self.header.autoclear &= !RAW_EXTERNAL;
                self.steps.push("the data file need not be a raw disk by itself any more".into());
            }
        }
        Ok(())
    }

    fn lazy(&mut self, spec: &CreateSpec) -> Result<()> {
        if spec.option("lazy_refcounts").is_none() {
            return Ok(());
        }
        let on = spec.switch("lazy_refcounts", false)?;
        if on && self.header.version < 3 {
            return Err(Error::usage("lazy_refcounts needs compat=1.1"));
        }
        if on != (self.header.compatible & LAZY_REFCOUNTS != 0) {
            self.header.compatible ^= LAZY_REFCOUNTS;
            self.steps.push(format!("lazy refcounts {}", if on { "on" } else { "off" }));
        }
        Ok(())
    }

    fn width(&mut self, spec: &CreateSpec) -> Result<()> {
        if let Some(text) = spec.option("refcount_bits") {
            let bits: u32 = text.parse().unwrap_or(0);
            if !bits.is_power_of_two() || bits > 64 {
                return Err(Error::usage("refcount_bits is a power of two between 1 and 64"));
            }
            if bits != self.header.refcount_bits() {
                self.steps.push(format!("refcounts of {} bits, then {bits}", self.header.refcount_bits()));
                self.header.refcount_order = bits.trailing_zeros();
            }
        }
        if self.header.version < 3 && self.header.refcount_bits() != 16 {
            return Err(Error::usage("compat=0.10 needs refcount_bits=16"));
        }
        Ok(())
    }

    /// Refuses what version 2 cannot hold.
    fn check_version_2(&self, dev: &Device) -> Result<()> {
        let (h, ext) = &self.old;
        let no = |why: String, hint: &str| Err(Error::unsupported(format!("version 2 cannot hold {why}")).hint(hint));
        if h.incompatible != 0 {
            return no(
                bit_names(ext, 0, h.incompatible).join(", "),
                "convert it to a new image: convert -O qcow2 -o compat=0.10",
            );
        }
        if h.crypt_method != 0 {
            return no("the zero clusters of encrypted content".into(), "convert it instead");
        }
        if ext.get(super::extensions::BITMAPS).is_some() {
            return no("dirty bitmaps".into(), "remove them first: cowshed bitmap --remove");
        }
        for s in snapshots::read(dev.as_ref(), h)? {
            let name = String::from_utf8_lossy(&s.name).into_owned();
            if s.disk_size().is_some_and(|size| size != h.size) {
                return no(format!("snapshot '{name}', whose disk has another size"), "delete the snapshot first");
            }
            if s.vm_state() > u64::from(u32::MAX) {
                return no(format!("snapshot '{name}' with more than 4 GiB of VM state"), "delete the snapshot first");
            }
        }
        Ok(())
    }

    /// Does it. The image on `dev` is held and was not changed since [`Amendment::new`].
    ///
    /// Errors: the image is not sound, where its tables have to be written anew; a count does not fit the new width.
    pub fn apply(mut self, dev: &WriteDevice, tick: Tick<'_>) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let (order, down) = (self.header.refcount_order, self.is_downgrade());
        if order == self.old.0.refcount_order && !down {
            return head::rewrite(dev.as_ref(), &mut self.header, &self.ext);
        }
        let (header, ext) = (&mut self.header, &self.ext);
        repair::remake(dev, order, down, tick, &mut |made| {
            header.l1_offset = made.l1_offset;
            header.reftable_offset = made.reftable_offset;
            header.reftable_clusters = made.reftable_clusters;
            header.snapshots_offset = made.snapshots_offset;
            header.autoclear &= if header.version >= 3 { made.autoclear } else { 0 };
            head::rewrite(dev.as_ref(), header, ext)
        })
    }
}
