//! Operations on images: each verb's work, one file each. They know formats only through traits and are thin enough to be read
//! beside the verb.

pub mod compare;
pub mod inspect;
pub mod map;
pub mod measure;
