//! Runs kugetsu on another host with the system's `ssh`.
//!
//! The command for the other host's shell is short and the same for every verb; it starts a **tether** there
//! ([`tether_main`]). Arguments, files and stdin go to the tether as frames on its stdin, so no shell reads them and no
//! limit on command lines applies to prompts. The stdin stays open as long as the command runs. It carries signals, and
//! its end, whatever the cause, ends the command.

mod frame;
mod host;
mod quote;
mod tether;

pub use frame::{Frame, FrameError, MAX_FRAME};
pub use host::Host;
pub use quote::{quote, quote_path};
pub use tether::tether_main;

/// The first argument that makes our own binary a tether. `main` must check for it before it parses the command line.
pub const TETHER_COMMAND: &str = "tether";
