//! Makes `docs/recording.svg`: a first session on a terminal, with the real `kugetsu` and the real opencode. Only the
//! model is scripted, and the keys are pressed by this program.

mod film;
mod svg;

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kugetsu_testing::{Version, World, kugetsu_binary, workspace_root};

use crate::opencode;
use crate::step::Failure;
use film::Film;

const VERSION: Version = Version::V1_18_33;
const COLUMNS: usize = 104;
const ROWS: usize = 26;
const PROMPT: &str = "\x1b[32m~/kugetsu\x1b[0m $ ";
/// The clone, and kugetsu's home, as the recording names them.
const CLONE: &str = "/home/ada/kugetsu";
const HOME: &str = "/home/ada/.kugetsu";
const COMMANDS: [&[&str]; 5] = [
    &["init"],
    &["start", "14", "fix the crash"],
    &["continue", "14", "now add a test"],
    &["start", "15", "write the README"],
    &["list"],
];

/// How many times as fast as it was the recording shows what a command does.
const SPEED: u32 = 3;
/// How long a key takes.
const KEY: Duration = Duration::from_millis(45);
/// How long the screen rests before and after a command.
const REST: Duration = Duration::from_millis(900);
/// How long the last picture stays.
const END: Duration = Duration::from_secs(5);

pub(crate) fn run() -> Result<(), Failure> {
    // Slow enough for people to see text arrive, also in the faster recording.
    let world = opencode::new_machine(VERSION, Duration::from_millis(200))?;

    let mut film = Film::new(COLUMNS, ROWS);
    let mut sessions = Vec::new();
    for command in COMMANDS {
        let line = format!("kugetsu {}", quoted(command));
        println!("$ {line}");
        film.show(PROMPT);
        film.wait(REST);
        for key in line.chars() {
            film.show(key.encode_utf8(&mut [0; 4]));
            film.wait(KEY);
        }
        film.wait(REST / 3);
        film.show("\r\n");
        let program = kugetsu_binary();
        let printed = on_terminal(&world, &format!("'{}' {}", program.display(), quoted(command)))?;
        for (time, text) in neutral(&world, &mut sessions, printed) {
            film.wait(time / SPEED);
            film.show(&text);
        }
        film.show("\r\n");
    }
    film.show(PROMPT);
    film.wait(END);

    let text = svg::draw(&film.end(), COLUMNS, ROWS);
    let root = world.root().display().to_string();
    if text.contains(&root) {
        return Err(Failure::new(format!(
            "the recording shows {root}; record it again"
        )));
    }
    let left = world.processes();
    if !left.is_empty() {
        return Err(Failure::new(format!("still alive after the recording: {left:?}")));
    }
    let file = workspace_root().join("docs/recording.svg");
    std::fs::write(&file, &text).map_err(Failure::because(file.display()))?;
    println!("{}: {} kB", file.display(), text.len() / 1000);
    Ok(())
}

/// The words as a person types them.
fn quoted(words: &[&str]) -> String {
    let quoted = words.iter().map(|word| {
        if word.contains(' ') {
            format!("\"{word}\"")
        } else {
            (*word).to_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Runs a command on a pseudoterminal of its own. Returns what it printed, each piece with the time since the one before.
fn on_terminal(world: &World, command: &str) -> Result<Vec<(Duration, String)>, Failure> {
    let sized = format!("stty cols {COLUMNS} rows {ROWS}; exec {command}");
    let mut terminal = world
        .command("script")
        .args(["--quiet", "--flush", "--return", "--command", &sized, "/dev/null"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::because("script"))?;
    let mut pieces = Vec::new();
    if let Some(mut output) = terminal.stdout.take() {
        let mut last = Instant::now();
        let mut rest = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = output.read(&mut buffer).map_err(Failure::because("script"))?;
            if length == 0 {
                break;
            }
            rest.extend_from_slice(&buffer[..length]);
            // A character may arrive in two parts.
            let whole = match std::str::from_utf8(&rest) {
                Ok(_) => rest.len(),
                Err(error) => error.valid_up_to(),
            };
            let text = String::from_utf8_lossy(&rest[..whole]).into_owned();
            rest.drain(..whole);
            pieces.push((last.elapsed(), text));
            last = Instant::now();
        }
    }
    let status = terminal.wait().map_err(Failure::because("script"))?;
    if status.success() {
        Ok(pieces)
    } else {
        let printed: String = pieces.into_iter().map(|(_, text)| text).collect();
        Err(Failure::new(format!("{command}: {status}\n{printed}")))
    }
}

/// Names the folders of the world as on the machine of a person, and gives sessions ids that do not change.
fn neutral(
    world: &World,
    sessions: &mut Vec<String>,
    printed: Vec<(Duration, String)>,
) -> Vec<(Duration, String)> {
    let (clone, home) = (
        world.repo().display().to_string(),
        world.kugetsu_home().display().to_string(),
    );
    let mut shown = |text: String| {
        let mut text = text.replace(&clone, CLONE).replace(&home, HOME);
        for found in text.clone().split("ses_").skip(1) {
            let end = found
                .find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(found.len());
            let id = format!("ses_{}", &found[..end]);
            let number = sessions.iter().position(|one| *one == id).unwrap_or_else(|| {
                sessions.push(id.clone());
                sessions.len() - 1
            });
            text = text.replace(&id, &format!("ses_e042e{number:03}7ffeNEvwiujX2Gr0N7"));
        }
        text
    };
    printed
        .into_iter()
        .map(|(time, text)| (time, shown(text)))
        .collect()
}
