//! cowshed's door: arguments, logging, run. The only place that prints a report.
fn main() {}
