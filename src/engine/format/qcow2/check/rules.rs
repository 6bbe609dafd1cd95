//! What can be wrong with a qcow2 image, in words.

use crate::engine::format::check::{Mend, Rule, Severity};

macro_rules! rules {
    ($($name:ident $id:literal $severity:ident $mend:ident, $title:literal, $means:literal, $repair:literal;)*) => {$(
        #[doc = $title]
        pub(super) static $name: Rule = Rule {
            id: $id,
            severity: Severity::$severity,
            title: $title,
            means: $means,
            mend: Mend::$mend,
            repair: $repair,
        };
    )*};
}

rules! {
    LEAK "leak" Leak Leaks,
        "clusters are counted as used, but nothing uses them",
        "Nothing is wrong with the guest's data; the space is lost until it is given back.",
        "The counts are set to what is used, and the space is given back.";
    LOW "refcount-too-low" Corruption All,
        "clusters are used more often than they are counted",
        "The data is still right, but the next write may take these clusters for free ones and overwrite it.",
        "The counts are set to what is used.";
    COPIED "copied-flag" Corruption All,
        "entries say whether their cluster is shared, and say it wrongly",
        "A write may change data that a snapshot shares, or copy what need not be copied.",
        "The flag is set to what the refcount says.";
    OVERLAP "overlap" Corruption No,
        "a cluster is used for two different things",
        "Data and tables, or two tables, lie in the same place: one of them is overwritten already.",
        "It cannot be told which of the two is right; copy the image with --salvage.";
    RESERVED "reserved-bits" Corruption Lossy,
        "table entries have bits set that must be zero",
        "The table was overwritten or belongs to a newer version; where its entries point is doubtful.",
        "The reserved bits are cleared.";
    MISALIGNED "misaligned" Corruption Lossy,
        "table entries point between two clusters",
        "The guest's data there cannot be read; it is lost unless a backup of the image has it.",
        "The entries are emptied: the guest reads zeros, or what the backing file has.";
    OUTSIDE "outside" Corruption Lossy,
        "table entries point beyond the end of the file",
        "The file was cut short: the guest's data there is lost.",
        "The entries are emptied: the guest reads zeros, or what the backing file has.";
    SUBCLUSTER "subclusters" Corruption Lossy,
        "subclusters are marked in a way that contradicts itself",
        "Whether the guest reads data or zeros there depends on the reader.",
        "Marks without data are removed; what is marked both ways becomes data.";
    COMPRESSED_RANGE "compressed-range" Corruption Lossy,
        "compressed clusters reach beyond the end of the file",
        "The guest's data there cannot be read.",
        "The entries are emptied.";
    TABLE "table" Corruption All,
        "a refcount block lies where it cannot be",
        "The counts for a part of the file are unknown.",
        "All counts are rebuilt from what is used.";
    DIRTY "dirty" Corruption All,
        "the image was not closed, and its refcounts were left for later",
        "The guest's data is right; the counts are old.",
        "All counts are rebuilt from what is used.";
    UNREADABLE "unreadable" Unchecked No,
        "a part could not be read",
        "What it holds is not known.",
        "Nothing: it must be readable first.";
    BITMAP "bitmap" Corruption Lossy,
        "a dirty bitmap points where it cannot",
        "The next incremental backup would be wrong; the guest's data is not concerned.",
        "The bitmap is removed; take a full backup next.";
}
