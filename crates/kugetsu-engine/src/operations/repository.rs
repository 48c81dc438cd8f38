//! Finds the repository that a folder is a clone of.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{Engine, EngineError};
use crate::process::{self, GuardSpec, Sink};
use kugetsu_api::RepoRef;

/// The remotes that name the repository of the issues, in the order of preference. In a clone of a fork, `upstream` is
/// the repository that was forked.
const PREFERRED: [&str; 2] = ["upstream", "origin"];

/// Hosts of forges, with those that serve ssh over port 443.
const FORGES: [&str; 7] = [
    "github.com",
    "ssh.github.com",
    "gitlab.com",
    "altssh.gitlab.com",
    "bitbucket.org",
    "altssh.bitbucket.org",
    "codeberg.org",
];

/// How long `ssh -G` may take. It only reads the configuration, but the configuration may run programs.
const SSH_LIMIT: Duration = Duration::from_secs(5);

/// The repository of a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneRepo {
    /// The repository whose issues the clone works on.
    pub repo: RepoRef,
    /// The name of the remote that says so.
    pub remote: String,
}

#[derive(Debug, Default)]
struct Remote {
    url: String,
    /// The choice of `gh repo set-default`: `base`, or the owner and name of a repository on the remote's host.
    resolved: Option<String>,
}

impl Engine {
    /// The repository whose issues a clone works on; `None` outside a clone, or in a clone without remotes. Blocks.
    ///
    /// The remote is the one that `gh repo set-default` chose, else `upstream`, else `origin`, else the only one.
    pub fn repository_of(&self, folder: &Path) -> Result<Option<CloneRepo>, EngineError> {
        let git = self.git().at(folder);
        // Scope, key and value, one after the other. A remote of the user's own configuration is not one of the clone.
        let listed = git.ask(["config", "--null", "--show-scope", "--list"])?;
        if !listed.ok && !listed.stderr.trim().is_empty() {
            return Err(git.failed("config", &listed.stderr).into());
        }
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let (mut remotes, mut rewritten) = (BTreeMap::<String, Remote>::new(), false);
        let mut fields = text.split('\0');
        while let (Some(scope), Some(entry)) = (fields.next(), fields.next()) {
            let Some((key, value)) = entry.split_once('\n') else {
                continue;
            };
            rewritten |= key.starts_with("url.") && key.ends_with(".insteadof");
            let named = key.strip_prefix("remote.").and_then(|key| key.rsplit_once('.'));
            let Some((name, variable)) = named.filter(|_| ["local", "worktree"].contains(&scope)) else {
                continue;
            };
            let remote = remotes.entry(name.to_owned()).or_default();
            match variable {
                // A remote may have further addresses, which only `git push` uses.
                "url" if remote.url.is_empty() => value.clone_into(&mut remote.url),
                "gh-resolved" => remote.resolved = Some(value.to_owned()),
                _ => {}
            }
        }
        remotes.retain(|_, remote| !remote.url.is_empty());
        if remotes.is_empty() {
            return Ok(None);
        }
        let name = choose(&remotes)?;
        let remote = &remotes[&name];
        let mut url = remote.url.clone();
        if rewritten {
            url = git.run(["remote", "get-url", "--", &name])?.text();
        }
        let mut repo = RepoRef::from_remote_url(&self.without_ssh_alias(folder, &url))?;
        if let Some(other) = remote.resolved.as_deref().filter(|other| *other != "base") {
            repo = RepoRef::try_from(format!("{}/{other}", repo.instance()))?;
        }
        Ok(Some(CloneRepo { repo, remote: name }))
    }

    /// The repository that one remote of a clone names, whichever names the repository of the issues. Blocks.
    pub fn repository_of_remote(&self, folder: &Path, remote: &str) -> Result<Option<RepoRef>, EngineError> {
        let asked = self.git().at(folder).ask(["remote", "get-url", "--", remote])?;
        if !asked.ok {
            return Ok(None);
        }
        let url = self.without_ssh_alias(folder, asked.text().trim());
        Ok(Some(RepoRef::from_remote_url(&url)?))
    }

    /// The top folder of the clone that contains `folder`, if there is one. Blocks.
    pub(super) fn top_of(&self, folder: &Path) -> Result<Option<PathBuf>, EngineError> {
        Ok(self.git().at(folder).top()?)
    }

    /// Whether a folder is in a bare repository, which has no files to work on. Blocks.
    pub(super) fn is_bare(&self, folder: &Path) -> Result<bool, EngineError> {
        let output = self.git().at(folder).ask(["rev-parse", "--is-bare-repository"])?;
        Ok(output.ok && output.text() == "true")
    }

    /// Replaces the host of a remote's address if the host is a name of the user's ssh configuration, as in
    /// `git@github-work:owner/repo.git`. A name with a dot may be a host of its own, so it is replaced only by a known
    /// forge.
    fn without_ssh_alias(&self, folder: &Path, url: &str) -> String {
        let Some(place) = ssh_host(url).filter(|place| !FORGES.contains(&&url[place.clone()])) else {
            return url.to_owned();
        };
        let host = &url[place.clone()];
        let spec = GuardSpec {
            program: "ssh".into(),
            args: ["-G", "--", host].map(Into::into).to_vec(),
            cwd: folder.to_owned(),
            set_env: Vec::new(),
            remove_env: Vec::new(),
            stdin: Arc::from([]),
            sandbox: None,
            containment: self.containment(Uuid::now_v7()),
            stdout: Sink::Piped,
            stderr: Sink::Piped,
        };
        let Ok(output) = process::run_until_cancelled(spec, SSH_LIMIT, &self.cancel) else {
            return url.to_owned();
        };
        let configuration = String::from_utf8_lossy(&output.stdout);
        let real = configuration
            .lines()
            .find_map(|line| line.strip_prefix("hostname "));
        match real {
            Some(real) if output.exit.success() && (!host.contains('.') || FORGES.contains(&real)) => {
                format!("{}{real}{}", &url[..place.start], &url[place.end..])
            }
            _ => url.to_owned(),
        }
    }
}

fn choose(remotes: &BTreeMap<String, Remote>) -> Result<String, EngineError> {
    let resolved = remotes.iter().find(|(_, remote)| remote.resolved.is_some());
    let preferred = || PREFERRED.iter().find_map(|name| remotes.get_key_value(*name));
    let only = || remotes.iter().next().filter(|_| remotes.len() == 1);
    match resolved.or_else(preferred).or_else(only) {
        Some((name, _)) => Ok(name.clone()),
        None => Err(EngineError::Usage {
            problem: format!(
                "this clone has the remotes {}, and none of them is called upstream or origin",
                remotes.keys().cloned().collect::<Vec<_>>().join(", ")
            ),
            hint: "write the whole reference, or choose a remote: git config remote.NAME.gh-resolved base"
                .to_owned(),
        }),
    }
}

/// The place of the host in an ssh address: `ssh://user@host:port/path`, or `user@host:path`.
fn ssh_host(url: &str) -> Option<Range<usize>> {
    let (start, authority) = match url.strip_prefix("ssh://") {
        Some(rest) => ("ssh://".len(), rest.split('/').next()?),
        None if url.contains("://") => return None,
        None => {
            let (authority, _) = url.split_once(':')?;
            // A slash before the colon makes it a path.
            (0, (!authority.contains('/')).then_some(authority)?)
        }
    };
    let user = authority.rfind('@').map_or(0, |at| at + 1);
    let host = &authority[user..];
    let host = host.split_once(':').map_or(host, |(host, _)| host);
    let start = start + user;
    (!host.is_empty() && !host.starts_with('-')).then_some(start..start + host.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_ssh_address_is_found() {
        for (url, host) in [
            ("git@github-work:o/r.git", Some("github-work")),
            ("github-work:o/r.git", Some("github-work")),
            ("ssh://git@work:2222/o/r.git", Some("work")),
            ("ssh://work/o/r", Some("work")),
            ("https://github.com/o/r", None),
            ("/srv/git:x/r.git", None),
            ("./r:x", None),
            ("-oProxyCommand=x:o/r", None),
            ("git@git:o/r", Some("git")),
            ("ssh://ssh/o/r", Some("ssh")),
            ("nothing", None),
        ] {
            assert_eq!(ssh_host(url).map(|place| &url[place]), host, "{url}");
        }
    }
}
