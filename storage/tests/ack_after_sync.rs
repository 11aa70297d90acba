//! An ack before its sync does not compile: what lets acks out can be neither made nor changed outside the crate.
//!
//! After a change of compiler, `TRYBUILD=overwrite cargo test -p storage --test ack_after_sync` writes the messages anew.

#[test]
fn acks_cannot_be_forged() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
