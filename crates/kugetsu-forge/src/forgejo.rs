//! Forgejo and Gitea. Their issues look like those of GitHub.

use kugetsu_api::{Issue, IssueRef};

use crate::github::{RawComment, RawIssue, path_of};
use crate::http::{Api, Client};
use crate::{Forge, ForgeError};

#[derive(Debug)]
pub(crate) struct Forgejo(Api);

impl Forgejo {
    pub(crate) fn new(client: Client) -> Self {
        Self(Api {
            client,
            name: "Forgejo or Gitea API",
            scheme: "token",
            headers: &[("accept", "application/json")],
        })
    }
}

impl Forge for Forgejo {
    fn issue(&self, issue: &IssueRef, comments: bool) -> Result<Issue, ForgeError> {
        let path = path_of(issue);
        let raw: RawIssue = self.0.get(issue, &path)?;
        let mut found: Vec<RawComment> = Vec::new();
        if comments && raw.comments > 0 {
            // This API gives all comments at once.
            found = self.0.get(issue, &format!("{path}/comments"))?;
        }
        Ok(raw.into_issue(issue, found))
    }
}
