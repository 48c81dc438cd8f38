//! Which commits came from elsewhere: from a remote, or from the branch that a worktree started from. They are not the
//! work of the session that pulled them or was rebased onto them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::git::{Git, GitError};
use kugetsu_api::Worktree;

/// The most branches that are looked at, the newest first.
const MAX_BRANCHES: usize = 100;
/// The most entries of the reflogs that are read.
const MAX_ENTRIES: usize = 2000;
/// The most commits of one branch that are tried.
const MAX_TRIED: usize = 10;
/// What git writes into the reflog of a remote's branch when it has pushed to it.
const PUSHED: &str = "update by push";

/// The commits that others have brought, each with its history. Empty if there are no such branches.
///
/// A commit that was pushed from this clone is not one of them, and neither is one that contains `head`: a merged branch
/// stays the work of its session.
pub(crate) fn upstream(git: &Git, head: &str, worktree: Option<&Worktree>) -> Result<Vec<String>, GitError> {
    let mut patterns = vec!["refs/remotes".to_owned()];
    let base = worktree.and_then(|worktree| worktree.base_branch.as_ref());
    if let Some(local) = base.filter(|base| !base.starts_with("refs/")) {
        patterns.push(format!("refs/heads/{local}"));
    }
    let list = |args: &[String]| {
        let output = git.run(
            ["for-each-ref"]
                .into_iter()
                .chain(args.iter().map(String::as_str)),
        )?;
        let output = output.text();
        let refs = output.lines().filter_map(|line| line.split_once(' '));
        let refs = refs.map(|(commit, name)| (name.to_owned(), commit.to_owned()));
        Ok::<BTreeMap<_, _>, GitError>(refs.collect())
    };
    let mut args = vec!["--format=%(objectname) %(refname)".to_owned()];
    args.extend(patterns);
    let mut newest = args.clone();
    newest.extend([
        "--sort=-committerdate".to_owned(),
        format!("--count={MAX_BRANCHES}"),
    ]);
    let mut branches = list(&newest)?;
    if let Some(worktree) = worktree {
        let own = format!("/{}", worktree.branch);
        branches.retain(|name, _| !(name.starts_with("refs/remotes/") && name.ends_with(&own)));
    }
    if branches.is_empty() {
        return Ok(Vec::new());
    }
    args.push(format!("--contains={head}"));
    let containing = list(&args)?;
    let most = format!("--max-count={MAX_ENTRIES}");
    let args = [
        "log",
        "--no-show-signature",
        "--walk-reflogs",
        "--format=%gD%x00%H%x00%gs",
        &most,
    ];
    let names = branches.keys().map(String::as_str);
    let output = git.run(args.into_iter().chain(names).chain(["--"]))?;
    let entries = entries(&output.stdout);
    let mut found = BTreeSet::new();
    // Branches share many commits.
    let mut descends = HashMap::new();
    for (name, tip) in branches {
        let remote = name.starts_with("refs/remotes/");
        let tip = [(tip, String::new())];
        let known = entries.get(&name);
        let history = known.map_or(&tip[..], Vec::as_slice);
        let brought = history.iter().filter(|(_, how)| how != PUSHED);
        for (commit, _) in brought.take(MAX_TRIED) {
            let counts = if commit == head {
                // A remote's commit that is checked out was pulled; that of a local branch may have been merged into
                // it. Without a reflog, the commit may have been pushed as well.
                remote && known.is_some()
            } else if !containing.contains_key(&name) {
                true
            } else if let Some(descends) = descends.get(commit) {
                !descends
            } else {
                let answer = is_ancestor(git, head, commit)?;
                descends.insert(commit.clone(), answer);
                !answer
            };
            if counts {
                found.insert(commit.clone());
                break;
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// The commit to compare with instead of `start`: a later one if the head was rebased onto it, or has merged it. If git
/// cannot tell, `start`: the difference then has the commits of others as well.
pub(crate) fn later_start(git: &Git, start: String, worktree: Option<&Worktree>) -> String {
    match find_later_start(git, &start, worktree) {
        Ok(later) => later.unwrap_or(start),
        Err(error) => {
            tracing::warn!("commits of others count as the session's: {error}");
            start
        }
    }
}

fn find_later_start(git: &Git, start: &str, worktree: Option<&Worktree>) -> Result<Option<String>, GitError> {
    let Some(head) = git.commit("HEAD")?.filter(|head| head != start) else {
        return Ok(None);
    };
    let upstream = upstream(git, &head, worktree)?;
    if upstream.is_empty() {
        return Ok(None);
    }
    let args = ["merge-base", &head].into_iter();
    let output = git.ask(args.chain(upstream.iter().map(String::as_str)))?;
    let later = output.text();
    let is_later = output.ok && is_ancestor(git, start, &later)?;
    Ok(is_later.then_some(later))
}

fn is_ancestor(git: &Git, of: &str, commit: &str) -> Result<bool, GitError> {
    Ok(git.ask(["merge-base", "--is-ancestor", of, commit])?.ok)
}

/// The commits of each branch with git's message, the newest first.
fn entries(output: &[u8]) -> BTreeMap<String, Vec<(String, String)>> {
    let mut entries: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in String::from_utf8_lossy(output).lines() {
        let mut fields = line.splitn(3, '\0');
        if let (Some(selector), Some(commit), Some(how)) = (fields.next(), fields.next(), fields.next())
            && let Some((name, _)) = selector.split_once("@{")
        {
            let of_branch = entries.entry(name.to_owned()).or_default();
            of_branch.push((commit.to_owned(), how.to_owned()));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_entries_of_a_branch_stay_in_order() {
        let parsed =
            entries(b"refs/remotes/o/main@{0}\0bb\0update by push\nrefs/remotes/o/main@{1}\0aa\0fetch\n");
        let expected = [("bb", PUSHED), ("aa", "fetch")].map(|(commit, how)| (commit.into(), how.into()));
        assert_eq!(parsed["refs/remotes/o/main"], expected);
    }

    proptest! {
        #[test]
        fn any_output_is_read_without_a_panic(output: Vec<u8>) {
            let _ = entries(&output);
        }
    }
}
