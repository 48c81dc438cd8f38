//! `kugetsu issue`, and the issue's text in the prompt of a turn.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::complete::References;
use super::context::Context;
use super::output::{Output, confirm, count};
use super::{CommandError, Outcome};
use crate::terminal::Stream;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{Address, ErrorCode, Issue, IssueRef};

/// The longest title in a record, in bytes.
const MAX_TITLE: usize = 256;

#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    /// The address of the issue, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// Print the newest comments, too; this is the default
    #[arg(long, overrides_with = "no_comments")]
    comments: bool,

    /// Leave the comments out
    #[arg(long, overrides_with = "comments")]
    no_comments: bool,
}

pub(super) fn run(args: &IssueArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let issue = context
        .engine
        .issue(issue_of(&address, &args.reference)?, !args.no_comments)?;
    if output.json {
        output.object(issue);
    } else {
        output.text(for_people(&issue, !args.no_comments));
    }
    Ok(ExitStatus::Ok)
}

/// The issue of an address, which was typed like this.
fn issue_of<'a>(address: &'a Address, typed: &str) -> Result<&'a IssueRef, CommandError> {
    // GitLab numbers merge requests apart from issues, and an address has only the number.
    if typed.contains("/merge_requests/") {
        return Err(CommandError::usage(
            format!("`{typed}` is a merge request of GitLab, and kugetsu reads only its issues"),
            "write a message after the reference, without --with-issue",
        ));
    }
    address.issue().ok_or_else(|| {
        CommandError::usage(
            format!("{address} is a session without an issue, so there is no text to fetch"),
            "name an issue, such as 14 or owner/repo#14, or write a message after the reference",
        )
    })
}

fn for_people(issue: &Issue, comments: bool) -> String {
    let kind = if issue.is_pull_request {
        "pull request"
    } else {
        "issue"
    };
    let author = issue.author.as_deref().unwrap_or("an unknown user");
    let mut text = format!(
        "{}\n  {}  {} {kind} by {author}, {}\n  {}\n",
        issue.title,
        issue.issue,
        issue.state,
        issue.created.strftime("%F"),
        issue.url
    );
    if !issue.labels.is_empty() {
        text.push_str(&format!("  labels: {}\n", issue.labels.join(", ")));
    }
    if !issue.body.trim().is_empty() {
        text.push_str(&format!("\n{}\n", issue.body.trim_end()));
    }
    if comments && issue.comments_left_out > 0 {
        let before = if issue.comments.is_empty() {
            ""
        } else {
            " before these"
        };
        text.push_str(&format!(
            "\n[{}{before} are left out]\n",
            count(issue.comments_left_out, "comment")
        ));
    }
    for comment in &issue.comments {
        let author = comment.author.as_deref().unwrap_or("an unknown user");
        let written = comment.created.strftime("%F %R UTC");
        text.push_str(&format!(
            "\n--- {author}, {written}\n\n{}\n",
            comment.body.trim_end()
        ));
    }
    text.truncate(text.trim_end().len());
    text
}

/// A prompt with the text of an issue.
pub(super) struct IssuePrompt {
    pub(super) prompt: String,
    /// The title of the issue.
    pub(super) title: String,
}

/// Fetches the issue and shows on stderr what the model will be told. With `ask`, a person must agree.
pub(super) fn prompt(
    (address, typed): (&Address, &str),
    message: &str,
    ask: bool,
    context: &Context,
    output: Output,
) -> Result<IssuePrompt, CommandError> {
    let fetched = issue_of(address, typed).and_then(|issue| Ok(context.engine.issue(issue, true)?));
    let issue = fetched.map_err(|error| match address.issue() {
        Some(_) if ask => {
            error.hint("or write a message after the reference; then the issue's text is not fetched")
        }
        _ => error,
    })?;
    let prompt = kugetsu_forge::quote(message, &issue);
    let mut title = kugetsu_forge::clean(&issue.title);
    title.truncate(title.floor_char_boundary(MAX_TITLE));
    if Stream::Stderr.is_terminal() {
        output.note(format!(
            "kugetsu: {address}: this is sent to the model:\n\n{prompt}"
        ));
    } else {
        output.note(format!(
            "kugetsu: {address}: the prompt of {} bytes includes the issue's text and {}",
            prompt.len(),
            count(issue.comments.len() as u64, "comment")
        ));
    }
    if ask && !confirm("Send it?") {
        return Err(CommandError::new(ErrorCode::NotConfirmed, "nothing was sent")
            .hint("write a message after the reference instead"));
    }
    Ok(IssuePrompt { prompt, title })
}
