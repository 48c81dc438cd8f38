//! What keeps git from running programs that a repository's configuration names. The tools of a turn can write that
//! configuration, so only the user's own one (system, global, environment) may name a program.
//!
//! What never runs is turned off by [`SETTINGS`] and [`VARIABLES`]. Everything else that names a program is in
//! [`RULES`]: where the repository sets it, git gets the user's value instead, or a harmless one. The names of filters
//! and drivers are free, so the configuration has to be read for that.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Settings of every git command.
pub(super) const SETTINGS: [&str; 7] = [
    // A monitor of the file system may be a daemon that stays.
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "gc.auto=0",
    "log.showSignature=false",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    // A submodule has a configuration of its own.
    "submodule.recurse=false",
];

/// Variables of every git command.
pub(super) const VARIABLES: [(&str, &str); 4] = [
    // A turn can write references that show other contents for a commit.
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    // git does not start an editor of this name.
    ("GIT_EDITOR", ":"),
    ("GIT_SEQUENCE_EDITOR", ":"),
    // No proxy program, whatever `core.gitProxy` says: git uses the first of several values.
    ("GIT_PROXY_COMMAND", ""),
];

/// How a setting of the repository is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instead {
    /// By the user's value, or by this one.
    Or(&'static str),
    /// By the user's value, or by the pager that git would use.
    Pager,
    /// By the user's value, or by the program that git itself has for the format.
    Gpg,
    /// By all of the user's values: git asks one helper after the other.
    Helpers,
    /// By the folder that holds `.git`. Otherwise git could write the files of a commit into another folder, such as
    /// the user's home.
    Top,
    /// It cannot be replaced, because git uses the first of several values. It matters only where git fetches objects
    /// that a partial clone lacks, so git does not fetch any.
    NoFetch,
}

/// Any variable of a section.
const ANY: &str = "*";
/// What git does without a merge driver: it merges the lines. The marks of conflicts keep their size.
const MERGE_LINES: &str = "git merge-file --marker-size=%L %A %O %B";

/// Every setting that names a program: section, variable in lower case, and what git gets instead.
const RULES: [(&str, &str, Instead); 21] = [
    ("commit", "gpgsign", Instead::Or("false")),
    ("core", "alternaterefscommand", Instead::Or(":")),
    ("core", "askpass", Instead::Or("")),
    ("core", "pager", Instead::Pager),
    ("core", "sshcommand", Instead::Or("ssh")),
    ("core", "worktree", Instead::Top),
    ("credential", "helper", Instead::Helpers),
    ("diff", "command", Instead::Or(":")),
    ("diff", "external", Instead::Or(":")),
    ("diff", "textconv", Instead::Or("cat")),
    ("filter", "clean", Instead::Or("")),
    ("filter", "process", Instead::Or("")),
    // git must not fail because a filter that it does not run is required.
    ("filter", "required", Instead::Or("false")),
    ("filter", "smudge", Instead::Or("")),
    ("gpg", "defaultkeycommand", Instead::Or("false")),
    ("gpg", "program", Instead::Gpg),
    ("hook", "command", Instead::Or(":")),
    ("merge", "driver", Instead::Or(MERGE_LINES)),
    // With `true`, git would go on with the repository's value.
    ("pager", ANY, Instead::Pager),
    ("remote", "uploadpack", Instead::NoFetch),
    ("tag", "gpgsign", Instead::Or("false")),
];

/// Words of which a configuration contains one, in any case, if it sets something in [`RULES`] or includes another file.
/// git allows neither an escape nor a line end within a section or a variable.
pub(super) fn words() -> impl Iterator<Item = &'static str> {
    let of_rules = RULES.iter();
    let of_rules = of_rules.map(|(section, variable, _)| if *variable == ANY { section } else { variable });
    of_rules.copied().chain(["include"])
}

/// One setting in git's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whether it is in the user's own configuration.
    of_user: bool,
    /// The file that it is in, perhaps relative to the top folder; not the path of a file for the user's own ones.
    origin: PathBuf,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Entry {
    /// Parses `git config --list --show-scope --show-origin --null`.
    pub(super) fn with_scopes(output: &[u8]) -> Vec<Self> {
        let mut fields = output.split(|byte| *byte == 0);
        let mut entries = Vec::new();
        while let (Some(scope), Some(origin), Some(setting)) = (fields.next(), fields.next(), fields.next()) {
            let origin = origin.strip_prefix(b"file:").unwrap_or(origin);
            entries.push(Self {
                of_user: [&b"system"[..], b"global", b"command"].contains(&scope),
                ..Self::of(Path::new(OsStr::from_bytes(origin)), setting)
            });
        }
        entries
    }

    /// Parses `git config --list --null --file FILE` for a file of the repository.
    pub(super) fn in_file(file: &Path, output: &[u8]) -> Vec<Self> {
        let settings = output.split(|byte| *byte == 0);
        let settings = settings.filter(|setting| !setting.is_empty());
        settings.map(|setting| Self::of(file, setting)).collect()
    }

    fn of(origin: &Path, setting: &[u8]) -> Self {
        let mut parts = setting.splitn(2, |byte| *byte == b'\n');
        Self {
            of_user: false,
            origin: origin.to_owned(),
            key: parts.next().unwrap_or_default().to_vec(),
            value: parts.next().map(<[u8]>::to_vec),
        }
    }

    /// Section, name between them if there is one, and variable.
    fn parts(&self) -> (&[u8], Option<&[u8]>, &[u8]) {
        let dot = |byte: &u8| *byte == b'.';
        let first = self.key.iter().position(dot).unwrap_or(self.key.len());
        let last = self.key.iter().rposition(dot).unwrap_or(self.key.len());
        let name = self.key.get(first + 1..last).filter(|_| first < last);
        (
            &self.key[..first],
            name,
            self.key.get(last + 1..).unwrap_or_default(),
        )
    }

    fn instead(&self) -> Option<Instead> {
        let (section, _, variable) = self.parts();
        let rule = RULES.iter().find(|(of, named, _)| {
            of.as_bytes() == section && (*named == ANY || named.as_bytes() == variable)
        });
        rule.map(|(.., instead)| *instead)
    }

    /// The file that a setting of the repository includes under a condition; an error if it cannot be known. git reads a
    /// file that is included without a condition by itself.
    pub(super) fn included(&self, top: &Path, home: &Path, all: bool) -> Option<Result<PathBuf, String>> {
        let (section, _, variable) = self.parts();
        let includes = section == b"includeif" || (all && section == b"include");
        if self.of_user || !includes || variable != b"path" {
            return None;
        }
        let value = self.value.as_deref()?;
        let path = Path::new(OsStr::from_bytes(value));
        if let Ok(below) = path.strip_prefix("~") {
            return Some(Ok(home.join(below)));
        }
        if value.starts_with(b"~") || value.starts_with(b"%") {
            return Some(Err(format!(
                "{} includes {}, which kugetsu does not follow",
                self.origin.display(),
                path.display()
            )));
        }
        let file = top.join(&self.origin);
        Some(Ok(file.parent().unwrap_or(top).join(path)))
    }
}

/// What git gets in one folder so that the configuration there runs no program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inert {
    pub(super) settings: Vec<(OsString, OsString)>,
    pub(super) variables: Vec<(&'static str, OsString)>,
    /// The filters that do not run because the user's own configuration does not have them.
    pub(crate) unused_filters: Vec<String>,
}

impl Inert {
    /// `top` is the folder that holds `.git`; `pager` is the one that git uses if no setting names another one.
    pub(super) fn against(entries: &[Entry], top: Option<&Path>, pager: &OsStr) -> Self {
        let mut inert = Self::default();
        let of_user = || entries.iter().filter(|entry| entry.of_user);
        let users_pager = || {
            let known = of_user().rfind(|known| known.key == b"core.pager")?;
            known.value.as_deref().map(OsStr::from_bytes)
        };
        for entry in entries.iter().filter(|entry| !entry.of_user) {
            let Some(instead) = entry.instead() else {
                continue;
            };
            let users = of_user().rfind(|known| known.key == entry.key);
            let users = users.map(|known| known.value.as_deref().unwrap_or(b"true"));
            let users = users.map(|value| OsStr::from_bytes(value).to_owned());
            let (section, name, variable) = entry.parts();
            let value = match instead {
                Instead::Or(value) => users.unwrap_or_else(|| value.into()),
                Instead::Pager => {
                    let users = users.filter(|value| value != "true");
                    users.unwrap_or_else(|| users_pager().unwrap_or(pager).to_owned())
                }
                Instead::Gpg => users.unwrap_or_else(|| gpg(name).into()),
                Instead::Helpers => {
                    inert.only_helpers(of_user().filter(|known| known.instead() == Some(Instead::Helpers)));
                    continue;
                }
                Instead::Top => {
                    inert
                        .variables
                        .extend(top.map(|top| ("GIT_WORK_TREE", top.into())));
                    continue;
                }
                Instead::NoFetch => {
                    inert.variables.push(("GIT_NO_LAZY_FETCH", "1".into()));
                    continue;
                }
            };
            if section == b"filter" && variable != b"required" && value.is_empty() {
                let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
                if !inert.unused_filters.contains(&name) {
                    inert.unused_filters.push(name);
                }
            }
            inert.set(&entry.key, value);
        }
        inert
    }

    /// Makes git ask these helpers and no other one. An empty value makes git forget those before it.
    fn only_helpers<'a>(&mut self, helpers: impl Iterator<Item = &'a Entry>) {
        self.settings.push(("credential.helper".into(), OsString::new()));
        for helper in helpers {
            let value = OsString::from_vec(helper.value.clone().unwrap_or_default());
            self.settings
                .push((OsString::from_vec(helper.key.clone()), value));
        }
    }

    fn set(&mut self, key: &[u8], value: OsString) {
        let key = OsStr::from_bytes(key).to_owned();
        if !self.settings.iter().any(|(known, _)| *known == key) {
            self.settings.push((key, value));
        }
    }

    /// The same for a command that works in two folders.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.settings.extend(other.settings.iter().cloned());
        let others = other
            .variables
            .iter()
            .filter(|(name, _)| *name != "GIT_WORK_TREE");
        both.variables.extend(others.cloned());
        both
    }
}

/// The program that git itself has for a format of signatures.
fn gpg(format: Option<&[u8]>) -> &'static str {
    match format {
        None | Some(b"openpgp") => "gpg",
        Some(b"x509") => "gpgsm",
        Some(b"ssh") => "ssh-keygen",
        Some(_) => "false",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inert(settings: &[(&str, &str)]) -> Inert {
        let fields = settings
            .iter()
            .flat_map(|(scope, setting)| [*scope, "file:.git/config", *setting]);
        let listed = fields.collect::<Vec<_>>().join("\0") + "\0";
        Inert::against(&Entry::with_scopes(listed.as_bytes()), None, "less".as_ref())
    }

    fn set(inert: &Inert, key: &str) -> Option<String> {
        let mut found = inert.settings.iter().filter(|(known, _)| known == key);
        found
            .next_back()
            .map(|(_, value)| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_users_value_replaces_the_repositorys() {
        let found = inert(&[
            ("global", "filter.lfs.clean\ngit-lfs clean -- %f"),
            ("global", "filter.lfs.required"),
            ("local", "filter.lfs.clean\nevil"),
            ("local", "filter.lfs.required\nfalse"),
            ("local", "filter.a.b=c.smudge\nevil"),
            ("worktree", "core.sshcommand\nevil"),
            ("local", "core.pager\nevil"),
            ("global", "pager.diff"),
            ("local", "pager.diff\nevil"),
            ("global", "pager.log\nfalse"),
            ("local", "pager.log\nevil"),
            ("local", "gpg.x509.program\nevil"),
            ("local", "core.autocrlf\ntrue"),
            ("local", "branch.main.merge\nrefs/heads/main"),
        ]);
        for (key, value) in [
            ("filter.lfs.clean", Some("git-lfs clean -- %f")),
            ("filter.lfs.required", Some("true")),
            ("filter.a.b=c.smudge", Some("")),
            ("core.sshcommand", Some("ssh")),
            ("core.pager", Some("less")),
            ("pager.diff", Some("less")),
            ("pager.log", Some("false")),
            ("gpg.x509.program", Some("gpgsm")),
            ("core.autocrlf", None),
            ("branch.main.merge", None),
        ] {
            assert_eq!(set(&found, key).as_deref(), value, "{key}");
        }
        assert_eq!(found.unused_filters, ["a.b=c"]);
    }

    #[test]
    fn what_only_the_user_sets_stays_as_it_is() {
        let found = inert(&[
            ("system", "filter.lfs.clean\ngit-lfs clean -- %f"),
            ("global", "credential.helper\nstore"),
            ("command", "core.sshcommand\nssh -4"),
        ]);
        assert_eq!(found, Inert::default());
    }

    #[test]
    fn only_the_users_helpers_are_asked() {
        let found = inert(&[
            ("global", "credential.https://a.example.helper\nstore"),
            ("local", "credential.helper\nevil"),
        ]);
        let expected = [
            ("credential.helper", ""),
            ("credential.https://a.example.helper", "store"),
        ];
        assert_eq!(
            found.settings,
            expected.map(|(key, value)| (key.into(), value.into()))
        );
    }

    #[test]
    fn a_name_that_is_not_text_stays_the_same_bytes() {
        let entries = Entry::with_scopes(b"local\0file:x\0filter.\xff.clean\nevil\0");
        let found = Inert::against(&entries, None, "less".as_ref());
        assert_eq!(found.settings[0].0.as_bytes(), b"filter.\xff.clean");
    }

    #[test]
    fn the_file_of_a_condition_is_found() {
        let of = |value: &str| {
            let setting = format!("includeif.onbranch:x.path\n{value}");
            let entry = Entry::of(Path::new(".git/config"), setting.as_bytes());
            entry
                .included(Path::new("/clone"), Path::new("/home/me"), false)
                .unwrap()
        };
        assert_eq!(of("more"), Ok("/clone/.git/more".into()));
        assert_eq!(of("/etc/more"), Ok("/etc/more".into()));
        assert_eq!(of("~/more"), Ok("/home/me/more".into()));
        assert!(of("~other/more").is_err());
    }
}
