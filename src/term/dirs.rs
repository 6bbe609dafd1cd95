//! The folders of this user, as the system wants them: what is kept between runs, and what goes away with the session.

use std::path::PathBuf;

use directories::ProjectDirs;

/// The folder for the journal, the history and the session.
pub fn state_dir() -> Option<PathBuf> {
    let dirs = ProjectDirs::from("", "", "cowshed")?;
    Some(dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).to_path_buf())
}

/// The folder for the socket: it goes away with the session, and nobody else can enter it.
pub fn runtime_dir() -> Option<PathBuf> {
    let dirs = ProjectDirs::from("", "", "cowshed")?;
    dirs.runtime_dir().map(PathBuf::from).or_else(|| Some(state_dir()?.join("run")))
}
