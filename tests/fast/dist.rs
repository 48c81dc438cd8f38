//! The packages that `cargo xtask dist` makes, here of the debug build. The command itself runs each of them in a clean
//! root; these tests look at what is in them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::docs::links;
use crate::support::kit::{SOON, fake_world};
use crate::support::terminal::Terminal;
use kugetsu_testing::{fake_binary, kugetsu_binary};

const TIME: &str = "1700000000";

/// Runs `xtask dist`, which needs the real home for cargo, with this mask for the modes of new files.
fn dist(umask: &str, binary: &Path, folder: &Path, time: &str) -> Output {
    Command::new("sh")
        .args(["-c", "umask $0; exec \"$@\"", umask])
        .arg(fake_binary().with_file_name("xtask"))
        .args(["dist", "--binary"])
        .arg(binary)
        .arg("--folder")
        .arg(folder)
        .env("SOURCE_DATE_EPOCH", time)
        .output()
        .unwrap()
}

#[track_caller]
fn output(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("TZ", "UTC")
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The debug build without its symbols, which would fill the packages.
fn stripped(folder: &Path) -> PathBuf {
    let binary = folder.join("kugetsu");
    let (from, to) = (kugetsu_binary(), binary.display().to_string());
    output("strip", &["-o", &to, from.to_str().unwrap()], folder);
    binary
}

#[test]
fn the_packages_are_complete_and_depend_only_on_their_content() {
    let world = fake_world();
    let folder = world.root().join("packages");
    let made = dist("077", &stripped(&world.tmp()), &folder, TIME);
    assert!(made.status.success(), "{made:?}");
    let version = env!("CARGO_PKG_VERSION");
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    output("sha256sum", &["--check", "--strict", "SHA256SUMS"], &folder);
    let package = |end: &str| {
        let mut names = sums.lines().filter_map(|line| Some(line.split_once("  ")?.1));
        let found = names.find(|name| name.ends_with(end));
        found
            .unwrap_or_else(|| panic!("no package *{end} in\n{sums}"))
            .to_owned()
    };
    let archive = package(".tar.gz");
    let deb = package(".deb");
    let main = package(&format!("kugetsu-cli-{version}.tgz"));
    let platform = sums.lines().find(|line| line.contains("kugetsu-cli-linux-"));
    let platform = platform.and_then(|line| line.split("  ").nth(1)).unwrap();
    assert_eq!(sums.lines().count(), 4, "{sums}");

    // Whoever makes them, and whenever: no owner, no time of today, no mode by the mask of a user, one order.
    let list = ["--list", "--verbose", "--file"];
    for (package, listed, time) in [
        (
            &*archive,
            output("tar", &[&list[..], &[&archive]].concat(), &folder),
            "2023-11-14 22:13",
        ),
        (
            &*deb,
            output("dpkg-deb", &["--contents", &deb], &folder),
            "2023-11-14 22:13",
        ),
        (
            &*main,
            output("tar", &[&list[..], &[&main]].concat(), &folder),
            "1985-10-26 08:15",
        ),
        (
            platform,
            output("tar", &[&list[..], &[platform]].concat(), &folder),
            "1985-10-26 08:15",
        ),
    ] {
        for line in listed.lines() {
            let mode = match line {
                _ if line.starts_with('d') => "drwxr-xr-x",
                _ if line.ends_with("/bin/kugetsu") => "-rwxr-xr-x",
                _ => "-rw-r--r--",
            };
            let words = [mode, " 0/0 ", time];
            assert!(words.iter().all(|word| line.contains(word)), "{package}: {line}");
        }
        let has_program = listed.lines().any(|line| line.ends_with("/bin/kugetsu"));
        assert!(has_program, "{package}:\n{listed}");
    }
    let zipped = std::fs::read(folder.join(&archive)).unwrap();
    assert_eq!(&zipped[3..8], [0; 5], "the header of gzip has a name or a time");
    let listed = output("tar", &["--list", "--file", &archive], &folder);
    let mut sorted: Vec<&str> = listed.lines().collect();
    sorted.sort_by_key(|name| name.split('/').map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(listed.lines().collect::<Vec<_>>(), sorted);
    let fields = output("dpkg-deb", &["--field", &deb], &folder);
    for field in [
        &format!("Version: {version}-1\n"),
        "Package: kugetsu\n",
        "Recommends: git, ca-certificates\n",
    ] {
        assert!(fields.contains(field), "{field:?} in\n{fields}");
    }

    // Every command has its page.
    let local = world.root().join("local");
    std::fs::create_dir(&local).unwrap();
    let to = local.to_str().unwrap();
    output(
        "tar",
        &[
            "--extract",
            "--strip-components=1",
            "--file",
            &archive,
            "--directory",
            to,
        ],
        &folder,
    );
    // The links of the README lead to files of the package.
    let documents = local.join("share/doc/kugetsu");
    let readme = std::fs::read_to_string(documents.join("README.md")).unwrap();
    let links: Vec<_> = links(&readme).collect();
    let in_deb = output("dpkg-deb", &["--contents", &deb], &folder);
    assert!(links.len() > 15, "{links:?}");
    for link in links {
        let file = link.split('#').next().unwrap();
        assert!(documents.join(file).is_file(), "{link}");
        // The Debian package has the license in its own form.
        let name = file.replace("LICENSE", "copyright");
        assert!(
            in_deb.contains(&format!("/usr/share/doc/kugetsu/{name}\n")),
            "{link}\n{in_deb}"
        );
    }

    let help = world.run(["--help"]).stdout();
    let verbs = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .take_while(|line| !line.starts_with("Options:"))
        .filter_map(|line| {
            line.strip_prefix("  ")?
                .split_whitespace()
                .next()
                .filter(|_| !line.starts_with("   "))
        })
        .filter(|verb| *verb != "help");
    let mut count = 0;
    for verb in verbs {
        let page = output(
            "gzip",
            &[
                "--decompress",
                "--stdout",
                &format!("share/man/man1/kugetsu-{verb}.1.gz"),
            ],
            &local,
        );
        assert!(page.contains(&format!(".TH kugetsu-{verb} 1 ")), "{page}");
        count += 1;
    }
    assert!(count > 20, "{count} commands in\n{help}");

    // zsh loads the file at the first Tab key, and completes at once.
    let setup = format!(
        "PS1='ready '; fpath=({to}/share/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D"
    );
    let terminal = Terminal::start(&world, &format!("PATH='{to}/bin':$PATH zsh -f -i"));
    terminal.press(&["-l", &setup]);
    terminal.press(&["Enter"]);
    terminal.wait_for("ready ");
    terminal.press(&["C-l"]);
    terminal.press(&["-l", "kugetsu config get trash"]);
    terminal.press(&["Tab"]);
    terminal.wait_for("kugetsu config get trash_keep");

    // The npm package without the one that holds the program.
    output("tar", &["--extract", "--file", &main], &folder);
    let mut alone = world.command(folder.join("package/bin/kugetsu"));
    alone.arg("--version");
    let alone = world.start(alone, kugetsu_testing::Stdin::Null).wait(SOON);
    assert_eq!((alone.code(), alone.stdout().as_str()), (69, ""), "{alone}");
    for word in [
        "npm did not install kugetsu-cli-linux-",
        "\n  install it",
        "npm install -g kugetsu-cli\n",
    ] {
        assert!(alone.stderr().contains(word), "{word:?} in {alone}");
    }
}

#[test]
fn bad_input_to_dist_makes_and_removes_nothing() {
    let world = fake_world();
    let kept = world.root().join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "mine").unwrap();
    let new = world.root().join("new");
    let binary = kugetsu_binary();
    let script = world.root().join("script");
    std::fs::write(&script, "no program").unwrap();
    for (binary, folder, time, why) in [
        (&binary, &kept, TIME, "kept is not empty: name a new folder"),
        (&binary, &new, "yesterday", "SOURCE_DATE_EPOCH is `yesterday`"),
        (&world.root().join("none"), &new, TIME, "/none to "),
        (&script, &new, TIME, "bin/kugetsu: "),
    ] {
        let refused = dist("022", binary, folder, time);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(
            refused.status.code() == Some(1) && error.contains(why),
            "{why:?} in {refused:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(kept.join("file")).unwrap(), "mine");
    assert!(!new.exists());
}
