//! How the rules of a check are written down, and those that many formats share.

/// Rules, one after the other: name, id, severity, mend, title, what it means, what repair does.
macro_rules! rules {
    ($($name:ident $id:literal $severity:ident $mend:ident, $title:literal, $means:literal, $repair:literal;)*) => {$(
        #[doc = $title]
        pub(crate) static $name: $crate::engine::format::check::Rule = $crate::engine::format::check::Rule {
            id: $id,
            severity: $crate::engine::format::check::Severity::$severity,
            title: $title,
            means: $means,
            mend: $crate::engine::format::check::Mend::$mend,
            repair: $repair,
        };
    )*};
}
pub(crate) use rules;

rules! {
    OUTSIDE "outside" Corruption No,
        "tables point beyond the end of the file",
        "The file was cut short, or the tables are damaged: the guest's data there cannot be read.",
        "Nothing: what is not in the file is lost. What is left can be copied: convert --salvage.";
    OVERLAP "overlap" Corruption No,
        "two things lie in the same place of the file",
        "Each write to one of them damages the other: one is overwritten already, or will be.",
        "Nothing: it cannot be told which of the two is right. Copy the image: convert --salvage.";
    NONSENSE "nonsense" Corruption No,
        "table entries have values that cannot be",
        "The tables were overwritten: the guest's data there cannot be found.",
        "Nothing: where the data was is not known. What is left can be copied: convert --salvage.";
    UNUSED "unused" Leak No,
        "parts of the file are used by nothing",
        "Nothing is wrong with the guest's data; the space is lost.",
        "Nothing in place. A copy of the image (convert) leaves it out.";
    PARENT "parent-changed" Corruption No,
        "what it stands on is not what it was made on",
        "The guest sees this image's changes over content they do not belong to: where both were written, its files are damaged.",
        "Nothing: put the parent back as it was. Where the parent is known to be right, rebase -u names it again.";
    UNREADABLE "unreadable" Unchecked No,
        "a part could not be read",
        "What it holds is not known.",
        "Nothing: it must be readable first.";
    SCATTERED "scattered" Unchecked No,
        "the image is too scattered to look for overlaps everywhere",
        "Everything else was checked.",
        "Nothing has to be mended.";
}
