#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isowire::fuzzing::tftp_link::link(data));
