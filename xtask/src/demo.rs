//! The one-minute tour: the real `kugetsu`, the real opencode, and a scripted model, so that no key is needed.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kugetsu_testing::{Version, World};

use crate::opencode;
use crate::step::Failure;

const VERSION: Version = Version::V1_18_33;

pub(crate) fn run() -> Result<(), Failure> {
    // Slow enough for people to see text arrive.
    let world = opencode::new_machine(VERSION, Duration::from_millis(40))?;
    println!("\nopencode {VERSION} in a new home and a new clone of https://github.com/shoko/kugetsu.git;");
    println!("only the model is scripted.\n");

    kugetsu(&world, &["init"])?;
    kugetsu(&world, &["start", "github.com/shoko/kugetsu#14", "fix the crash"])?;
    kugetsu(
        &world,
        &["start", "github.com/shoko/kugetsu#15", "write the README"],
    )?;
    kugetsu(
        &world,
        &["continue", "github.com/shoko/kugetsu#14", "now add a test"],
    )?;
    kugetsu(&world, &["list"])?;
    kugetsu(&world, &["show", "github.com/shoko/kugetsu#14"])?;
    for record in ["14.json", "15.json"] {
        print_record(
            &Path::new("sessions/github.com/shoko/kugetsu").join(record),
            &world.kugetsu_home(),
        )?;
    }
    let left = world.processes();
    if left.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("still alive after the demo: {left:?}")))
    }
}

/// Shows and runs a command, passes its output through, and fails if the command fails.
fn kugetsu(world: &World, arguments: &[&str]) -> Result<(), Failure> {
    let quoted = |word: &&str| {
        if word.contains(' ') {
            format!("\"{word}\"")
        } else {
            (*word).to_owned()
        }
    };
    let line = std::iter::once("kugetsu".to_owned()).chain(arguments.iter().map(quoted));
    let line = line.collect::<Vec<_>>().join(" ");
    println!("$ {line}");
    // Flushed before the command writes.
    let _ = std::io::stdout().flush();
    let status = world
        .kugetsu(arguments)
        .stdin(Stdio::null())
        .status()
        .map_err(Failure::because("kugetsu"))?;
    println!();
    if status.success() {
        Ok(())
    } else {
        Err(Failure::of_status(&line, status))
    }
}

fn print_record(path: &Path, home: &Path) -> Result<(), Failure> {
    println!("$ cat ~/.kugetsu/{}", path.display());
    let file = home.join(path);
    let text = std::fs::read_to_string(&file).map_err(Failure::because(file.display()))?;
    serde_json::from_str::<serde_json::Value>(&text)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    println!("{}\n", text.trim_end());
    Ok(())
}
