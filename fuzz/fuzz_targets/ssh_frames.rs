//! Any bytes from the other end of a connection: no panic, and a frame is the same after it is written and read again.
#![no_main]

use kugetsu::ssh::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some(frame)) = Frame::read(&mut rest) {
        let mut written = Vec::new();
        frame.write(&mut written).expect("what was read is short enough");
        assert_eq!(Frame::read(&mut written.as_slice()).ok().flatten(), Some(frame));
    }
});
