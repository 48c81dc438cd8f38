//! What this machine has for a sandbox.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landlock::{ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr};

use super::{Backend, Bubblewrap, bubblewrap};
use crate::cancel::Cancel;
use crate::process::{Containment, GuardSpec, Sink, run_until_cancelled};

/// How long bubblewrap may take to start a program. It takes a few milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// What this machine has for a sandbox.
#[derive(Clone, Debug)]
pub struct Available {
    /// bubblewrap, or why it cannot be used.
    pub bubblewrap: Result<Bubblewrap, String>,
    /// What the kernel's Landlock can do.
    pub landlock: Landlock,
}

/// What the kernel's Landlock can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Landlock {
    /// The kernel has none, or it is off.
    Missing,
    /// It restricts files (version 1), which is enough within bubblewrap.
    Files,
    /// It restricts files and TCP (version 4), which is needed without bubblewrap.
    FilesAndTcp,
}

impl Available {
    /// The best mechanism, or why there is none. `strict` accepts only bubblewrap together with Landlock, which keeps the
    /// commands of a turn away from opencode's keys and database.
    pub fn backend(&self, strict: bool) -> Result<Backend, String> {
        match (&self.bubblewrap, self.landlock) {
            (Ok(_), Landlock::Missing) if strict => Err(NO_LANDLOCK.to_owned()),
            (Ok(bubblewrap), _) => Ok(Backend::Bubblewrap(bubblewrap.clone())),
            (Err(why), _) if strict => Err(format!("{why} ({HOW_TO_INSTALL})")),
            (Err(_), Landlock::FilesAndTcp) => Ok(Backend::Landlock),
            (Err(why), _) => Err(format!(
                "{why} ({HOW_TO_INSTALL}), and the kernel has no Landlock for files and TCP (Linux 6.7)"
            )),
        }
    }

    /// What the mechanism that [`Self::backend`] chooses does not cover on this machine, one sentence part each.
    pub fn gaps(&self, backend: &Backend) -> Vec<&'static str> {
        let mut gaps = backend.gaps().to_vec();
        if self.landlock == Landlock::Missing {
            gaps.push(
                "the kernel has no Landlock, so the commands of a turn can read the provider's key and change opencode's \
                 database, with the rules of the turn",
            );
        }
        gaps
    }
}

/// How to get bubblewrap.
pub(crate) const HOW_TO_INSTALL: &str = "on Debian: apt install bubblewrap";

/// Why bubblewrap alone is not a sandbox without gaps.
const NO_LANDLOCK: &str = "the kernel has no Landlock, without which the commands of a turn could read the provider's key and \
     change opencode's database; boot Linux 5.13 or later with `landlock` in its list of security modules (`lsm=`), or \
     accept that with --sandbox=auto";

/// Finds out what this machine has. Runs bubblewrap once, because a system may forbid the namespaces that it needs.
pub(crate) fn available(containment: &Containment, cancel: &Cancel) -> Available {
    Available {
        bubblewrap: find_bubblewrap(containment, cancel),
        landlock: landlock(),
    }
}

fn landlock() -> Landlock {
    let files_and_tcp = |ruleset: Ruleset| {
        ruleset
            .handle_access(AccessFs::from_all(ABI::V4))?
            .handle_access(AccessNet::ConnectTcp)
    };
    if supports(files_and_tcp) {
        Landlock::FilesAndTcp
    } else if supports(|ruleset| ruleset.handle_access(AccessFs::from_all(ABI::V1))) {
        Landlock::Files
    } else {
        Landlock::Missing
    }
}

fn supports(ask: impl Fn(Ruleset) -> Result<Ruleset, landlock::RulesetError>) -> bool {
    let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ask(strict).and_then(Ruleset::create).is_ok()
}

fn find_bubblewrap(containment: &Containment, cancel: &Cancel) -> Result<Bubblewrap, String> {
    let path = containment.environment.get("PATH").unwrap_or_default();
    let program = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("bwrap"))
        .find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok())
        .ok_or("bubblewrap (bwrap) is not installed")?;
    let runs = |flags: &[&str]| run(&program, flags, containment, cancel);
    // A bubblewrap before 0.8, or one that is setuid, refuses the flag. One that did not run proves nothing.
    let disables_userns = runs(&[bubblewrap::DISABLE_USERNS])?.is_ok();
    if !disables_userns {
        runs(&[])??;
    }
    Ok(Bubblewrap {
        program,
        disables_userns,
    })
}

/// Runs a program in the namespaces of bubblewrap with these further flags. The inner result is what bubblewrap says.
fn run(
    program: &Path,
    flags: &[&str],
    containment: &Containment,
    cancel: &Cancel,
) -> Result<Result<(), String>, String> {
    let args = [
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--ro-bind",
        "/",
        "/",
    ];
    let spec = GuardSpec {
        program: program.to_owned(),
        args: args
            .iter()
            .chain(flags)
            .chain(&["--", "true"])
            .map(Into::into)
            .collect(),
        cwd: "/".into(),
        set_env: Vec::new(),
        remove_env: Vec::new(),
        stdin: Arc::from([]),
        sandbox: None,
        containment: containment.clone(),
        stdout: Sink::Null,
        stderr: Sink::Piped,
    };
    match run_until_cancelled(spec, LIMIT, cancel) {
        Ok(output) if output.exit.success() => Ok(Ok(())),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let why = stderr.lines().next_back().unwrap_or("it printed no error").trim();
            Ok(Err(format!("{} does not work here: {why}", program.display())))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn machine(has_bubblewrap: bool, landlock: Landlock) -> Available {
        let bubblewrap = Bubblewrap {
            program: PathBuf::from("/usr/bin/bwrap"),
            disables_userns: true,
        };
        Available {
            bubblewrap: has_bubblewrap
                .then_some(bubblewrap)
                .ok_or_else(|| "bubblewrap (bwrap) is not installed".to_owned()),
            landlock,
        }
    }

    #[test]
    fn a_strict_sandbox_needs_bubblewrap_and_landlock() {
        for (has_bubblewrap, landlock, auto, strict) in [
            (true, Landlock::FilesAndTcp, Ok("bubblewrap"), Ok("bubblewrap")),
            (true, Landlock::Files, Ok("bubblewrap"), Ok("bubblewrap")),
            (true, Landlock::Missing, Ok("bubblewrap"), Err("no Landlock")),
            (false, Landlock::FilesAndTcp, Ok("landlock"), Err("bwrap")),
            (false, Landlock::Files, Err("Linux 6.7"), Err("bwrap")),
            (false, Landlock::Missing, Err("Linux 6.7"), Err("bwrap")),
        ] {
            let machine = machine(has_bubblewrap, landlock);
            for (strict, expected) in [(false, auto), (true, strict)] {
                match (machine.backend(strict), expected) {
                    (Ok(backend), Ok(name)) => assert_eq!(backend.name(), name, "{machine:?}"),
                    (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                    (found, _) => panic!("{machine:?}: {found:?}"),
                }
            }
        }
    }

    #[test]
    fn a_machine_without_landlock_has_a_gap_even_with_bubblewrap() {
        let gaps = |landlock| {
            let machine = machine(true, landlock);
            machine.gaps(&machine.backend(false).unwrap()).len()
        };
        assert_eq!((gaps(Landlock::Missing), gaps(Landlock::Files)), (1, 0));
    }
}
