//! A turn ended by any signal leaves no process alive, and its session continues afterwards: both transports, both real
//! versions.

use std::time::{Duration, Instant};

use crate::support::case::{Case, SOON, expect};
use kugetsu_testing::{Gate, Reply, Running, Signal};

/// Starts a turn whose tool ignores SIGTERM and runs two children: one that left every process group and one that
/// ignores SIGTERM.
fn begin_with_stubborn_children(case: &Case, verb: &str, issue: &str, more: &[&str]) -> Running {
    let command = "setsid sh -c 'trap \"\" TERM INT HUP; touch far; while :; do sleep 1; done' >/dev/null 2>&1 & \
                   trap '' TERM; touch near; while :; do sleep 1; done";
    case.model.on("be stubborn", vec![Reply::bash(command)]);
    let files = ["far", "near"].map(|name| case.repo().join(name));
    for file in &files {
        let _ = std::fs::remove_file(file);
    }
    let running = case.begin(verb, issue, &[more, &["be stubborn"]].concat());
    case.wait_until("the tool's children run", SOON, || {
        files.iter().all(|file| file.exists())
    });
    running
}

/// Sends a signal to opencode itself, not to its guard or to kugetsu.
pub(super) fn signal_opencode(case: &Case, signal: &str) {
    let word = format!(" {} ", case.transport);
    let mut reached = 0;
    for process in case.processes() {
        let command = format!("{} ", process.command);
        if command.contains(&word) && command.contains("/bin/opencode ") && !command.contains("kugetsu ") {
            let mut kill = case.command("kill");
            kill.args([signal, &process.pid.to_string()]);
            // A child that opencode is just starting looks like opencode until it calls `exec`, and may be gone by now.
            reached += usize::from(case.finish(kill, kugetsu_testing::Stdin::Null).code() == 0);
        }
    }
    assert!(reached > 0, "no opencode among {:#?}", case.processes());
}

on_every_combination! {
    fn any_signal_ends_the_turn_and_all_it_started(case: &Case) {
        let running = begin_with_stubborn_children(case, "start", "#1", &["--grace", "2s"]);
        running.signal_group(Signal::Interrupt);
        expect(&running.wait(SOON), 130, "aborted", "interrupted");
        case.wait_nothing_left(SOON);

        let running = begin_with_stubborn_children(case, "continue", "#1", &["--grace", "2s"]);
        running.signal(Signal::Terminate);
        expect(&running.wait(SOON), 143, "aborted", "terminated");
        case.wait_nothing_left(SOON);

        // A kugetsu that is killed leaves nothing alive either.
        let running = begin_with_stubborn_children(case, "continue", "#1", &["--grace", "2s"]);
        running.kill9();
        case.wait_nothing_left(SOON);

        expect(&case.turn("continue", "#1", &["go on"]), 0, "completed", "");
        assert_eq!(case.record(1)["totals"]["turns"], 4);
    }

    fn a_second_signal_ends_an_opencode_that_does_not_react(case: &Case) {
        let gate = Gate::new();
        case.model.on("hold", vec![Reply::text("held").behind(&gate)]);
        // The grace period exceeds the test's wait, so only the second signal can end the turn.
        let running = case.begin("start", "#1", &["--grace", "20m", "hold"]);
        gate.wait_arrived(SOON);
        signal_opencode(case, "-STOP");
        running.signal_group(Signal::Interrupt);
        // Two pending signals of the same kind merge into one. A third signal while kugetsu prints the turn's end would
        // interrupt the output, so each signal gets time to be handled.
        let mut sent: Option<Instant> = None;
        case.wait_until("the second signal ends it", SOON, || {
            if sent.is_none_or(|sent| sent.elapsed() > Duration::from_secs(10)) {
                running.signal_group(Signal::Interrupt);
                sent = Some(Instant::now());
            }
            case.processes().iter().all(|process| process.pid != running.pid())
        });
        expect(&running.wait(SOON), 130, "aborted", "interrupted");
        case.wait_nothing_left(SOON);
    }
}
