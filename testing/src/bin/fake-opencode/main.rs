//! A scripted stand-in for `opencode`; `kugetsu_testing::fake` documents what a script can do.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "a program that prints, writes and exits"
)]

mod filter;
mod play;
mod serve;
mod store;

use std::io::{IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kugetsu_testing::fake::{
    FakeAttempt, FakeCall, FakeScript, HOME_VARIABLE, SCRIPT_VARIABLE, ServeMode, Step, calls, calls_file,
};
use store::Store;

/// The longest life of any process that the fake starts.
const LIFE: Duration = Duration::from_mins(10);
/// Set when a fake re-executes itself to ignore SIGTERM.
const IGNORES_TERM: &str = "FAKE_OPENCODE_IGNORES_TERM";

type Failure = Box<dyn std::error::Error>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match act(&arguments) {
        Ok(status) => std::process::exit(status),
        Err(error) => {
            eprintln!("Error: {error}");
            std::process::exit(1);
        }
    }
}

fn act(arguments: &[String]) -> Result<i32, Failure> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["orphan", ignore_term] => return orphan(ignore_term == "true"),
        ["git-filter", journal] => {
            filter::serve(Path::new(journal))?;
            return Ok(0);
        }
        ["sleeper"] => {
            std::thread::sleep(LIFE);
            return Ok(0);
        }
        _ => {}
    }
    let script = read_script()?;
    if script.ignore_term && matches!(words.first(), Some(&("run" | "serve"))) {
        reexecute_ignoring_term(arguments)?;
    }
    // In a sandbox, HOME is another folder than that of the world.
    let home = std::env::var_os(HOME_VARIABLE).or_else(|| std::env::var_os("HOME"));
    let home = PathBuf::from(home.ok_or("HOME is not set")?);
    let run = words.first() == Some(&"run");
    let prompt = run.then(read_prompt).transpose()?;
    // The journal grows with every call, so it is read only if something depends on it.
    let earlier = if script.counts_calls() {
        calls(&home)
    } else {
        Vec::new()
    };
    let call = FakeCall {
        arguments: arguments.to_vec(),
        directory: std::env::current_dir()?,
        prompt: prompt.clone(),
        ignores_project: std::env::var_os("OPENCODE_DISABLE_PROJECT_CONFIG").is_some(),
        config: std::env::var("OPENCODE_CONFIG_CONTENT").ok(),
        permission: std::env::var("OPENCODE_PERMISSION").ok(),
        pid: std::process::id(),
    };
    note_call(&home, &call)?;

    match words[..] {
        ["--version" | "-v"] => println!("{}", script.version),
        ["db", "path"] => {
            Store::open(&home, &script)?;
            println!("{}", Store::path(&home).display());
        }
        ["run", ..] => {
            let options = RunOptions::parse(&words[1..]);
            let prompt = options.prompt(prompt.unwrap_or_default());
            let attempt = pick(&script, &prompt, &earlier);
            let store = Store::open(&home, &script)?;
            return run_turn(&store, &options, &prompt, &attempt);
        }
        ["serve", ..] => match script.serve {
            ServeMode::Refuse => {
                eprintln!("Error: the fake opencode does not serve");
                return Ok(1);
            }
            ServeMode::Silent => std::thread::sleep(LIFE),
            ServeMode::Locked(times)
                if earlier.iter().filter(|call| call.arguments[0] == "serve").count() < times =>
            {
                eprintln!("Failed to run the query 'PRAGMA journal_mode = WAL'");
                return Ok(1);
            }
            ServeMode::Sessions | ServeMode::Locked(_) => serve::sessions(&Store::open(&home, &script)?)?,
        },
        ["session", "list", ..] => println!("{}", Store::open(&home, &script)?.list()?),
        ["session", "delete", id] => Store::open(&home, &script)?.delete(id)?,
        ["export", id] => {
            eprintln!("Exporting session: {id}");
            println!(
                "{}",
                Store::open(&home, &script)?.export(id, script.short_export)?
            );
        }
        ["import", file] => {
            let text = std::fs::read_to_string(file)?;
            let id = Store::open(&home, &script)?.import(&serde_json::from_str(&text)?)?;
            println!("Imported session: {id}");
        }
        ["models"] => println!(
            "{}",
            std::env::var("FAKE_MODELS").unwrap_or("scripted/scripted".to_owned())
        ),
        ["debug", "agent", name] => {
            let rule = |class: &str, action: &str| serde_json::json!({ "permission": class, "pattern": "*", "action": action });
            let rules = [rule("*", "allow"), rule("doom_loop", "ask")];
            println!("{}", serde_json::json!({ "name": name, "permission": rules }));
        }
        _ => return Err(format!("the fake opencode does not know {arguments:?}").into()),
    }
    Ok(0)
}

fn read_script() -> Result<FakeScript, Failure> {
    let Some(file) = std::env::var_os(SCRIPT_VARIABLE) else {
        return Ok(FakeScript::default());
    };
    let text = std::fs::read_to_string(&file)?;
    Ok(serde_json::from_str(&text)?)
}

/// Reads stdin to its end before anything else, as the real opencode does if stdin is not a terminal.
fn read_prompt() -> Result<String, Failure> {
    let mut stdin = std::io::stdin();
    let mut bytes = Vec::new();
    if !stdin.is_terminal() {
        stdin.read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn note_call(home: &Path, call: &FakeCall) -> Result<(), Failure> {
    let file = calls_file(home);
    std::fs::create_dir_all(file.parent().ok_or("the journal has a folder")?)?;
    let mut journal = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    // A single write, so that lines of concurrent fakes do not mix.
    journal.write_all(format!("{}\n", serde_json::to_string(call)?).as_bytes())?;
    Ok(())
}

/// Picks the attempt: its number is the count of earlier runs that match the same needle.
fn pick(script: &FakeScript, prompt: &str, earlier: &[FakeCall]) -> FakeAttempt {
    let answer = || FakeAttempt {
        stores_prompt: true,
        steps: vec![Step::Answer("done".to_owned())],
    };
    let Some(run) = script.runs.iter().find(|run| prompt.contains(&run.needle)) else {
        return answer();
    };
    let before = earlier
        .iter()
        .filter_map(|call| call.prompt.as_ref())
        .filter(|old| old.contains(&run.needle))
        .count();
    let last = run.attempts.len().saturating_sub(1);
    run.attempts.get(before.min(last)).cloned().unwrap_or_else(answer)
}

struct RunOptions {
    session: Option<String>,
    fork: bool,
    title: Option<String>,
    message: Vec<String>,
}

impl RunOptions {
    fn parse(words: &[&str]) -> Self {
        let mut options = Self {
            session: None,
            fork: false,
            title: None,
            message: Vec::new(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().map(ToString::to_string);
            match *word {
                "--session" | "-s" => options.session = value(),
                "--title" => options.title = value(),
                "--format" | "--model" | "-m" | "--agent" | "--log-level" | "--dir" | "--variant"
                | "--port" => {
                    value();
                }
                "--fork" => options.fork = true,
                flag if flag.starts_with('-') && flag != "--" => {}
                text => options.message.push(text.to_owned()),
            }
        }
        options
    }

    fn prompt(&self, stdin: String) -> String {
        if self.message.is_empty() {
            stdin
        } else {
            format!("{}\n{stdin}", self.message.join(" "))
        }
    }
}

fn run_turn(
    store: &Store,
    options: &RunOptions,
    prompt: &str,
    attempt: &FakeAttempt,
) -> Result<i32, Failure> {
    let session = match &options.session {
        None => store.create(options.title.as_deref().unwrap_or("New session"))?,
        Some(id) if !store.has(id)? => return Err("Session not found".into()),
        Some(base) if options.fork => store.fork(base)?,
        Some(id) => id.clone(),
    };
    if attempt.stores_prompt {
        store.add_user(&session, prompt)?;
    }
    play::play(store, &session, &attempt.steps)
}

/// Re-executes this program with SIGTERM ignored. An ignored signal is inherited through `exec`; a shell sets it,
/// because setting it in Rust is unsafe.
fn reexecute_ignoring_term(arguments: &[String]) -> Result<(), Failure> {
    if std::env::var_os(IGNORES_TERM).is_some() {
        return Ok(());
    }
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "trap '' TERM; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe()?)
        .args(arguments);
    Err(shell.env(IGNORES_TERM, "1").exec().into())
}

/// The middle process of a double fork: leaves the session, starts the process that stays, and exits.
fn orphan(ignore_term: bool) -> Result<i32, Failure> {
    rustix::process::setsid()?;
    let us = std::env::current_exe()?;
    let mut sleeper = if ignore_term {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "trap '' TERM; exec \"$0\" sleeper"]).arg(us);
        shell
    } else {
        let mut plain = Command::new(us);
        plain.arg("sleeper");
        plain
    };
    sleeper.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    Ok(0)
}
