//! Web addresses of issues and addresses of git remotes.
//!
//! Only the parts that identify the repository and the number are read; user names, passwords, queries and fragments
//! are dropped, so that no record contains them.

use super::{IssueRef, Piece, RefError, RepoRef, instance, number};

/// The segments that precede the number of an issue or a pull request.
const KINDS: [&str; 5] = ["issues", "pull", "pulls", "merge_requests", "work_items"];

/// Hosts that exist only for ssh over port 443, and the forge that each belongs to.
const SSH_HOSTS: [(&str, &str); 3] = [
    ("ssh.github.com", "github.com"),
    ("altssh.gitlab.com", "gitlab.com"),
    ("altssh.bitbucket.org", "bitbucket.org"),
];

/// The scheme of a URL, in lower case if it is known.
pub(crate) fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    if scheme.is_empty() || !scheme.bytes().all(plain) {
        return None;
    }
    let known = [
        "http",
        "https",
        "ssh",
        "git",
        "git+ssh",
        "ssh+git",
        "git+https",
        "file",
    ];
    Some(
        known
            .into_iter()
            .find(|known| scheme.eq_ignore_ascii_case(known))
            .unwrap_or(scheme),
    )
}

/// Reads the web address of an issue.
pub(super) fn issue(text: &str, scheme: &str) -> Result<IssueRef, RefError> {
    let (instance, path) = web(text, scheme)?;
    let (repo, at) = cut(&path).ok_or_else(|| RefError::NotAnIssueUrl {
        text: text.to_owned(),
    })?;
    IssueRef::new(RepoRef::assemble(&instance, repo)?, number(at)?)
}

/// Reads the web address of a repository, or of one of its issues.
pub(super) fn repo(text: &str, scheme: &str) -> Result<RepoRef, RefError> {
    let (instance, path) = web(text, scheme)?;
    let repo = match cut(&path) {
        Some((repo, _)) => repo,
        // Everything after `/-/` belongs to GitLab's own pages.
        None => path
            .iter()
            .position(|segment| segment.text == "-")
            .map_or(&path[..], |at| &path[..at]),
    };
    if repo.is_empty() {
        return Err(RefError::TooFewSegments {
            text: text.to_owned(),
        });
    }
    RepoRef::assemble(&instance, repo)
}

/// The segments of the repository, and the number. GitLab's own pages follow `/-/`, whatever its groups are called.
/// Elsewhere, the first segment of [`KINDS`] that precedes a number counts; later segments are a page of the issue.
fn cut<'a, 'b>(path: &'b [Piece<'a>]) -> Option<(&'b [Piece<'a>], Piece<'a>)> {
    let kind_at = |at: usize| path.get(at).is_some_and(|kind| KINDS.contains(&kind.text));
    let number_at = |at: usize| {
        path.get(at)
            .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if let Some(at) = path
        .iter()
        .position(|segment| segment.text == "-")
        .filter(|at| *at >= 2)
    {
        let number = number_at(at + 2).filter(|_| kind_at(at + 1))?;
        return Some((&path[..at], *number));
    }
    (2..path.len())
        .filter(|at| kind_at(*at))
        .find_map(|at| Some((&path[..at], *number_at(at + 1)?)))
}

/// Splits an http address into the instance and the path without a slash at its end.
fn web<'a>(text: &'a str, scheme: &str) -> Result<(String, Vec<Piece<'a>>), RefError> {
    let default_port = match scheme {
        "http" => "80",
        "https" | "git+https" => "443",
        _ => {
            return Err(RefError::Scheme {
                text: text.to_owned(),
                scheme: scheme.to_owned(),
            });
        }
    };
    let (host, path) = authority(text)?;
    let host = match host.split_once(':') {
        // A colon without a port means the default port in every browser.
        Some((name, port)) if port.is_empty() || port.trim_start_matches('0') == default_port => name,
        _ => host,
    };
    let bare = host.text;
    let named = if bare.is_empty() || super::looks_like_instance(bare) {
        instance(host)?
    } else {
        // A host of the local network: only a port distinguishes it from an owner.
        let with_port = format!("{bare}:{default_port}");
        instance(Piece {
            whole: text,
            start: host.start,
            text: &with_port,
        })?
    };
    Ok((named, path))
}

/// Splits any URL into host and port without the user, and the path's segments without the last empty ones. Query and
/// fragment are dropped.
fn authority(text: &str) -> Result<(Piece<'_>, Vec<Piece<'_>>), RefError> {
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find(['?', '#']).map_or(text.len(), |at| start + at);
    let used = Piece::whole(&text[..end])?;
    let rest = Piece {
        whole: text,
        ..used.part(start, end - start)
    };
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (rest, None),
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let mut segments = path.map_or_else(Vec::new, Piece::segments);
    while segments.last().is_some_and(|segment| segment.is_empty()) {
        segments.pop();
    }
    for segment in &segments {
        if matches!(segment.text, "" | "." | "..") {
            segment.check()?;
        }
    }
    Ok((host, segments))
}

/// Reads the address of a git remote.
pub(super) fn remote(text: &str) -> Result<RepoRef, RefError> {
    let local = || RefError::LocalRemote {
        text: text.to_owned(),
    };
    match scheme(text) {
        Some(scheme @ ("http" | "https" | "git+https")) => {
            let (instance, path) = web(text, scheme)?;
            if path.is_empty() {
                return Err(RefError::TooFewSegments {
                    text: text.to_owned(),
                });
            }
            RepoRef::assemble(&instance, &path)
        }
        Some("ssh" | "git" | "git+ssh" | "ssh+git") => {
            let (host, path) = authority(text)?;
            let host = host.split_once(':').map_or(host, |(host, _)| host);
            git_host(host, &path)
        }
        Some("file") => Err(local()),
        Some(scheme) => Err(RefError::Scheme {
            text: text.to_owned(),
            scheme: scheme.to_owned(),
        }),
        None => {
            let whole = Piece::whole(text)?;
            // git's own rule: a colon before the first slash makes it a host.
            let Some((host, path)) = whole.split_once(':').filter(|(host, _)| !host.contains('/')) else {
                return Err(local());
            };
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            let mut path = path.segments();
            if path.first().is_some_and(|segment| segment.is_empty()) {
                path.remove(0);
            }
            if path.last().is_some_and(|segment| segment.is_empty()) {
                path.pop();
            }
            git_host(host, &path)
        }
    }
}

/// The repository `path` on the host that git reaches by ssh or its own protocol.
fn git_host(host: Piece<'_>, path: &[Piece<'_>]) -> Result<RepoRef, RefError> {
    if path.is_empty() {
        return Err(RefError::TooFewSegments {
            text: host.whole.to_owned(),
        });
    }
    let named = instance(host)?;
    let named = SSH_HOSTS
        .into_iter()
        .find(|(ssh, _)| *ssh == named)
        .map_or(named, |(_, forge)| forge.to_owned());
    RepoRef::assemble(&named, path)
}
