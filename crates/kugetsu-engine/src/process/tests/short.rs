//! Short commands, and the identity of processes.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{Exit, Liveness, ProcessError, Sink, current, identity_of, is_alive, run_to_end};
use rustix::process::Signal;
use uuid::Uuid;

use super::*;

#[test]
fn a_short_command_gives_its_output() {
    let world = World::new();
    let mut spec = world.spec("cat; echo wrong >&2; head -c 5000000 /dev/zero; exit 4");
    spec.stdin = b"prompt".to_vec().into();
    spec.stderr = Sink::Piped;
    let output = run_to_end(spec, LONG).unwrap();
    assert_eq!(output.exit, Exit::Code(4));
    assert_eq!(output.stdout.len(), 5_000_006);
    assert_eq!(&output.stdout[..6], b"prompt");
    assert_eq!(output.stderr, b"wrong\n");
    assert!(output.left.is_empty());
}

#[test]
fn a_short_command_that_writes_too_much_runs_to_its_end_and_its_output_is_refused() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let end = folder.path().join("end");
    let spec = world.spec(&format!(
        "head -c 134217729 /dev/zero && echo > '{}'",
        end.display()
    ));
    let program = spec.program.display().to_string();
    // Only the length: a failure must not print 128 MiB.
    let ended = run_to_end(spec, LONG).map(|output| output.stdout.len());
    assert_eq!(
        ended.unwrap_err().to_string(),
        format!("cannot use the output of a command: {program}: it wrote more than 128 MiB to stdout")
    );
    assert!(end.exists(), "it was read to its end");
}

#[test]
fn a_short_command_keeps_the_end_of_a_long_stderr() {
    let world = World::new();
    let mut spec = world.spec("{ head -c 1000000 /dev/zero; echo the reason; } >&2; echo out");
    spec.stderr = Sink::Piped;
    let output = run_to_end(spec, LONG).unwrap();
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr.len(), 64 << 10);
    assert!(output.stderr.ends_with(b"\0the reason\n"));
}

#[test]
fn a_short_command_can_write_to_a_file() {
    let world = World::new();
    let mut spec = world.spec("echo out");
    let mut file = tempfile::tempfile().unwrap();
    spec.stdout = Sink::File(file.try_clone().unwrap());
    assert!(run_to_end(spec, LONG).unwrap().stdout.is_empty());
    let mut out = String::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut out).unwrap();
    assert_eq!(out, "out\n");
}

#[test]
fn a_short_command_that_takes_too_long_is_killed_with_all_it_started() {
    let world = World::new();
    let mut spec = world.spec(&wild("trap '' TERM; echo the reason >&2; SLEEP; SLEEP; SLEEP"));
    spec.containment.grace = Duration::from_millis(50);
    spec.stderr = Sink::Piped;
    let error = run_to_end(spec, Duration::from_millis(500)).unwrap_err();
    assert!(matches!(error, ProcessError::Deadline { .. }), "{error}");
    assert!(error.to_string().contains("the reason"), "{error}");
    world.nothing_left();
}

#[test]
fn a_short_command_that_cannot_be_started_reports_the_reason() {
    let world = World::new();
    let mut spec = world.spec("");
    spec.program = "/nowhere/opencode".into();
    let error = run_to_end(spec, LONG).unwrap_err();
    assert!(
        matches!(error, ProcessError::Start { not_found: true, .. }),
        "{error}"
    );
    let mut spec = world.spec("");
    spec.containment.guard_program = "/bin/true".into();
    let error = run_to_end(spec, LONG).unwrap_err();
    assert!(matches!(error, ProcessError::GuardEnded { .. }), "{error}");
}

#[test]
fn a_short_command_whose_guard_is_killed_is_swept() {
    let world = World::new();
    // The guard is the parent of the shell.
    let spec = world.spec("(setsid SLEEP &); kill -KILL $PPID; SLEEP");
    match run_to_end(spec, LONG) {
        Ok(output) => assert_eq!(output.exit, Exit::GuardLost),
        // The guard was killed before it could report that the program runs.
        Err(error) => assert!(matches!(error, ProcessError::GuardEnded { .. }), "{error}"),
    }
    world.nothing_left();
}

#[test]
fn an_identity_is_of_one_process_of_one_boot_of_one_host() {
    let own = current();
    assert_eq!(identity_of(own.pid), Some(own.clone()));
    assert_eq!(is_alive(&own), Liveness::Alive);
    let mut other = own.clone();
    other.start_ticks += 1;
    assert_eq!(is_alive(&other), Liveness::Dead, "the number was reused");
    let mut other = own.clone();
    other.boot_id = Uuid::new_v4().to_string();
    assert_eq!(is_alive(&other), Liveness::Dead, "another boot");
    let mut other = own.clone();
    other.host.push('x');
    assert_eq!(is_alive(&other), Liveness::Unknown, "another host");
    assert_eq!(identity_of(u32::MAX), None);
}

#[test]
fn a_stopped_process_is_alive_and_a_zombie_is_dead() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let identity = identity_of(child.id()).unwrap();
    send(child.id(), Signal::STOP);
    until("it is stopped", || stat(child.id())[0] == "T");
    assert_eq!(is_alive(&identity), Liveness::Alive);
    send(child.id(), Signal::KILL);
    until("it is a zombie", || stat(child.id())[0] == "Z");
    assert!(Path::new(&format!("/proc/{}", child.id())).exists());
    assert_eq!(is_alive(&identity), Liveness::Dead);
    assert_eq!(identity_of(child.id()), None);
    child.wait().unwrap();
    assert_eq!(is_alive(&identity), Liveness::Dead);
}
