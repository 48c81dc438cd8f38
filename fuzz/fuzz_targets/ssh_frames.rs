//! Any bytes from the other end of a connection: no panic, and what was read is written as the same bytes.
#![no_main]

use kugetsu::ssh::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let mut written = Vec::new();
    while let Ok(Some(frame)) = Frame::read(&mut rest) {
        frame.write(&mut written).expect("what was read is short enough");
        assert_eq!(data[..data.len() - rest.len()], written);
    }
});
