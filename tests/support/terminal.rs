//! A tmux terminal, for output that only a person would see.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kugetsu_testing::{Stdin, World};

/// A deadline far beyond what anything takes on a busy machine.
const SOON: Duration = Duration::from_mins(2);

/// A tmux server for one test, ended with it.
pub(crate) struct Terminal<'a> {
    world: &'a World,
    /// The name of its socket, unique because the server of an earlier terminal may still be exiting.
    name: String,
    /// The file that receives the exit status.
    status: PathBuf,
}

impl<'a> Terminal<'a> {
    /// A terminal that runs this command and stays open after it.
    pub(crate) fn start(world: &'a World, shell: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("kugetsu-test-{}", COUNT.fetch_add(1, Ordering::SeqCst));
        let status = world.root().join(format!("{name}.status"));
        // tmux sometimes leaves an ended process unreaped and then has no status for it; Ctrl-C must not end the shell.
        let shell = format!("trap : INT; {shell}; echo $? > '{}'", status.display());
        let terminal = Self { world, name, status };
        let config = world.root().join("tmux.conf");
        std::fs::write(&config, "set -g remain-on-exit on\n").expect("a file in the temporary folder");
        let config = config.to_str().expect("a path in UTF-8");
        terminal.tmux(&["-f", config, "new-session", "-d", "-x", "120", "-y", "40", &shell]);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut command = self.world.command("tmux");
        command
            .args(["-L", &self.name])
            .args(words)
            .env("TMUX_TMPDIR", self.world.tmp())
            .env("TERM", "xterm-256color");
        self.world.finish(command, Stdin::Null).expect_status(0).stdout()
    }

    /// Changes the number of columns.
    pub(crate) fn resize(&self, columns: &str) {
        self.tmux(&["resize-window", "-x", columns]);
    }

    /// Presses these keys.
    pub(crate) fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Copies all bytes that the terminal gets from now on to this file.
    pub(crate) fn copy_to(&self, file: &std::path::Path) {
        self.tmux(&["pipe-pane", &format!("cat > '{}'", file.display())]);
    }

    /// The text on the screen.
    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The text on the screen, with rows that the terminal wrapped joined to one line.
    pub(crate) fn unwrapped(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J"])
    }

    /// The same with the escape sequences of its colours.
    pub(crate) fn coloured_screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Whether the cursor is visible.
    pub(crate) fn shows_cursor(&self) -> bool {
        self.tmux(&["display-message", "-p", "#{cursor_flag}"]).trim() == "1"
    }

    /// Waits until the screen shows this text; panics if the command ends first.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        self.world
            .wait_until(&format!("{text:?} on the screen"), SOON, || {
                let over = self.ended().is_some();
                let there = self.screen().contains(text);
                assert!(there || !over, "it ended without {text:?}:\n{}", self.screen());
                there
            });
    }

    /// The exit status, once the command has ended.
    pub(crate) fn ended(&self) -> Option<String> {
        let status = std::fs::read_to_string(&self.status).ok()?;
        status.ends_with('\n').then(|| status.trim().to_owned())
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let mut command = self.world.command("tmux");
        command
            .args(["-L", &self.name, "kill-server"])
            .env("TMUX_TMPDIR", self.world.tmp());
        let _ = command.output();
    }
}
