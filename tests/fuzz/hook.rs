//! Panics of the filesystem crates become errors where they are called; under the fuzzer they must not end the run. Ours do.

/// Leaves out panics in a crate of the registry while a call is guarded.
pub fn quiet() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let elsewhere = info.location().is_some_and(|l| l.file().contains("/registry/") || l.file().starts_with("/rustc/"));
        if !(elsewhere && cowshed::engine::guest::fs::guarding()) {
            report(info);
        }
    }));
}
