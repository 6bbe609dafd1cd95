//! Background threads that call the engine: the library's, the image page's, the map's, the guest's, the snapshots', and the jobs' runner. They
//! take typed requests and answer with messages; none of them draws, and no key waits for them.

pub mod guest;
pub mod image;
pub mod jobs;
pub mod latest;
pub mod library;
pub mod paths;
pub mod snapshots;

use tokio::sync::mpsc::UnboundedSender;

use super::message::Message;

/// Where the threads send their news.
pub type Outbox = UnboundedSender<Message>;
