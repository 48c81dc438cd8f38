#![no_main]
//! Any output of opencode, in chunks of any size: no panic, no line lost, bounded memory.

use kugetsu_engine::opencode::{MAX_PREFIX, SplitLine, LineSplitter, RunLine, parse_line, rejected_permission};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&size, data)) = data.split_first() else { return };
    let mut splitter = LineSplitter::default();
    let mut lines = Vec::new();
    let mut take = |line: SplitLine<'_>| {
        let (bytes, length) = match line {
            SplitLine::Whole(bytes) => (bytes, bytes.len() as u64),
            SplitLine::TooLong { prefix, length } => (prefix, length),
        };
        if let SplitLine::TooLong { .. } = line {
            assert_eq!(bytes.len(), MAX_PREFIX);
        }
        match parse_line(bytes) {
            RunLine::Notice(text) => {
                assert!(!text.contains('\u{1b}'));
                rejected_permission(&text);
            }
            RunLine::Event(_) | RunLine::Unknown { .. } => {}
        }
        lines.push(length);
    };
    for chunk in data.chunks(usize::from(size) + 1) {
        splitter.push(chunk, &mut take);
    }
    splitter.finish(&mut take);
    let ends = data.iter().filter(|&&byte| byte == b'\n').count();
    let open = usize::from(!data.is_empty() && data.last() != Some(&b'\n'));
    assert_eq!(lines.len(), ends + open);
    assert_eq!(lines.iter().sum::<u64>() + ends as u64, data.len() as u64);
});
