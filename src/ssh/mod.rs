//! Running kugetsu on another host with the system's `ssh`.
//!
//! The command that the other host's shell reads is short and the same for every verb; it starts a **tether**
//! there ([`tether_main`]). Arguments, files and stdin go to the tether as frames on its stdin, so no shell reads
//! them and no limit on command lines holds for prompts. The stdin stays open as long as the command runs: it
//! carries signals, and its end, however it comes about, ends the command.

mod frame;
mod host;
mod quote;
mod tether;

pub use frame::{Frame, FrameError, MAX_FRAME};
pub use host::Host;
pub use quote::{quote, quote_path};
pub use tether::tether_main;

/// The word after the program's name that makes our own binary a tether. `main` must look for it before the
/// command line is read.
pub const TETHER_COMMAND: &str = "tether";
