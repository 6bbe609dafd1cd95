//! cowshed's door: arguments, run, exit code. The only place that prints a report.

use std::process::ExitCode;

use cowshed::cli;

fn main() -> color_eyre::Result<ExitCode> {
    cowshed::engine::io::sys::two_heaps();
    // Of a huge page, touched a little, all is cleared and counted. Where the kernel does not know the wish, nothing is lost.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // Failures of the work are told in a line below; this is for defects of ours.
    color_eyre::install()?;
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !cowshed::engine::guest::fs::guarding() {
            report(info);
        }
    }));
    Ok(match cli::run(std::env::args_os()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if let Some(report) = failure.report() {
                eprintln!("{report}");
            }
            ExitCode::from(failure.code)
        }
    })
}
