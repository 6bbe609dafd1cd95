//! New images under partial names. (Next commit.)
