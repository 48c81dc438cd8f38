//! Any bytes in a record's file: no panic, and a record that can be read is the same after it is written and read again.
#![no_main]

use kugetsu_api::{BaseRecord, RunState, SessionRecord, SessionSummary};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = serde_json::from_slice::<SessionRecord>(data) {
        let text = serde_json::to_vec_pretty(&record).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<SessionRecord>(&text).ok(), Some(record.clone()));
        let summary: SessionSummary = serde_json::from_slice(&text).expect("what was written whole can be read in part");
        for live in [None, Some(RunState::Running), Some(RunState::Paused)] {
            assert_eq!(summary.state(|_| live), record.state(|_| live));
        }
    }
    if let Ok(record) = serde_json::from_slice::<BaseRecord>(data) {
        let text = serde_json::to_vec_pretty(&record).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<BaseRecord>(&text).ok(), Some(record));
    }
});
