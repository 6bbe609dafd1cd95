//! Streams of extents: merge neighbours, overlay a chain, down-sample to cells.
