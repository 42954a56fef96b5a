//! The fuzz target over raw call arguments, on random bytes: what runs everywhere of `make fuzz-mm`.

use proptest::prelude::*;

#[path = "../fuzz/src/raw_calls.rs"]
mod raw_calls;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn no_words_that_a_program_can_pass_break_the_memory_manager(
        bytes in proptest::collection::vec(any::<u8>(), 0..1500),
    ) {
        raw_calls::run(&bytes);
    }
}
