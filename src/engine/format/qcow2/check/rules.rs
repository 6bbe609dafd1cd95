//! What can be wrong with a qcow2 image, in words.

use crate::engine::format::rules::rules;

rules! {
    LEAK "leak" Leak Leaks,
        "clusters are counted as used, but nothing uses them",
        "Nothing is wrong with the guest's data; the space is lost until it is given back.",
        "The counts are set to what is used, and the space is given back.";
    BEHIND "behind-the-end" Note Leaks,
        "clusters behind the end of the file are counted as used",
        "Nothing is wrong with the guest's data, and nothing is stored there: the file only grows with a gap.",
        "The counts are set to zero.";
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
    CROSSED "tables-overlap" Corruption Lossy,
        "two tables of the image lie in the same place",
        "One of them is overwritten already, and what it led to is lost; each write to one of them damages the other.",
        "Each gets a place of its own and leads to what it leads to now; of a snapshot whose own table is found, to that one.";
    CROWDED "compressed-overlap" Corruption Lossy,
        "compressed guest data lies where a table of the image is",
        "What the guest reads there is damaged, or will be.",
        "What can still be unpacked gets a place of its own; the rest is set to zeros: the guest ranges named are lost.";
    KEYS "luks-header" Corruption No,
        "the LUKS header reaches beyond the end of the file, or lies where another structure is",
        "Without it nothing of the guest's data can be read.",
        "Nothing: put back a backup of the LUKS header, or get the whole file again.";
    SNAPSHOT "snapshot" Corruption Lossy,
        "the snapshot table, or a snapshot's L1 table, is not where it is said to be, and was not found",
        "What these snapshots hold cannot be read; the current state is not concerned.",
        "The snapshots are given up: they are taken out of the table, and their clusters count as free.";
    FOUND "snapshot-found" Corruption All,
        "the snapshot table, or an L1 table, is not where it is said to be, but was found",
        "What it leads to cannot be read until the place is put right; nothing is lost.",
        "The place is put right: of all that could lie there only this one agrees with the refcounts.";
    ENTRY "snapshot-entry" Corruption All,
        "entries of the snapshot table lack fields, have too much, or stand for no snapshot",
        "Programs refuse the image, or show snapshots that are none; no data is concerned.",
        "The entries get what belongs in them; those that stand for no snapshot are taken out.";
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
