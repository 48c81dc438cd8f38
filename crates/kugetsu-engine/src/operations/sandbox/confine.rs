//! What the opencode of a sandboxed session sees and reaches during a turn.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Keys, Place, links_in, remove_links, write};
use crate::environment::Environment;
use crate::fsx;
use crate::git::top_of;
use crate::opencode::{Confinement, Opencode, ProviderAccess, SessionContext, UserFiles, provider_access};
use crate::operations::worktree::ROOT;
use crate::operations::{Engine, EngineError};
use crate::process::cgroup::{Limitable, limitable};
use crate::process::sandbox::{
    Access, Host, Limits, MOST_PORTS, Mount, Network, Sandbox, ToolBounds, can_forward,
};
use crate::store::StoreError;
use kugetsu_api::{SessionRecord, Worktree};

/// Variables that every program may see.
const PLAIN_VARIABLES: [&str; 16] = [
    "COLORTERM",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "NODE_EXTRA_CA_CERTS",
    "NO_COLOR",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TRACEPARENT",
    "TZ",
    "USER",
    "KUGETSU_REF",
    "KUGETSU_TURN",
    "KUGETSU_BRANCH",
];
/// Beginnings of the names of further such variables.
const PLAIN_PREFIXES: [&str; 4] = ["LC_", "OPENCODE_", "GIT_AUTHOR_", "GIT_COMMITTER_"];

/// Variables of opencode that its tools do not get.
const OPENCODES_OWN: [&str; 9] = [
    // It may hold keys.
    "OPENCODE_CONFIG_CONTENT",
    "OPENCODE_SERVER_PASSWORD",
    "OPENCODE_AUTH_CONTENT",
    "OPENCODE_API_KEY",
    "OPENCODE_DB",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
];

impl Engine {
    /// Confines the opencode of a sandboxed session for one turn with this model. Makes it use the tools' shell, and start
    /// nothing by itself. `project_loaded` says whether it loads what the repository brings. The keys must be dropped when
    /// the turn is over. Blocks.
    pub(in crate::operations) fn confine(
        &self,
        opencode: Opencode,
        record: &SessionRecord,
        model: Option<&str>,
        project_loaded: bool,
        context: &mut SessionContext,
        notes: &mut Vec<String>,
    ) -> Result<(Opencode, Option<Keys>), EngineError> {
        let Some(sandbox) = &record.sandbox else {
            return Ok((opencode, None));
        };
        let own_sandbox = sandbox.clone();
        let backend = self.backend(sandbox)?;
        let strict = sandbox.strict;
        let place = Place::below(&self.sandbox_folder(sandbox));
        // An earlier turn may have replaced a folder by a link.
        for path in [place.database(), place.cache().join("opencode").join("bin")] {
            fsx::refuse_symlinks(&self.real_home(), &path).map_err(StoreError::from)?;
        }
        let project = project_loaded.then_some(record.directory.as_path());
        let access = provider_access(&self.environment, model, project);
        // Only a version that knows the setting may be given it.
        let shell = access.chooses_shell.then(|| place.fixed.join("bash"));
        let confined = context.confine(&self.environment, shell.as_deref());
        confined.map_err(|problem| EngineError::Usage {
            problem: format!("the session cannot be sandboxed: {problem}"),
            hint: "correct the variable".to_owned(),
        })?;
        let network = self.network(&access)?;
        self.write_fixed(&place, record)?;
        let mut mounts = vec![
            Mount::write(&place.home),
            Mount::write(&place.opencode).secret(),
            Mount::read(&place.fixed),
        ];
        self.mount_opencode(&place, opencode.program.clone(), &access, &mut mounts);
        self.mount_work(&place, record, &mut mounts)?;
        let listed =
            |paths: &[PathBuf]| -> Vec<PathBuf> { paths.iter().map(|path| self.in_home(path)).collect() };
        let existing = |path: &PathBuf| path.exists();
        mounts.extend(
            listed(&self.settings.sandbox_read)
                .into_iter()
                .filter(existing)
                .map(Mount::read),
        );
        mounts.extend(
            listed(&self.settings.sandbox_write)
                .into_iter()
                .filter(existing)
                .map(Mount::write),
        );
        self.refuse_wide(&mounts)?;
        let limits = Limits {
            memory: self.settings.sandbox_memory,
            processes: self.settings.sandbox_processes,
        };
        let sandbox = Sandbox {
            backend,
            mounts,
            network,
            limits,
        };
        // In a namespace of its own, the limit of a user's processes holds for all users but root.
        let counts_processes = sandbox.has_own_network() && !rustix::process::geteuid().is_root();
        // Said once, because it is as true for every later turn.
        if limits != Limits::default() && record.session.is_none() {
            notes.extend(without_effect(limits, limitable(), counts_processes));
        }
        let file = place.fixed.join("tools.json");
        let unset: Vec<String> = access
            .variables
            .iter()
            .filter(|name| !self.settings.sandbox_env.contains(name))
            .cloned()
            .chain(OPENCODES_OWN.map(str::to_owned))
            .collect();
        let bounds = serde_json::to_vec(&ToolBounds::of(&sandbox, unset, &place.home, strict))
            .map_err(|_| EngineError::Internal("bounds are JSON"))?;
        // The program may be named by a link that leads elsewhere inside.
        let own = self.environment.program();
        let own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
        let shell = ToolBounds::script(&sandbox, &own, &file);
        write(&file, &bounds)?;
        write(&place.fixed.join("bash"), shell.as_bytes())?;
        fsx::make_executable(&place.fixed.join("bash")).map_err(StoreError::from)?;
        let environment = self.confined_environment(&place, &sandbox, &access);
        // Last, so that no error comes after it.
        let auth = serde_json::to_vec(&Value::Object(access.auth.clone()))
            .map_err(|_| EngineError::Internal("keys are JSON"))?;
        write(&place.keys(), &auth)?;
        let keys = Keys {
            engine: self.clone(),
            sandbox: own_sandbox,
        };
        let opencode = opencode.confined(Confinement { sandbox, environment });
        Ok((opencode, Some(keys)))
    }

    /// Refuses to show a folder that holds the user's home, or kugetsu's.
    fn refuse_wide(&self, mounts: &[Mount]) -> Result<(), EngineError> {
        let real = |home: &Path| home.canonicalize().unwrap_or_else(|_| home.to_owned());
        let homes = [real(self.environment.home()), self.real_home()];
        let wide = mounts.iter().find(|mount| {
            let shown = mount.path.canonicalize().unwrap_or_else(|_| mount.path.clone());
            mount.source.is_none() && homes.iter().any(|home| home.starts_with(&shown))
        });
        let Some(wide) = wide else { return Ok(()) };
        Err(EngineError::Usage {
            problem: format!(
                "{} holds a home folder, so a sandbox cannot show it",
                wide.path.display()
            ),
            hint: "use a worktree, and list narrower folders in sandbox_read and sandbox_write".to_owned(),
        })
    }

    fn in_home(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("~") {
            Ok(rest) => self.environment.home().join(rest),
            Err(_) => path.to_owned(),
        }
    }

    fn network(&self, access: &ProviderAccess) -> Result<Network, EngineError> {
        let mut access = access.clone();
        for listed in &self.settings.sandbox_hosts {
            access.add_host(&listed.host, listed.port);
        }
        if let Some(name) = access.renewed.iter().next() {
            return Err(EngineError::Usage {
                problem: format!("a sandboxed session cannot use the login of {name}, which opencode renews"),
                hint: format!("give opencode a key for {name}: opencode auth login"),
            });
        }
        if access.hosts.is_empty() && access.loopback.is_empty() {
            let problem = match access.names.iter().next() {
                Some(name) => {
                    format!("the host of the provider {name} is not known, so the sandbox would hide it")
                }
                None => "the provider of the model is not known, so the sandbox would hide it".to_owned(),
            };
            return Err(EngineError::Usage {
                problem,
                hint: "name the model (--model PROVIDER/MODEL), and the host if that is not enough: \
                       kugetsu config sandbox_hosts HOST"
                    .to_owned(),
            });
        }
        if let Some(port) = access.loopback.iter().find(|port| !can_forward(**port)) {
            return Err(EngineError::Usage {
                problem: format!(
                    "a sandbox cannot make the port {port} of this machine's loopback reachable"
                ),
                hint: "use a port from 1024 on other than 3128 and 4096".to_owned(),
            });
        }
        if access.loopback.len() > MOST_PORTS {
            return Err(EngineError::Usage {
                problem: format!(
                    "a sandbox makes at most {MOST_PORTS} ports of this machine's loopback reachable"
                ),
                hint: "list fewer ports in sandbox_hosts".to_owned(),
            });
        }
        let private = access.private;
        let hosts = access.hosts.into_iter().map(|(name, port)| Host {
            private: private.contains(&(name.clone(), port)),
            name,
            port,
        });
        Ok(Network {
            hosts: hosts.collect(),
            loopback: access.loopback.into_iter().collect(),
            serve: None,
        })
    }

    /// Writes the files that the sandbox only reads.
    fn write_fixed(&self, place: &Place, record: &SessionRecord) -> Result<(), EngineError> {
        let folder = &record.directory;
        let git = self.git().at(folder);
        // Only these: a user's configuration may hold tokens, and name programs that the sandbox does not have.
        let identity = git.ask([
            "config",
            "--get-regexp",
            "-z",
            r"^(user\.(name|email)|init\.defaultbranch)$",
        ])?;
        let mut config = config_file(&identity.stdout, |_| true);
        // Packs and packed references cannot be written.
        config.extend_from_slice(b"[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n");
        write(&place.fixed.join("gitconfig"), &config)?;
        if let Some(top) = top_of(folder)
            && top.join(".git").exists()
        {
            let all = git.ask(["config", "--local", "--list", "-z"])?;
            write(
                &place.fixed.join("clone.gitconfig"),
                &config_file(&all.stdout, is_harmless),
            )?;
        }
        // opencode empties a cache that an unknown version wrote.
        let version = UserFiles::of(&self.environment).cache.join("version");
        if let Ok(bytes) = fsx::read_bounded(&version, 1 << 10) {
            write(&place.cache().join("opencode").join("version"), &bytes)?;
        }
        Ok(())
    }

    fn mount_opencode(
        &self,
        place: &Place,
        program: PathBuf,
        access: &ProviderAccess,
        mounts: &mut Vec<Mount>,
    ) {
        let files = UserFiles::of(&self.environment);
        mounts.push(Mount::read(program));
        let mut config = vec![files.config.clone(), files.cache.join("models.json")];
        config.extend(UserFiles::further_config(&self.environment));
        config.extend(access.files.iter().cloned());
        for path in config {
            if path.exists() {
                mounts.push(Mount::read(path).secret());
            }
        }
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"] {
            let path = self.environment.get(name).map(PathBuf::from);
            mounts.extend(
                path.filter(|path| path.is_absolute() && path.exists())
                    .map(Mount::read),
            );
        }
        // Packages of providers and programs that opencode has installed.
        for name in ["node_modules", "packages", "bin"] {
            let installed = files.cache.join(name);
            if installed.is_dir() {
                let inside = place.cache().join("opencode").join(name);
                mounts.push(Mount::read(inside).showing(installed).secret());
            }
        }
    }

    /// The session's folder, and the parts of `.git` that a commit needs. Everything else of `.git` cannot be changed: the
    /// hooks, the configuration, packed objects, and the folders of other worktrees.
    fn mount_work(
        &self,
        place: &Place,
        record: &SessionRecord,
        mounts: &mut Vec<Mount>,
    ) -> Result<(), EngineError> {
        let Some(worktree) = &record.worktree else {
            let top = top_of(&record.directory).unwrap_or(&record.directory);
            mounts.push(Mount::write(top));
            // The worktrees of other sessions are not this session's.
            let worktrees = top.join(ROOT);
            if worktrees.is_dir() {
                mounts.push(Mount::read(plain(worktrees)?));
            }
            let git = top.join(".git");
            if git.is_file() {
                mounts.push(Mount::read(&git));
            } else if git.is_dir() {
                mounts.push(Mount::read(&git));
                mounts.push(Mount::read(git.join("config")).showing(place.fixed.join("clone.gitconfig")));
            }
            return Ok(());
        };
        let (common, own) = self.folders_of_git(worktree)?;
        if !worktree
            .path
            .join(".git")
            .symlink_metadata()
            .is_ok_and(|link| link.is_file())
        {
            return Err(replaced(&worktree.path.join(".git")));
        }
        if worktree.path.starts_with(&worktree.repo_dir) {
            fsx::refuse_symlinks(&worktree.repo_dir, &worktree.path).map_err(StoreError::from)?;
        }
        for folder in [place.logs(), common.join("logs"), common.join("refs/replace")] {
            let root = folder.parent().unwrap_or(&folder).to_owned();
            fsx::create_dir_all_durable(&root, &folder).map_err(StoreError::from)?;
        }
        // With an empty file, a turn cannot make one of its own.
        let own_config = own.join("config.worktree");
        if own_config.symlink_metadata().is_err() {
            write(&own_config, b"")?;
        }
        // Those of a turn were removed at its end.
        if let Some(link) = link_of_git(&common, &own) {
            return Err(EngineError::Usage {
                problem: format!(
                    "{} is a symbolic link among git's files, through which a sandboxed turn could write elsewhere",
                    link.display()
                ),
                hint: "put what it leads to in its place, or remove it".to_owned(),
            });
        }
        mounts.push(Mount::read(&common));
        mounts.push(Mount::read(common.join("config")).showing(place.fixed.join("clone.gitconfig")));
        for name in ["objects", "refs"] {
            mounts.push(Mount::write(plain(common.join(name))?));
        }
        // git follows a link in place of a log. So that a turn can plant none, it has logs of its own.
        mounts.push(Mount {
            access: Access::Write,
            ..Mount::read(common.join("logs")).showing(place.logs())
        });
        mounts.push(Mount::write(plain(own.clone())?));
        for path in [
            common.join("objects/pack"),
            common.join("objects/info"),
            own.join("commondir"),
            own.join("gitdir"),
            own_config,
            common.join("refs/replace"),
        ] {
            if path.symlink_metadata().is_ok() {
                mounts.push(Mount::read(plain(path)?));
            }
        }
        mounts.push(Mount::write(&worktree.path));
        mounts.push(Mount::read(worktree.path.join(".git")));
        Ok(())
    }

    /// The `.git` of a worktree's clone, and the worktree's own folder in it.
    fn folders_of_git(&self, worktree: &Worktree) -> Result<(PathBuf, PathBuf), EngineError> {
        let git = self.git().at(&worktree.repo_dir);
        let common = git.run(["rev-parse", "--path-format=absolute", "--git-common-dir"])?;
        let common = PathBuf::from(common.text());
        let own = own_folder(&common, &worktree.path)
            .ok_or(EngineError::Internal("the worktree is linked to its clone"))?;
        Ok((common, own))
    }

    /// Removes the symbolic links that a turn has put where git follows them, in the folders that it may write. Blocks.
    pub(in crate::operations) fn remove_planted_links(&self, record: &SessionRecord) {
        let (Some(_), Some(worktree)) = (&record.sandbox, &record.worktree) else {
            return;
        };
        if let Ok((common, own)) = self.folders_of_git(worktree) {
            for (folder, depth) in followed_by_git(&common, &own) {
                remove_links(&folder, depth);
            }
        }
    }

    fn confined_environment(&self, place: &Place, sandbox: &Sandbox, access: &ProviderAccess) -> Environment {
        let shown = |name: &str| {
            name != "OPENCODE_AUTH_CONTENT"
                && (PLAIN_VARIABLES.contains(&name)
                    || PLAIN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                    || access.variables.contains(name)
                    || self.settings.sandbox_env.iter().any(|listed| listed == name))
        };
        let mut variables: Vec<(OsString, OsString)> = self
            .environment
            .variables()
            .filter(|(name, _)| name.to_str().is_some_and(shown))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let files = UserFiles::of(&self.environment);
        let models = files.cache.join("models.json");
        let config = files.config.parent().unwrap_or(&files.config);
        let mut set = |name: &str, value: &Path| variables.push((name.into(), value.into()));
        set("HOME", &place.home);
        set("XDG_CONFIG_HOME", config);
        set("XDG_DATA_HOME", &place.data());
        set("XDG_CACHE_HOME", &place.cache());
        set("XDG_STATE_HOME", &place.opencode.join("state"));
        set("SHELL", &place.fixed.join("bash"));
        set("GIT_CONFIG_GLOBAL", &place.fixed.join("gitconfig"));
        set("GIT_CONFIG_NOSYSTEM", Path::new("1"));
        set("OPENCODE_DISABLE_MODELS_FETCH", Path::new("1"));
        if self.environment.get("OPENCODE_MODELS_PATH").is_none() && models.exists() {
            set("OPENCODE_MODELS_PATH", &models);
        }
        if !sandbox.has_own_network() {
            // The folder of all programs of this machine is not shown.
            set("TMPDIR", &place.home);
        }
        Environment::new(
            variables,
            place.home.clone(),
            self.environment.program().to_owned(),
        )
    }
}

/// Says which limits cannot be set on this machine.
fn without_effect(limits: Limits, limitable: Limitable, counts_processes: bool) -> Option<String> {
    let memory = limits.memory.is_some() && !limitable.memory;
    let processes = limits.processes.is_some() && !limitable.processes && !counts_processes;
    let settings = match (memory, processes) {
        (true, true) => "sandbox_memory and sandbox_processes have",
        (true, false) => "sandbox_memory has",
        (false, true) => "sandbox_processes has",
        (false, false) => return None,
    };
    Some(format!(
        "{settings} no effect on the turns of this session, because kugetsu cannot make a cgroup with a limit here; see \
         kugetsu doctor"
    ))
}

/// The folder of a worktree in the clone's `.git`. It is found from the clone's side, because a turn could change the link
/// in the worktree.
fn own_folder(common: &Path, worktree: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(common.join("worktrees")).ok()?;
    let link = worktree.join(".git");
    entries.flatten().map(|entry| entry.path()).find(|folder| {
        let named = fsx::read_bounded(&folder.join("gitdir"), 64 << 10).unwrap_or_default();
        let named = String::from_utf8_lossy(&named).trim_end().to_owned();
        Path::new(&named) == link
            || Path::new(&named)
                .canonicalize()
                .is_ok_and(|named| Some(named) == link.canonicalize().ok())
    })
}

/// The folders in which git follows a symbolic link that a turn can plant, and how many folders deep.
fn followed_by_git(common: &Path, own: &Path) -> [(PathBuf, usize); 4] {
    [
        (own.to_owned(), usize::MAX),
        (common.join("refs"), usize::MAX),
        (common.join("logs"), usize::MAX),
        // git would make a loose object in the folder that a link leads to. It replaces a link that is an object.
        (common.join("objects"), 0),
    ]
}

fn link_of_git(common: &Path, own: &Path) -> Option<PathBuf> {
    followed_by_git(common, own)
        .iter()
        .find_map(|(folder, depth)| links_in(folder, *depth).into_iter().next())
}

/// The path, if it is not a symbolic link, which an earlier turn may have put in its place.
fn plain(path: PathBuf) -> Result<PathBuf, EngineError> {
    match path.symlink_metadata() {
        Ok(found) if found.is_symlink() => Err(replaced(&path)),
        _ => Ok(path),
    }
}

fn replaced(path: &Path) -> EngineError {
    EngineError::Usage {
        problem: format!(
            "{} is not what git made there: something has replaced it",
            path.display()
        ),
        hint: "look at it; `kugetsu destroy` saves the session's commits and removes its worktree".to_owned(),
    }
}

/// Whether a setting of a clone is needed for commits and says nothing secret.
fn is_harmless(name: &str) -> bool {
    const CORE: [&str; 8] = [
        "core.repositoryformatversion",
        "core.filemode",
        "core.bare",
        "core.logallrefupdates",
        "core.symlinks",
        "core.ignorecase",
        "core.autocrlf",
        "core.eol",
    ];
    CORE.contains(&name)
        || matches!(name, "user.name" | "user.email")
        || (name.starts_with("extensions.") && name != "extensions.worktreeconfig")
        || is_of(name, "branch", &["remote", "merge"])
        || is_of(name, "remote", &["fetch"])
}

/// Whether a setting belongs to this section and is one of these keys.
fn is_of(name: &str, section: &str, keys: &[&str]) -> bool {
    let first = name.split('.').next();
    let last = name.rsplit('.').next();
    first == Some(section) && last.is_some_and(|last| keys.contains(&last))
}

/// A configuration file of git with the settings that `git config -z` has listed, if they pass.
fn config_file(listed: &[u8], passes: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut file = String::new();
    for entry in listed.split(|&byte| byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        let Some((name, value)) = entry.split_once('\n') else {
            continue;
        };
        if !passes(name) {
            continue;
        }
        let Some((section, key)) = name.rsplit_once('.') else {
            continue;
        };
        let quote = |text: &str| {
            text.replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n")
        };
        let section = match section.split_once('.') {
            Some((section, sub)) => format!("{section} \"{}\"", quote(sub)),
            None => section.to_owned(),
        };
        file.push_str(&format!("[{section}]\n\t{key} = \"{}\"\n", quote(value)));
    }
    file.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_names_the_limits_that_have_no_effect() {
        let limits = |memory, processes| Limits { memory, processes };
        let able = |memory, processes| Limitable { memory, processes };
        let both = limits(Some(1), Some(1));
        for (limits, able, counts, named) in [
            (both, able(true, true), false, None),
            (
                both,
                able(false, false),
                false,
                Some("sandbox_memory and sandbox_processes have no effect"),
            ),
            (
                both,
                able(false, false),
                true,
                Some("sandbox_memory has no effect"),
            ),
            (
                both,
                able(true, false),
                false,
                Some("sandbox_processes has no effect"),
            ),
            (limits(None, Some(1)), able(false, false), true, None),
            (
                limits(Some(1), None),
                able(false, false),
                false,
                Some("sandbox_memory has no effect"),
            ),
        ] {
            let note = without_effect(limits, able, counts);
            assert_eq!(note.is_some(), named.is_some(), "{note:?}");
            assert!(note.unwrap_or_default().contains(named.unwrap_or_default()));
        }
    }
}
