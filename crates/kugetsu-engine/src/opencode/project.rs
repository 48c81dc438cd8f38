//! What a repository brings for opencode, and how opencode is kept from loading it.
//!
//! Measured on 1.3.2 and 1.18.33, in the top of a clone, in a subfolder and in a linked worktree, with `run` and `serve`:
//!
//! - From the working directory up to the top of the clone (without git: up to `/`), opencode loads `opencode.json` and
//!   `opencode.jsonc`, `.opencode/opencode.json(c)`, and what is in `.opencode/` (`plugin(s)`, `tool(s)`, `agent(s)`,
//!   `mode(s)`, `command(s)`, `skill(s)`), and skills in `.claude/skills` and `.agents/skills`. Plugins, tools, MCP
//!   servers, language servers and formatters of these run as the user.
//! - `OPENCODE_DISABLE_PROJECT_CONFIG=1` turns off all of it but the skills in `.claude` and `.agents`, and
//!   `AGENTS.md`, `CLAUDE.md` and `CONTEXT.md` of the project as well. `OPENCODE_DISABLE_EXTERNAL_SKILLS=1` turns off
//!   those skills, and also the user's own in `~/.claude` and `~/.agents`.
//! - **1.18.33 runs the plugins of the project all the same** when it delivers a prompt, those in
//!   `.opencode/plugin(s)/*.{js,ts}` and those that a configuration of the project names, which it would install from
//!   npm. No variable prevents that: `OPENCODE_PURE` and `OPENCODE_DISABLE_DEFAULT_PLUGINS` do not. Other commands,
//!   and `serve` before the first prompt, do not run them. So a prompt in such a folder is refused.
//! - Language servers and formatters that opencode knows itself run programs of the project (`node_modules/.bin`):
//!   1.3.2 starts them unless `lsp` and `formatter` are `false`; 1.18.33 only if they are configured.
//! - `bunfig.toml` and `.env` of the working directory are not read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::config_problem::ConfigProblem;
use super::jsonc;
use super::provider::UserFiles;
use crate::environment::Environment;
use crate::fsx;
use crate::git::top_of;

/// The variables that keep opencode from loading what the repository brings.
pub(super) const IGNORE_PROJECT: [(&str, &str); 2] = [
    ("OPENCODE_DISABLE_PROJECT_CONFIG", "1"),
    ("OPENCODE_DISABLE_EXTERNAL_SKILLS", "1"),
];

/// The configuration files of a project, in each folder and in `.opencode`.
const CONFIGS: [&str; 4] = ["opencode.json", "opencode.jsonc", "tui.json", "tui.jsonc"];
/// The folders in `.opencode` that opencode loads, and what is in them.
const FOLDERS: [(&str, &str); 12] = [
    ("plugin", "plugin"),
    ("plugins", "plugin"),
    ("tool", "tool"),
    ("tools", "tool"),
    ("agent", "agent"),
    ("agents", "agent"),
    ("mode", "agent"),
    ("modes", "agent"),
    ("command", "command"),
    ("commands", "command"),
    ("skill", "skill"),
    ("skills", "skill"),
];
/// What opencode itself writes into `.opencode`. `package.json` is read without opencode's own entry.
const OF_OPENCODE: [&str; 6] = [
    "node_modules",
    "plans",
    ".gitignore",
    "bun.lock",
    "bun.lockb",
    "package-lock.json",
];
/// Folders whose `skills` opencode loads.
const SKILL_FOLDERS: [&str; 2] = [".claude", ".agents"];
/// Keys of a configuration that make opencode run something.
const RUNNING_KEYS: [&str; 7] = [
    "plugin",
    "mcp",
    "lsp",
    "formatter",
    "provider",
    "command",
    "agent",
];
/// Keys of a configuration that 1.18.33 follows even in an ignored project.
const UNSTOPPABLE_KEYS: [&str; 4] = ["plugin", "plugins", "reference", "references"];

/// The limits of a scan. Beyond them the project cannot be trusted, because not all of it is known.
const MAX_FILES: usize = 2000;
const MAX_FILE: u64 = 4 << 20;
const MAX_DEPTH: usize = 10;

/// What a repository brings for opencode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectParts {
    /// Each part with its path from the top of the clone, for people: `plugin .opencode/plugin/p.js`.
    pub parts: BTreeSet<String>,
    /// SHA-256 over all of it; `None` if it is too much to be read whole, or cannot be read.
    pub digest: Option<String>,
    /// What opencode 1.18.33 runs although the project is ignored.
    pub unstoppable: BTreeSet<String>,
    /// The first configuration that opencode cannot parse.
    pub broken: Option<ConfigProblem>,
}

impl ProjectParts {
    /// Reads what opencode would load in this folder.
    pub fn of(directory: &Path, home: &Path) -> Self {
        let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let (top, certain) = git_top(&directory);
        let mut scan = Scan {
            top,
            found: Self::default(),
            hash: Sha256::new(),
            files: 0,
            complete: certain,
            certain,
        };
        for folder in directory.ancestors() {
            scan.folder(folder, home);
            if folder == top {
                break;
            }
        }
        let digest = hex::encode(scan.hash.finalize());
        scan.found.digest = scan.complete.then_some(digest);
        scan.found
    }

    /// Whether something of it runs inside opencode: plugins, tools, or what a configuration names.
    pub fn run_inside(&self) -> bool {
        !self.unstoppable.is_empty() || self.parts.iter().any(|part| runs(part))
    }

    /// At most `max` parts, for one line.
    pub fn summary(&self) -> String {
        list(&self.parts)
    }
}

/// SHA-256 over what the user has configured for opencode in files, which a server reads once; `None` if it is too much to
/// be read whole, or cannot be read.
pub fn user_configuration(environment: &Environment) -> Option<[u8; 32]> {
    let files = UserFiles::of(environment);
    let mut scan = Scan {
        top: Path::new("/"),
        found: ProjectParts::default(),
        hash: Sha256::new(),
        files: 0,
        complete: true,
        certain: false,
    };
    let home = environment.home();
    let mut folders = vec![files.config, home.join(".opencode")];
    for name in SKILL_FOLDERS {
        folders.push(home.join(name).join("skills"));
    }
    let mut single = vec![files.data.join("auth.json")];
    for path in UserFiles::further_config(environment) {
        if path.is_dir() {
            folders.push(path);
        } else {
            single.push(path);
        }
    }
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        scan.configuration_folder(folder);
    }
    for file in &single {
        if file.exists() {
            scan.file(file);
        }
    }
    scan.complete.then(|| scan.hash.finalize().into())
}

/// The folder up to which opencode looks: the top of the clone, or `/`. False if a `.git` on the way is not a repository,
/// as a tool may have left it: then git and opencode may look further up.
fn git_top(directory: &Path) -> (&Path, bool) {
    let mut certain = true;
    for folder in directory.ancestors() {
        let git = folder.join(".git");
        if git.symlink_metadata().is_err() {
            continue;
        }
        if is_repository(&git) {
            return (folder, certain);
        }
        certain = false;
    }
    (Path::new("/"), certain)
}

fn is_repository(git: &Path) -> bool {
    if git.is_dir() {
        return git.join("HEAD").exists() && git.join("objects").is_dir() && git.join("refs").is_dir();
    }
    // A linked worktree or a submodule names its repository.
    let Ok(text) = fsx::read_bounded(git, 64 << 10) else {
        return false;
    };
    let text = String::from_utf8_lossy(&text);
    let Some(target) = text.strip_prefix("gitdir: ") else {
        return false;
    };
    let target = git.with_file_name(target.trim_end());
    target.join("HEAD").exists() && (target.join("commondir").exists() || target.join("objects").is_dir())
}

/// The first parts of a set, those that run programs before the others, and the number of the rest.
pub fn list(parts: &BTreeSet<String>) -> String {
    const SHOWN: usize = 6;
    let (first, rest): (Vec<&String>, Vec<&String>) = parts.iter().partition(|part| runs(part));
    let all = [first, rest].concat();
    let shown: Vec<_> = all.iter().take(SHOWN).map(|part| part.as_str()).collect();
    let more = all.len() - shown.len();
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    format!("{}{more}", shown.join(", "))
}

/// Whether a part runs programs.
fn runs(part: &str) -> bool {
    part.contains(" (")
        || ["plugin ", "tool ", "packages "]
            .iter()
            .any(|kind| part.starts_with(kind))
}

struct Scan<'a> {
    top: &'a Path,
    found: ProjectParts,
    hash: Sha256,
    files: usize,
    complete: bool,
    /// Whether `top` is where opencode stops.
    certain: bool,
}

impl Scan<'_> {
    fn folder(&mut self, folder: &Path, home: &Path) {
        for name in CONFIGS {
            self.config(&folder.join(name));
        }
        for name in SKILL_FOLDERS {
            // Those of the home are the user's own.
            if folder != home {
                self.walk(&folder.join(name).join("skills"), Some("skill"), 0);
            }
        }
        let own = folder.join(".opencode");
        if folder == home || !own.is_dir() {
            return;
        }
        self.configuration_folder(&own);
    }

    /// A folder with configurations, plugins, agents and the like: `.opencode`, or that of the user.
    fn configuration_folder(&mut self, own: &Path) {
        for name in CONFIGS {
            self.config(&own.join(name));
        }
        for name in self.names(own) {
            let path = own.join(&name);
            let name = name.to_string_lossy();
            if CONFIGS.contains(&&*name) || OF_OPENCODE.contains(&&*name) || name == ".git" {
                continue;
            }
            if name == "package.json" {
                self.package(&path);
                continue;
            }
            let kind = FOLDERS.iter().find(|(folder, _)| *folder == name);
            self.walk(&path, kind.map(|(_, kind)| *kind), 0);
        }
    }

    fn config(&mut self, path: &Path) {
        let Some(bytes) = self.read(path) else {
            return;
        };
        let text = String::from_utf8_lossy(&bytes);
        self.add(path, &without_schema(&text));
        let shown = self.shown(path);
        let is_tui = shown.ends_with("tui.json") || shown.ends_with("tui.jsonc");
        // If opencode stops at a lower folder, it does not read this file.
        if !is_tui && self.certain && self.found.broken.is_none() {
            self.found.broken = ConfigProblem::of_text(path, &text);
        }
        match jsonc::keys(&text) {
            Some(keys) => {
                let of = |wanted: &[&str]| -> Vec<&str> {
                    let mut names: Vec<_> = keys.iter().map(String::as_str).collect();
                    names.retain(|key| wanted.contains(key));
                    names
                };
                let running = of(&RUNNING_KEYS);
                let unstoppable = of(&UNSTOPPABLE_KEYS);
                self.found.parts.insert(if running.is_empty() {
                    shown.clone()
                } else {
                    format!("{shown} ({})", running.join(", "))
                });
                if !unstoppable.is_empty() && !is_tui {
                    self.found
                        .unstoppable
                        .insert(format!("{shown} ({})", unstoppable.join(", ")));
                }
            }
            None => {
                // opencode may read it differently.
                self.found.parts.insert(shown.clone());
                if !is_tui {
                    self.found.unstoppable.insert(format!("{shown} (not valid JSON)"));
                }
            }
        }
    }

    /// `package.json` names what opencode installs for plugins and tools, and opencode adds an entry of its own to it.
    fn package(&mut self, path: &Path) {
        let Some(bytes) = self.read(path) else {
            return;
        };
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut bare = false;
        if let Some(package) = value.as_object_mut() {
            if let Some(dependencies) = package.get_mut("dependencies").and_then(|it| it.as_object_mut()) {
                dependencies.remove("@opencode-ai/plugin");
            }
            bare = package.iter().all(|(key, value)| {
                key == "dependencies" && value.as_object().is_some_and(serde_json::Map::is_empty)
            });
        }
        if !bare {
            self.found.parts.insert(format!("packages {}", self.shown(path)));
            let text = if value.is_null() {
                bytes
            } else {
                value.to_string().into_bytes()
            };
            self.add(path, &text);
        }
    }

    /// Everything below a folder of `.opencode`. `kind` tells what it holds, if opencode loads it.
    fn walk(&mut self, path: &Path, kind: Option<&str>, depth: usize) {
        let Ok(metadata) = path.symlink_metadata() else {
            return;
        };
        if depth > MAX_DEPTH {
            self.complete = false;
            return;
        }
        if metadata.is_symlink()
            && let Ok(target) = path.read_link()
        {
            self.add(path, target.as_os_str().as_encoded_bytes());
        }
        if path.is_dir() {
            for name in self.names(path) {
                self.walk(&path.join(name), kind, depth + 1);
            }
            return;
        }
        if self.file(path).is_none() {
            return;
        }
        let Some(kind) = kind else {
            return;
        };
        let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        let counts = match kind {
            "plugin" | "tool" => ["js", "ts"].contains(&ending),
            "skill" => path.file_name() == Some(OsStr::new("SKILL.md")),
            _ => ending == "md",
        };
        if counts {
            let part = format!("{kind} {}", self.shown(path));
            if kind == "plugin" {
                self.found.unstoppable.insert(part.clone());
            }
            self.found.parts.insert(part);
        }
    }

    /// The sorted names in a folder.
    fn names(&mut self, folder: &Path) -> Vec<std::ffi::OsString> {
        let mut names = Vec::new();
        match std::fs::read_dir(folder) {
            Ok(entries) => {
                for entry in entries.take(MAX_FILES + 1) {
                    match entry {
                        Ok(entry) => names.push(entry.file_name()),
                        Err(_) => self.complete = false,
                    }
                }
            }
            Err(_) => self.complete = false,
        }
        if names.len() > MAX_FILES {
            self.complete = false;
        }
        names.sort();
        names
    }

    fn file(&mut self, path: &Path) -> Option<Vec<u8>> {
        let bytes = self.read(path)?;
        self.add(path, &bytes);
        Some(bytes)
    }

    /// The content of a file, as opencode would read it: links are followed.
    fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        let metadata = path.symlink_metadata().ok()?;
        self.files += 1;
        if self.files > MAX_FILES {
            self.complete = false;
            return None;
        }
        if metadata.is_symlink()
            && let Ok(target) = path.read_link()
        {
            self.add(path, target.as_os_str().as_encoded_bytes());
        }
        let real = path.canonicalize().ok()?;
        match fsx::read_bounded(&real, MAX_FILE) {
            Ok(bytes) => Some(bytes),
            Err(_) => {
                self.complete = false;
                self.found.parts.insert(self.shown(path));
                None
            }
        }
    }

    fn add(&mut self, path: &Path, content: &[u8]) {
        let name = path
            .strip_prefix(self.top)
            .unwrap_or(path)
            .as_os_str()
            .as_encoded_bytes();
        for part in [name, content] {
            self.hash.update((part.len() as u64).to_be_bytes());
            self.hash.update(part);
        }
    }

    fn shown(&self, path: &Path) -> String {
        let path = path.strip_prefix(self.top).unwrap_or(path);
        // A name may hold control characters, which would reach a terminal.
        path.to_string_lossy()
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect()
    }
}

/// A configuration without its `$schema`, which opencode adds to a file that lacks it.
fn without_schema(text: &str) -> Vec<u8> {
    match jsonc::value(text) {
        Some(serde_json::Value::Object(mut config)) => {
            config.remove("$schema");
            serde_json::Value::Object(config).to_string().into_bytes()
        }
        _ => text.as_bytes().to_vec(),
    }
}

/// The instructions of a project, which are text only, and which opencode leaves out together with what would run: the
/// first of these names that is there, in each folder up to the top. A link is left out, because it could lead to any
/// file of the user.
pub(super) fn instructions(directory: &Path, environment: &Environment) -> Vec<PathBuf> {
    let is_on = |name: &str| {
        let value = environment
            .get(name)
            .map(|value| value.to_string_lossy().to_lowercase());
        value.is_some_and(|value| value == "1" || value == "true")
    };
    let without_claude =
        is_on("OPENCODE_DISABLE_CLAUDE_CODE") || is_on("OPENCODE_DISABLE_CLAUDE_CODE_PROMPT");
    let Some(top) = top_of(directory) else {
        return Vec::new();
    };
    for name in ["AGENTS.md", "CLAUDE.md", "CONTEXT.md"] {
        if name == "CLAUDE.md" && without_claude {
            continue;
        }
        let mut found = Vec::new();
        for folder in directory.ancestors() {
            let file = folder.join(name);
            if file.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                found.push(file);
            }
            if folder == top {
                break;
            }
        }
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write what a repository brings")]
mod tests {
    use std::fs;

    use super::*;

    fn repository() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap().join("clone");
        for name in [".git/objects", ".git/refs", "sub", ".opencode/plugin"] {
            fs::create_dir_all(top.join(name)).unwrap();
        }
        fs::write(top.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(top.join(".opencode/plugin/p.js"), "1").unwrap();
        (folder, top)
    }

    fn parts(directory: &Path) -> ProjectParts {
        ProjectParts::of(directory, Path::new("/nowhere"))
    }

    fn names(found: &ProjectParts) -> Vec<&str> {
        found.parts.iter().map(String::as_str).collect()
    }

    #[test]
    fn everything_up_to_the_top_counts_and_nothing_above() {
        let (folder, top) = repository();
        fs::write(folder.path().join("opencode.json"), "{}").unwrap();
        fs::write(top.join("sub/opencode.jsonc"), "{\"\\u006dcp\": {}, // c\n}").unwrap();
        let found = parts(&top.join("sub"));
        assert_eq!(
            names(&found),
            ["plugin .opencode/plugin/p.js", "sub/opencode.jsonc (mcp)"]
        );
        assert_eq!(found.unstoppable.len(), 1);
        assert!(found.digest.is_some());
        assert_ne!(found.digest, parts(&top).digest);
        // The same files in another place are the same.
        let (_other, other) = repository();
        assert_eq!(parts(&top).digest, parts(&other).digest);
    }

    #[test]
    fn a_false_top_hides_nothing_and_is_not_trusted() {
        let (_folder, top) = repository();
        let sub = top.join("sub");
        for text in ["", "gitdir: /nowhere\n", "x"] {
            fs::write(sub.join(".git"), text).unwrap();
            let found = parts(&sub);
            assert_eq!(
                (names(&found), found.digest.clone()),
                (vec!["plugin .opencode/plugin/p.js"], None),
                "{text}"
            );
        }
        fs::remove_file(sub.join(".git")).unwrap();
        fs::create_dir(sub.join(".git")).unwrap();
        assert_eq!((names(&parts(&sub)).len(), parts(&sub).digest), (1, None));
    }

    #[test]
    fn configurations_that_1_18_33_follows_all_the_same_are_found() {
        let (_folder, top) = repository();
        fs::remove_dir_all(top.join(".opencode")).unwrap();
        for (text, hostile) in [
            ("{\"plugin\": []}", true),
            ("{\"\\u0070lugin\": [\"x\"]}", true),
            ("{\"references\": {}}", true),
            ("{\"plugin\": [], \"plugin\": 1}", true),
            ("{\"model\": ", true),
            ("{\"mcp\": {}}", false),
            ("", false),
        ] {
            fs::write(top.join("opencode.json"), text).unwrap();
            assert_eq!(!parts(&top).unstoppable.is_empty(), hostile, "{text}");
        }
    }

    #[test]
    fn links_are_followed_within_limits() {
        let (folder, top) = repository();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("t.ts"), "1").unwrap();
        std::os::unix::fs::symlink(&outside, top.join(".opencode/tool")).unwrap();
        let before = parts(&top);
        assert!(names(&before).contains(&"tool .opencode/tool/t.ts"), "{before:?}");
        fs::write(outside.join("t.ts"), "2").unwrap();
        assert_ne!(before.digest, parts(&top).digest);
        std::os::unix::fs::symlink(&top, outside.join("loop")).unwrap();
        assert_eq!(parts(&top).digest, None);
    }
}
