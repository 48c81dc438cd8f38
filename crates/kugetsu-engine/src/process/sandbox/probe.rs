//! What this machine has for a sandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use landlock::{ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};

use super::Backend;
use crate::cancel::Cancel;
use crate::process::{Containment, GuardSpec, Sink, run_until_cancelled};

/// How long bubblewrap may take to start a program. It takes a few milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// What this machine has for a sandbox.
#[derive(Clone, Debug)]
pub struct Available {
    /// bubblewrap, or why it cannot be used.
    pub bubblewrap: Result<PathBuf, String>,
    /// Whether the kernel has Landlock for files and TCP (version 4).
    pub landlock: bool,
    /// Whether Landlock keeps signals inside (version 6).
    pub landlock_signals: bool,
}

impl Available {
    /// The best mechanism; `strict` accepts only one without gaps.
    pub fn backend(&self, strict: bool) -> Option<Backend> {
        match &self.bubblewrap {
            Ok(program) => Some(Backend::Bubblewrap(program.clone())),
            Err(_) if self.landlock && !strict => Some(Backend::Landlock),
            Err(_) => None,
        }
    }
}

/// Finds out what this machine has. Runs bubblewrap once, because a system may forbid the namespaces that it needs.
pub(crate) fn available(containment: &Containment, cancel: &Cancel) -> Available {
    Available {
        bubblewrap: bubblewrap(containment, cancel),
        landlock: supports(|ruleset| {
            ruleset
                .handle_access(AccessFs::from_all(ABI::V4))?
                .handle_access(AccessNet::ConnectTcp)
        }),
        landlock_signals: supports(|ruleset| ruleset.scope(Scope::Signal)),
    }
}

fn supports(ask: impl Fn(Ruleset) -> Result<Ruleset, landlock::RulesetError>) -> bool {
    let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ask(strict).and_then(Ruleset::create).is_ok()
}

fn bubblewrap(containment: &Containment, cancel: &Cancel) -> Result<PathBuf, String> {
    let path = containment.environment.get("PATH").unwrap_or_default();
    let program = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("bwrap"))
        .find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok())
        .ok_or("bubblewrap (bwrap) is not installed")?;
    let args = [
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--ro-bind",
        "/",
        "/",
        "--",
        "true",
    ];
    let spec = GuardSpec {
        program: program.clone(),
        args: args.map(Into::into).to_vec(),
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
        Ok(output) if output.exit.success() => Ok(program),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let why = stderr.lines().next_back().unwrap_or("it printed no error").trim();
            Err(format!("{} does not work here: {why}", program.display()))
        }
        Err(error) => Err(error.to_string()),
    }
}
