//! The bounded pipeline. (Next commit.)
