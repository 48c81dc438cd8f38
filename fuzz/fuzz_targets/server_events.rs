#![no_main]
//! Any stream of opencode's server, in chunks of any size: no panic, and a label of a tool is short.

use kugetsu_engine::opencode::{LineSplitter, PartState, ServerEvent, ServerEventKind, SplitLine, tool_label};
use libfuzzer_sys::fuzz_target;

fn take(line: SplitLine<'_>) {
    let SplitLine::Whole(line) = line else { return };
    let Some(data) = line.strip_prefix(b"data:") else { return };
    let Some(event) = ServerEvent::parse(data.trim_ascii()) else { return };
    if let ServerEventKind::Part { state: PartState::Tool(call), .. } = event.kind {
        let label = tool_label("", &call.title, &call.input);
        assert!(label.chars().count() <= 202, "{label}");
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, data)) = data.split_first() else { return };
    let mut splitter = LineSplitter::default();
    for chunk in data.chunks(usize::from(size) + 1) {
        splitter.push(chunk, take);
    }
    splitter.finish(take);
    // The rest of the fuzzer's input is rarely a whole event.
    ServerEvent::parse(data);
});
