//! Behaviour at a terminal: interactive questions and colour. With the fake opencode, in tmux.

use crate::support::kit::{fake_world, opencode_sessions, record, run, session_of, snapshot, start};
use crate::support::terminal::Terminal;
use kugetsu_testing::{World, kugetsu_binary};

/// A terminal that runs `kugetsu` with these arguments, then prints its exit status and waits.
fn kugetsu<'a>(world: &'a World, words: &str) -> Terminal<'a> {
    let binary = kugetsu_binary();
    // The shell survives Ctrl-C, and its children do not inherit the trap.
    let shell = format!(
        "trap : INT; '{}' {words}; echo status $?; exec sleep 600",
        binary.display()
    );
    Terminal::start(world, &shell)
}

/// Waits for the question, presses the keys, and waits for the exit status.
#[track_caller]
fn answer<'a>(world: &'a World, words: &str, keys: &[&str], status: i32) -> Terminal<'a> {
    let terminal = kugetsu(world, words);
    terminal.wait_for("?");
    terminal.press(keys);
    terminal.wait_for(&format!("status {status}"));
    assert!(
        terminal.shows_cursor(),
        "{words}, {keys:?}: the cursor is hidden\n{}",
        terminal.screen()
    );
    terminal
}

#[test]
fn prune_and_destroy_follow_the_persons_answer() {
    let world = fake_world();
    for issue in ["1", "2"] {
        start(&world, issue, "hello");
    }
    let gone = session_of(&world, "1");
    world.sql_write(&format!("DELETE FROM session WHERE id = '{gone}'"));
    let before = (snapshot(&world), opencode_sessions(&world));
    for (words, no) in [("prune", 0), ("destroy 2", 1)] {
        for (keys, status) in [
            (&["n", "Enter"][..], no),
            (&["Enter"], no),
            (&["y", "e", "a", "h", "Enter"], no),
            (&["C-c"], 130),
        ] {
            let terminal = answer(&world, words, keys, status);
            let says = terminal.screen().contains("nothing was changed");
            assert_eq!(says, status != 130, "{words}, {keys:?}\n{}", terminal.screen());
            drop(terminal);
            let after = (snapshot(&world), opencode_sessions(&world));
            assert!(after == before, "{words}, {keys:?} changed something");
        }
    }

    let terminal = answer(&world, "prune", &["y", "Enter"], 0);
    assert!(
        terminal.screen().contains("moved 1 of 1 to the trash"),
        "{}",
        terminal.screen()
    );
    drop(terminal);
    assert!(record(&world, "1").is_none() && record(&world, "2").is_some());

    let session = session_of(&world, "2");
    drop(answer(&world, "destroy 2", &["Y", "Enter"], 0));
    assert!(record(&world, "2").is_none() && !opencode_sessions(&world).contains(&session));
    run(&world, ["restore", "2"]).expect_status(0);
}

#[test]
fn colour_is_for_terminals_and_not_for_no_color() {
    let world = fake_world();
    start(&world, "1", "hello");
    for (before, wanted) in [("", true), ("env NO_COLOR=1 ", false), ("env NO_COLOR= ", true)] {
        let shell = format!(
            "{before}'{}' list; echo done; exec sleep 600",
            kugetsu_binary().display()
        );
        let terminal = Terminal::start(&world, &shell);
        terminal.wait_for("done");
        let screen = terminal.coloured_screen();
        assert!(screen.contains("completed"), "{screen}");
        assert_eq!(screen.contains('\u{1b}'), wanted, "{before:?}: {screen:?}");
    }
    let piped = run(&world, ["list"]).stdout();
    assert!(!piped.contains('\u{1b}'), "{piped:?}");
}
