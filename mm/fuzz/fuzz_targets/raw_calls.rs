//! libFuzzer's entry: see `../src/raw_calls.rs`.

#![no_main]

#[path = "../src/raw_calls.rs"]
mod raw_calls;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| raw_calls::run(bytes));
