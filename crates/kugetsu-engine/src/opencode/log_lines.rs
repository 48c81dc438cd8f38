//! Lines of opencode's log, which opencode prints on standard error with `--print-logs`.
//!
//! `run` prints nothing on standard output while it repeats requests to the model. Its log reports them at level ERROR
//! (measured with HTTP 429 and 500):
//!
//! - 1.3.2: `ERROR <time> +<ms> service=session.processor error=<message> stack="..." process`, after a line of
//!   `service=llm` that holds the whole request, 44 KB for the shortest prompt;
//! - 1.18.33: `timestamp=<time> level=ERROR run=<id> message="stream error" ... session.id=<id> small=false ...
//!   error.error="<message>"`; `small=true` is the request for a title, which no turn waits for.

/// The beginnings of log lines on 1.3.2, one for each level.
const LEVELS: [&str; 4] = ["DEBUG ", "INFO  ", "WARN  ", "ERROR "];

/// Whether this is a line of the log and not a message for people.
pub(super) fn is_log_line(line: &str) -> bool {
    let old = |level: &str| {
        let date = line.strip_prefix(level);
        date.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains(" +"))
    };
    (line.starts_with("timestamp=") && line.contains(" level=")) || LEVELS.into_iter().any(old)
}

/// The message of a failed request to the model. The line does not say whether opencode retries the request; if
/// opencode does not, an error event follows.
pub(super) fn failed_attempt(line: &str) -> Option<String> {
    let message = if line.starts_with("ERROR ") {
        let (_, rest) = line.split_once(" service=session.processor ")?;
        let rest = rest.strip_prefix("error=")?;
        rest.split_once(" stack=\"").map_or(rest, |(message, _)| message)
    } else {
        let (head, rest) = line.split_once(" message=\"stream error\" ")?;
        let (fields, rest) = rest.split_once(" error.error=")?;
        if !head.contains(" level=ERROR ") || !fields.contains(" small=false ") {
            return None;
        }
        rest.trim_matches('"')
    };
    let message = message.trim();
    let message =
        message.split_once("Error: ").map_or(
            message,
            |(name, rest)| {
                if name.contains(' ') { message } else { rest }
            },
        );
    (!message.is_empty()).then(|| message.to_owned())
}

/// The message that `run` prints if the requested agent does not exist or cannot run turns (both versions), before
/// `run` uses its default agent instead.
pub(super) fn refused_agent(line: &str) -> Option<&str> {
    let (message, _) = line.split_once(". Falling back to default agent")?;
    message.find("agent \"").map(|at| &message[at..])
}

/// The cause behind an error event that says only "Check server logs for details" (1.18.33).
pub(super) fn server_failure(line: &str) -> Option<&str> {
    let (_, rest) = line
        .split_once(" level=ERROR ")?
        .1
        .split_once("message=failed ref=")?;
    let (_, rest) = rest.split_once(" error=\"")?;
    rest.split('"').next()
}

/// Whether an opencode that ended had found its database locked for longer than it waits. Its output says so, or names
/// the statement that failed (1.18.33, and 1.3.2 for its first statement). Two opencodes that start at once do that to
/// each other (anomalyco/opencode#21215); the next start succeeds.
pub(crate) fn found_database_locked(stderr: &[String]) -> bool {
    const MESSAGES: [&str; 3] = ["database is locked", "Failed query: ", "Failed to run the query "];
    let matches = |line: &String| MESSAGES.iter().any(|message| line.contains(message));
    stderr.iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "ERROR 2026-11-21T01:56:04 +10ms service=session.processor error=scripted trouble 429 stack=\"AI_APICallError: scripted trouble 429\\n    at <anonymous> (/$bunfs/root/src/index.js:108058:30)\" process";
    const OLD_REQUEST: &str = "ERROR 2026-11-21T01:56:04 +2652ms service=llm providerID=scripted modelID=scripted sessionID=ses_1 small=false agent=build mode=primary error={\"error\":{\"name\":\"AI_APICallError\"";
    const NEW: &str = "timestamp=2026-11-21T01:56:11.981Z level=ERROR run=488844bd message=\"stream error\" providerID=scripted modelID=scripted session.id=ses_1 small=false agent=build mode=primary error.error=\"AI_APICallError: scripted trouble 429\"";
    const NEW_TITLE: &str = "timestamp=2026-11-21T01:56:14.119Z level=ERROR run=488844bd message=\"stream error\" providerID=scripted modelID=scripted session.id=ses_1 small=true agent=title mode=primary error.error=\"AI_RetryError: Failed after 3 attempts\"";

    #[test]
    fn a_refused_agent_is_recognised() {
        let refusal = |text| refused_agent(text);
        assert_eq!(
            refusal("!  agent \"nosuch\" not found. Falling back to default agent"),
            Some("agent \"nosuch\" not found")
        );
        assert_eq!(
            refusal("!  agent \"general\" is a subagent, not a primary agent. Falling back to default agent"),
            Some("agent \"general\" is a subagent, not a primary agent")
        );
        assert_eq!(refusal("agent \"plan\" is at work"), None);
        assert_eq!(refusal("nothing. Falling back to default agent"), None);
    }

    #[test]
    fn a_failed_request_is_recognised_in_the_log() {
        for line in [OLD, NEW] {
            assert_eq!(
                failed_attempt(line).as_deref(),
                Some("scripted trouble 429"),
                "{line}"
            );
        }
        for line in [OLD_REQUEST, NEW_TITLE, "Error: Session not found", ""] {
            assert_eq!(failed_attempt(line), None, "{line}");
        }
    }

    #[test]
    fn a_failure_of_the_server_is_found() {
        let line = "timestamp=2026-11-21T02:22:10.610Z level=ERROR run=b0098fb5 message=failed ref=err_d6550f00 error=\"ProviderModelNotFoundError: Model not found: scripted/none.\" cause=\"...\"";
        assert_eq!(
            server_failure(line),
            Some("ProviderModelNotFoundError: Model not found: scripted/none.")
        );
        assert_eq!(server_failure(NEW), None);
    }

    #[test]
    fn messages_for_people_are_distinguished_from_log_lines() {
        for line in [
            OLD,
            OLD_REQUEST,
            NEW,
            NEW_TITLE,
            "INFO  2026-11-21T01:59:15 +33ms service=vcs initialized",
        ] {
            assert!(is_log_line(line), "{line}");
        }
        for line in [
            "Error: Session not found",
            "ERROR everything broke",
            "Database migration complete.",
        ] {
            assert!(!is_log_line(line), "{line}");
        }
    }
}
