//! What can be wrong with a qcow2 image, in words.

use crate::engine::format::rules::rules;

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
    OVERLAP "overlap" Corruption Lossy,
        "guest data lies where a table of the image is",
        "What the guest reads there is not what it wrote: the table was written over it, or it over the table.",
        "The guest gets a copy of its own of what it reads now, so that neither spoils the other further.";
    CROSSED "tables-overlap" Corruption No,
        "two tables of the image lie in the same place",
        "One of them is overwritten already.",
        "It cannot be told which of the two is right; copy what can be read: convert --salvage.";
    CROWDED "compressed-overlap" Corruption No,
        "compressed guest data lies where a table of the image is",
        "What the guest reads there is damaged, or will be.",
        "It cannot be told which of the two is right; copy what can be read: convert --salvage.";
    CUT "cut" Corruption No,
        "a table of the image reaches beyond the end of the file",
        "The file was cut short; what the table led to is lost.",
        "Nothing: get the whole file again.";
    SNAPSHOT "snapshot" Corruption No,
        "the snapshot table, or a snapshot's L1 table, cannot be followed",
        "The snapshot cannot be read; the current state is not concerned.",
        "Nothing: what the snapshot holds is not known, so no space is given back either. Delete the snapshot, or copy the image.";
    RESERVED "reserved-bits" Corruption All,
        "table entries have bits set that must be zero",
        "The table was overwritten or belongs to a newer version; where its entries point is doubtful.",
        "The reserved bits are cleared.";
    MISALIGNED "misaligned" Corruption Lossy,
        "table entries point between two clusters",
        "The guest's data there cannot be read; it is lost unless a backup of the image has it.",
        "The entries are set to zeros: the guest ranges named are lost.";
    OUTSIDE "outside" Corruption Lossy,
        "table entries point beyond the end of the file",
        "The file was cut short: the guest's data there is lost.",
        "The entries are set to zeros: the guest ranges named are lost.";
    SUBCLUSTER "subclusters" Corruption Lossy,
        "subclusters are marked in a way that contradicts itself",
        "Whether the guest reads data or zeros there depends on the reader.",
        "Data marks without a place become zeros; what is marked both ways becomes data.";
    COMPRESSED_RANGE "compressed-range" Corruption Lossy,
        "compressed clusters reach beyond the end of the file",
        "The guest's data there cannot be read.",
        "The entries are set to zeros: the guest ranges named are lost.";
    TABLE "table" Corruption All,
        "a refcount block lies where it cannot be",
        "The counts for a part of the file are unknown.",
        "All counts are rebuilt from what is used.";
    DIRTY "dirty" Note All,
        "the image was not closed, and its refcounts were left for later",
        "The guest's data is right; the counts may be old. No program may write to it before they are brought up to date.",
        "All counts are set to what is used, and the mark is taken away.";
    MARKED "corrupt-bit" Note All,
        "a program has marked the image as damaged",
        "No program writes to it until it is checked.",
        "The mark is taken away once nothing is wrong any more.";
    UNREADABLE "unreadable" Unchecked No,
        "a part could not be read",
        "What it holds is not known.",
        "Nothing: it must be readable first.";
    BITMAP "bitmap" Corruption Lossy,
        "a dirty bitmap points where it cannot",
        "The next incremental backup would be wrong; the guest's data is not concerned.",
        "All bitmaps are given up: they are not trusted any more; take a full backup next.";
}
