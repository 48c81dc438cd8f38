//! Handling of opencode's requests: the answers file, a supervisor or the default answers them.

use std::time::Duration;

use super::super::answers::{AnsweredBy, Reply, interpret};
use super::super::machine::{Judgement, Step};
use super::Supervisor;
use crate::permission::{Action, evaluate};
use crate::transport::{Answer, Request, RequestKind, TurnLink};
use kugetsu_api::Verdict;

/// How many times the delivery of an answer to opencode is tried.
const ANSWER_TRIES: u32 = 3;
/// How long one try may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The time between two tries.
const ANSWER_PAUSE: Duration = Duration::from_millis(500);

impl Supervisor<'_> {
    /// Handles a request of opencode: the answers file answers it, or the turn waits for a supervisor's reply, or the
    /// default answers it.
    pub(super) async fn handle_request(&mut self, link: &mut dyn TurnLink, request: Request) -> Step {
        self.encoder.asked(&request, &mut self.turn.stream);
        if let Some(answer) = self.turn.responder.from_file(&request) {
            return self.answer(link, &request, &answer, AnsweredBy::File).await;
        }
        if let Some((_, patience)) = &self.turn.responder.supervisor {
            let until = tokio::time::Instant::now() + *patience;
            self.open_requests.push((request, until));
            return Step::Go;
        }
        self.default(link, request).await
    }

    async fn default(&mut self, link: &mut dyn TurnLink, request: Request) -> Step {
        if let Some(answer) = self.turn.responder.by_default(&request) {
            let denied = answer == Answer::Reject && self.policy_denies(&request);
            let answer = if denied { Answer::Deny } else { answer };
            return self.answer(link, &request, &answer, AnsweredBy::Default).await;
        }
        let reason = format!("waits for a person: {}", request.kind);
        self.blocked_on = Some(request);
        Step::Stop(Judgement::new(Verdict::Blocked, reason))
    }

    /// Whether a rule would refuse the request if nobody were there to answer requests.
    fn policy_denies(&self, request: &Request) -> bool {
        let RequestKind::Permission { permission, patterns } = &request.kind else {
            return false;
        };
        patterns.iter().any(|pattern| {
            let rule = evaluate(&self.turn.unattended, permission, pattern);
            rule.is_some_and(|rule| rule.action == Action::Deny)
        })
    }

    /// Delivers an answer. opencode waits for ever without an answer, so a failed delivery counts as a crash and
    /// opencode is restarted.
    async fn answer(
        &mut self,
        link: &mut dyn TurnLink,
        request: &Request,
        answer: &Answer,
        source: AnsweredBy,
    ) -> Step {
        match source {
            AnsweredBy::File => self.answered.file += 1,
            AnsweredBy::Supervisor => self.answered.supervisor += 1,
            AnsweredBy::Default => self.answered.default += 1,
        }
        self.encoder
            .answered(request, answer, source, &mut self.turn.stream);
        let mut tries = 0;
        loop {
            let delivery = tokio::time::timeout(ANSWER_LIMIT, link.answer(request, answer));
            let error = match self.in_time(delivery).await {
                Ok(Ok(Ok(()))) => {
                    self.machine.alive(self.began.elapsed());
                    return Step::Go;
                }
                Ok(Ok(Err(error))) => error.to_string(),
                Ok(Err(_)) => format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
                Err(judgement) => return Step::Stop(judgement),
            };
            self.encoder.notice("error", &error, &mut self.turn.stream);
            tries += 1;
            if tries == ANSWER_TRIES {
                return Step::Crashed(format!("its question could not be answered: {error}"));
            }
            tokio::time::sleep(ANSWER_PAUSE).await;
        }
    }

    pub(super) async fn replied(&mut self, link: &mut dyn TurnLink, reply: &Reply) -> Step {
        let Some(at) = self
            .open_requests
            .iter()
            .position(|(request, _)| request.id == reply.request)
        else {
            let text = format!("nothing waits for the reply to `{}`", reply.request);
            self.encoder.notice("error", &text, &mut self.turn.stream);
            return Step::Go;
        };
        let Some(answer) = interpret(&self.open_requests[at].0.kind, &reply.answer) else {
            let text = format!("the reply to `{}` does not fit the request", reply.request);
            self.encoder.notice("error", &text, &mut self.turn.stream);
            return Step::Go;
        };
        let (request, _) = self.open_requests.remove(at);
        self.answer(link, &request, &answer, AnsweredBy::Supervisor).await
    }

    /// The supervisor is gone, so nobody but the default will answer.
    pub(super) fn no_more_replies(&mut self) -> Step {
        self.turn.responder.supervisor = None;
        for (_, until) in &mut self.open_requests {
            *until = tokio::time::Instant::now();
        }
        Step::Go
    }

    pub(super) async fn overdue(&mut self, link: &mut dyn TurnLink) -> Step {
        let now = tokio::time::Instant::now();
        let Some(at) = self.open_requests.iter().position(|(_, until)| *until <= now) else {
            return Step::Go;
        };
        let (request, _) = self.open_requests.remove(at);
        self.default(link, request).await
    }
}
