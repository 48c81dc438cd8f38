//! Any bytes in an answers file or a reply: no panic, and an answer has labels for each question.
#![no_main]

use kugetsu_api::QuestionDetail;
use kugetsu_engine::transport::{Answer, Request, RequestKind};
use kugetsu_engine::turn::Responder;
use kugetsu_engine::turn::answers::{Answers, interpret};
use libfuzzer_sys::fuzz_target;

fn requests() -> [Request; 3] {
    let question = |text: &str| QuestionDetail {
        header: text.to_owned(),
        question: text.to_owned(),
        options: vec!["red".to_owned(), "green".to_owned()],
        multiple: true,
    };
    let permission = RequestKind::Permission {
        permission: "bash".to_owned(),
        patterns: vec!["git push".to_owned(), "git fetch".to_owned()],
    };
    let kinds = [
        permission,
        RequestKind::Question(vec![question("a")]),
        RequestKind::Question(vec![question("a"), question("b")]),
    ];
    kinds.map(|kind| Request { id: "id".to_owned(), kind })
}

fn check(request: &Request, answer: Option<Answer>) {
    match (&request.kind, answer) {
        (RequestKind::Question(questions), Some(Answer::Labels(labels))) => {
            assert_eq!(labels.len(), questions.len());
        }
        (RequestKind::Permission { .. }, Some(Answer::Labels(labels))) => panic!("labels for a permission: {labels:?}"),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let requests = requests();
    if let Ok(reply) = serde_json::from_slice(data) {
        for request in &requests {
            check(request, interpret(&request.kind, &reply));
        }
    }
    if let Ok(answers) = serde_json::from_slice::<Answers>(data) {
        let responder = Responder { answers: Some(answers), ..Responder::default() };
        for request in &requests {
            check(request, responder.from_file(request));
            check(request, responder.by_default(request));
        }
    }
});
