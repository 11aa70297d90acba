//! Asks for memory before it is read, by the processor's own instruction for that.

use std::ptr;

/// What memory comes in, on the processors StreamBus is made for.
const LINE_BYTES: usize = 64;
/// Behind so many lines of a value in a row the processor reads ahead by itself.
const LINES_MAX: usize = 4;

/// Asks for the first lines of a value.
#[inline(always)]
pub(crate) fn prefetch<T: ?Sized>(value: &T) {
    let bytes = size_of_val(value);
    let start = ptr::from_ref(value).cast::<u8>();
    let into_line = start.addr() % LINE_BYTES;
    let lines = (into_line + bytes).div_ceil(LINE_BYTES).min(LINES_MAX);
    for line in 0..lines {
        ask(start.wrapping_sub(into_line).wrapping_add(line * LINE_BYTES));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ask(line: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint, which reads nothing that the program sees and never faults, whatever the address; every x86-64 has it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn ask(line: *const u8) {
    // SAFETY: a hint, which reads nothing that the program sees and never faults, whatever the address.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn ask(_line: *const u8) {}

#[cfg(test)]
mod tests {
    use super::prefetch;

    /// It must not fault at the edges of an allocation, nor for values without bytes.
    #[test]
    fn any_value_may_be_asked_for() {
        let bytes = vec![7_u8; 1000];
        for start in 0..bytes.len() {
            prefetch(&bytes[start..]);
            prefetch(&bytes[..start]);
        }
        prefetch(&());
        prefetch::<[u64]>(&[]);
        assert!(bytes.iter().all(|&byte| byte == 7));
    }
}
