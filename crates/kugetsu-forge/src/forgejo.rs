//! Forgejo and Gitea. Their issues look like those of GitHub.

use kugetsu_api::{Issue, IssueRef};

use crate::github::{RawComment, RawIssue};
use crate::http::Client;
use crate::{Forge, ForgeError};

const WHAT: &str = "Forgejo or Gitea API";

#[derive(Debug)]
pub(crate) struct Forgejo(pub(crate) Client);

impl Forge for Forgejo {
    fn issue(&self, issue: &IssueRef, comments: bool) -> Result<Issue, ForgeError> {
        let authorization = self.0.token().map(|token| format!("token {token}"));
        let mut headers = vec![("accept", "application/json")];
        if let Some(authorization) = &authorization {
            headers.push(("authorization", authorization));
        }
        let segments: Vec<_> = issue.segments().collect();
        let path = format!("/repos/{}/issues/{}", segments.join("/"), issue.number());
        let raw: RawIssue = self.0.get(issue, &path, &headers, WHAT)?;
        let mut found: Vec<RawComment> = Vec::new();
        if comments && raw.comments > 0 {
            // This API gives all comments at once.
            found = self.0.get(issue, &format!("{path}/comments"), &headers, WHAT)?;
        }
        Ok(raw.into_issue(issue, found))
    }
}
