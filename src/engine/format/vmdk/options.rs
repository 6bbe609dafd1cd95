//! The `-o` options of a new VMDK, named as `qemu-img create -f vmdk -o help` names them.

use crate::engine::error::{Error, Result};
use crate::engine::format::write::{CreateSpec, OptionKind, OptionSpec};

const SUBFORMATS: &[&str] =
    &["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"];
pub(super) const ADAPTERS: &[&str] = &["ide", "lsilogic", "buslogic", "legacyESX"];

/// The options.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "subformat",
        doc: "Layout: one file or split at 2 GiB, sparse or flat, or a compressed stream",
        kind: OptionKind::Choice(SUBFORMATS),
        default: "monolithicSparse",
    },
    OptionSpec {
        name: "adapter_type",
        doc: "Adapter the guest's driver is for; decides the geometry too",
        kind: OptionKind::Choice(ADAPTERS),
        default: "ide",
    },
    OptionSpec { name: "hwversion", doc: "Virtual hardware version", kind: OptionKind::Number, default: "4" },
    OptionSpec { name: "compat6", doc: "Virtual hardware version 6", kind: OptionKind::Switch, default: "off" },
    OptionSpec { name: "toolsversion", doc: "Version of the guest tools", kind: OptionKind::Number, default: "2147483647" },
    OptionSpec {
        name: "zeroed_grain",
        doc: "Store grains of zeros in their table entry alone (version 2)",
        kind: OptionKind::Switch,
        default: "off",
    },
];

/// What was chosen, checked.
pub(super) struct Chosen {
    pub(super) subformat: &'static str,
    pub(super) adapter: &'static str,
    pub(super) hardware: String,
    pub(super) tools: String,
    pub(super) zeroed_grain: bool,
}

impl Chosen {
    /// Reads the options of `spec`, whose names and values have been checked one by one; here they are checked together.
    pub(super) fn of(spec: &CreateSpec) -> Result<Chosen> {
        let word = |name: &str, words: &'static [&'static str]| {
            let given = spec.option(name);
            words.iter().copied().find(|w| given == Some(*w)).or(words.first().copied()).unwrap_or_default()
        };
        let subformat = word("subformat", SUBFORMATS);
        let (flat, compat6, zeroed_grain) =
            (subformat.ends_with("Flat"), spec.switch("compat6", false)?, spec.switch("zeroed_grain", false)?);
        if compat6 && spec.option("hwversion").is_some() {
            return Err(Error::usage("compat6 is a hardware version of its own; give it or hwversion, not both"));
        }
        if flat && zeroed_grain {
            return Err(Error::usage("a flat disk has no grains, so none can be zeroed (zeroed_grain)"));
        }
        if flat && spec.backing.is_some() {
            return Err(Error::usage("a flat disk holds all of its content and cannot stand on a parent")
                .hint("choose a sparse sub-format"));
        }
        let hardware = if compat6 { "6" } else { spec.option("hwversion").unwrap_or("4") };
        Ok(Chosen {
            subformat,
            adapter: word("adapter_type", ADAPTERS),
            hardware: hardware.to_string(),
            tools: spec.option("toolsversion").unwrap_or("2147483647").to_string(),
            zeroed_grain,
        })
    }
}
