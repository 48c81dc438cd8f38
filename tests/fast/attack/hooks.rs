//! A turn's tool replaces what runs after its turn, outside of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::kit::{fake_world, record, run, run_in};
use kugetsu_testing::{FakeScript, Step, World};
use serde_json::Value;

fn script(path: &Path, line: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A world with programs for the hook after a turn and for notifications, in the user's home folder.
struct Hooked {
    world: World,
    hook: PathBuf,
    notify: PathBuf,
}

fn hooked() -> Hooked {
    let world = fake_world();
    let (hook, notify) = (world.home().join("hook.sh"), world.home().join("notify.sh"));
    let config = format!(
        "hook_after_turn = \"~/hook.sh now\"\nnotify = \"{}\"\n",
        notify.display()
    );
    std::fs::write(world.kugetsu_home().join("config.toml"), config).unwrap();
    let hooked = Hooked { world, hook, notify };
    restore(&hooked);
    hooked
}

fn restore(hooked: &Hooked) {
    script(&hooked.hook, "touch \"$HOME/hook-ran\"");
    script(&hooked.notify, "touch \"$HOME/notify-ran\"");
}

/// Runs a turn whose tool runs this command. Returns what ran after it, and the turn's warnings.
#[track_caller]
fn after(hooked: &Hooked, command: &str) -> (Vec<&'static str>, Vec<String>) {
    let world = &hooked.world;
    let ran = ["hook-ran", "notify-ran", "planted-ran"];
    for file in ran {
        let _ = std::fs::remove_file(world.home().join(file));
    }
    world.fake(&FakeScript::default().on(
        "tamper",
        [Step::Shell(command.to_owned()), Step::Answer("done".to_owned())],
    ));
    let words = ["continue", "1", "tamper", "--or-start"];
    let output = run_in(world, &[("KUGETSU_TRANSPORT", "run")], &words);
    output.expect_status(0);
    let last: Value = record(world, "1").expect("a record")["last"].clone();
    let warnings: Vec<String> = serde_json::from_value(last["warnings"].clone()).unwrap_or_default();
    for warning in &warnings {
        assert!(output.stderr().contains(warning.as_str()), "{warning}: {output}");
        let shown = run(world, ["show", "1"]).stdout();
        assert!(shown.contains(warning.as_str()), "{warning}: {shown}");
    }
    let exists = |file: &&str| world.home().join(file).exists();
    (ran.into_iter().filter(exists).collect(), warnings)
}

const PLANTED: &str = "printf '#!/bin/sh\\ntouch \"$HOME/planted-ran\"\\n' >";

#[test]
fn a_program_that_a_turn_planted_does_not_run_after_it() {
    let hooked = hooked();
    let (hook, notify) = (hooked.hook.display(), hooked.notify.display());
    assert_eq!(
        after(&hooked, "true"),
        (vec!["hook-ran", "notify-ran"], Vec::new())
    );

    let (ran, warnings) = after(&hooked, &format!("{PLANTED} '{hook}'"));
    assert_eq!(ran, ["notify-ran"], "{warnings:?}");
    assert!(
        matches!(warnings.as_slice(), [one] if one.contains("so hook_after_turn was skipped; look at it")),
        "{warnings:?}"
    );
    restore(&hooked);

    let (ran, warnings) = after(&hooked, &format!("{PLANTED} '{notify}'"));
    assert_eq!(ran, ["hook-ran"], "{warnings:?}");
    assert!(
        matches!(warnings.as_slice(), [one] if one.contains("so notify was skipped")),
        "{warnings:?}"
    );
    restore(&hooked);

    // The commands of kugetsu in a hook would obey the settings.
    let config = hooked.world.kugetsu_home().join("config.toml");
    let (ran, warnings) = after(
        &hooked,
        &format!("echo 'opencode = \"/tmp/evil\"' >> '{}'", config.display()),
    );
    assert!(ran.is_empty(), "{ran:?}");
    assert!(
        matches!(warnings.as_slice(), [one] if one.contains("so hook_after_turn and notify were skipped")),
        "{warnings:?}"
    );
}

#[test]
fn a_program_that_a_turn_brings_into_being_does_not_run_after_it() {
    let hooked = hooked();
    std::fs::remove_file(&hooked.hook).unwrap();
    let (ran, warnings) = after(
        &hooked,
        &format!("{PLANTED} '{0}'; chmod +x '{0}'", hooked.hook.display()),
    );
    assert_eq!(ran, ["notify-ran"], "{warnings:?}");
}

#[test]
fn a_program_is_found_in_a_command_as_a_shell_finds_it() {
    let hooked = hooked();
    let spaced = hooked.world.home().join("my hooks/notify.sh");
    std::fs::create_dir(spaced.parent().unwrap()).unwrap();
    let config = format!(
        "hook_after_turn = \"X='a b' exec ~/hook.sh\"\nnotify = \"'{}' now\"\n",
        spaced.display()
    );
    std::fs::write(hooked.world.kugetsu_home().join("config.toml"), config).unwrap();
    let hooked = Hooked {
        notify: spaced,
        ..hooked
    };
    restore(&hooked);
    assert_eq!(
        after(&hooked, "true"),
        (vec!["hook-ran", "notify-ran"], Vec::new())
    );
    let (ran, warnings) = after(
        &hooked,
        &format!(
            "for file in '{}' '{}'; do {PLANTED} \"$file\"; done",
            hooked.hook.display(),
            hooked.notify.display()
        ),
    );
    assert!(ran.is_empty(), "{ran:?}");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn a_large_program_is_told_apart_by_more_than_its_size_and_date() {
    let hooked = hooked();
    let (hook, copy) = (hooked.hook.display(), hooked.world.root().join("copy"));
    let tail = "head -c 2000000 /dev/zero | tr '\\0' '#'";
    let original = std::fs::read_to_string(&hooked.hook).unwrap() + &"#".repeat(2_000_000);
    std::fs::write(&hooked.hook, &original).unwrap();
    let (ran, warnings) = after(
        &hooked,
        &format!(
            "cp -p '{hook}' '{copy}'; {{ printf '#!/bin/sh\\ntouch \"$HOME/planted-ran\"\\n'; {tail}; }} | \
         head -c {size} > '{hook}'; touch -r '{copy}' '{hook}'",
            copy = copy.display(),
            size = original.len()
        ),
    );
    assert_eq!(ran, ["notify-ran"], "{warnings:?}");
}
