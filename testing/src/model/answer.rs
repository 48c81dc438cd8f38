//! Encodes a reply as HTTP, streamed or whole.

use std::io::Result;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Client;
use super::{Reply, Request, ToolCall, usage};

fn usage_numbers() -> Value {
    json!({
        "prompt_tokens": usage::INPUT,
        "completion_tokens": usage::OUTPUT,
        "total_tokens": usage::INPUT + usage::OUTPUT,
        "prompt_tokens_details": { "cached_tokens": usage::CACHED },
    })
}

struct Head {
    id: String,
    created: u64,
    model: Value,
}

impl Head {
    fn frame(&self, object: &str, choices: &Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        })
    }

    fn chunk(&self, delta: &Value, finish: Option<&str>) -> String {
        let choices = json!([{ "index": 0, "delta": delta, "finish_reason": finish }]);
        self.frame("chat.completion.chunk", &choices).to_string()
    }
}

/// Sends a reply. An error ends the connection; a reply that hangs or drops always ends with one.
pub(super) fn play(client: &mut Client<'_>, request: &Request, reply: &Reply, streamed: bool) -> Result<()> {
    match reply {
        Reply::SlowStart(time, then) => {
            client.pause(Some(*time))?;
            return play(client, request, then, streamed);
        }
        Reply::Gate(gate, then) => {
            if !gate.pass(|| client.is_gone()) {
                return Err(Client::hang_up());
            }
            return play(client, request, then, streamed);
        }
        Reply::Status { code, body, headers } => return client.whole(*code, headers, body.as_bytes()),
        _ => {}
    }
    let head = Head {
        id: format!("chatcmpl-{}", client.shared.next_id()),
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs()),
        model: request.body["model"].clone(),
    };
    if streamed {
        stream(client, &head, reply)
    } else {
        whole(client, &head, reply)
    }
}

fn tool_calls(client: &Client<'_>, calls: &[ToolCall]) -> Value {
    let numbered = calls.iter().enumerate();
    let call = |(index, call): (usize, &ToolCall)| {
        json!({
            "index": index,
            "id": format!("call_{}", client.shared.next_id()),
            "type": "function",
            "function": { "name": call.name, "arguments": call.arguments.to_string() },
        })
    };
    numbered.map(call).collect()
}

fn calls_of(reply: &Reply) -> Vec<ToolCall> {
    match reply {
        Reply::Tool { name, arguments } => vec![ToolCall {
            name: name.clone(),
            arguments: arguments.clone(),
        }],
        Reply::Tools(calls) => calls.clone(),
        _ => Vec::new(),
    }
}

fn stream(client: &mut Client<'_>, head: &Head, reply: &Reply) -> Result<()> {
    client.begin_stream()?;
    if matches!(reply, Reply::Hang) {
        return client.pause(None);
    }
    client.event(&head.chunk(&json!({ "role": "assistant", "content": "" }), None))?;
    let mut finish = "stop";
    match reply {
        Reply::Text(text) => client.event(&head.chunk(&json!({ "content": text }), None))?,
        Reply::Chunks { parts, delay } => {
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    client.pause(Some(*delay))?;
                }
                client.event(&head.chunk(&json!({ "content": part }), None))?;
            }
        }
        Reply::CutShort { text } => {
            client.event(&head.chunk(&json!({ "content": text }), None))?;
            return client.end_stream();
        }
        Reply::Drop => {
            client.event(&head.chunk(&json!({ "content": "cut " }), None))?;
            return Err(Client::hang_up());
        }
        _ => {
            let calls = tool_calls(client, &calls_of(reply));
            client.event(&head.chunk(&json!({ "tool_calls": calls }), None))?;
            finish = "tool_calls";
        }
    }
    client.event(&head.chunk(&json!({}), Some(finish)))?;
    let mut last = head.frame("chat.completion.chunk", &json!([]));
    last["usage"] = usage_numbers();
    client.event(&last.to_string())?;
    client.event("[DONE]")?;
    client.end_stream()
}

fn whole(client: &mut Client<'_>, head: &Head, reply: &Reply) -> Result<()> {
    let (message, finish) = match reply {
        Reply::Hang => return client.pause(None),
        Reply::Drop => return Err(Client::hang_up()),
        Reply::Text(text) => (json!({ "role": "assistant", "content": text }), Some("stop")),
        Reply::Chunks { parts, .. } => (
            json!({ "role": "assistant", "content": parts.concat() }),
            Some("stop"),
        ),
        Reply::CutShort { text } => (json!({ "role": "assistant", "content": text }), None),
        _ => {
            let calls = tool_calls(client, &calls_of(reply));
            (
                json!({ "role": "assistant", "content": null, "tool_calls": calls }),
                Some("tool_calls"),
            )
        }
    };
    let choices = json!([{ "index": 0, "message": message, "finish_reason": finish }]);
    let mut body = head.frame("chat.completion", &choices);
    body["usage"] = usage_numbers();
    client.whole(200, &[], body.to_string().as_bytes())
}
