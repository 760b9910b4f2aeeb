//! The kernel's chance, by the seed of the world that asks for it.
//!
//! The standard library's hash maps take their seeds from `getrandom`, which it lets a program replace. Within a world's
//! thread it tells the world's own sequence, so that the order of a map is of the seed; everywhere else it is the kernel's.

use std::cell::Cell;
use std::ffi::{c_uint, c_void};

thread_local! {
    static SEQUENCE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on the chance that this thread asks of the kernel is of the seed. To be called before it made any hash map.
pub fn seed(seed: u64) {
    SEQUENCE.set(Some(seed));
}

/// The next number of a sequence (splitmix64).
fn next(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, mixed ^ (mixed >> 31))
}

/// Takes the place of the C library's.
///
/// # Safety
/// As the C library's: `buffer` is `length` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let Some(mut state) = SEQUENCE.get() else {
        // SAFETY: the kernel writes at most `length` bytes, which the caller allows.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as isize;
    };
    // SAFETY: the caller says that so many bytes can be written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let number;
        (state, number) = next(state);
        chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
    }
    SEQUENCE.set(Some(state));
    length as isize
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    fn order(seed: Option<u64>) -> Vec<u32> {
        let in_a_thread = move || {
            seed.into_iter().for_each(super::seed);
            (0..1000u32).collect::<HashSet<_>>().into_iter().collect()
        };
        std::thread::spawn(in_a_thread).join().unwrap()
    }

    #[test]
    fn the_order_of_a_map_is_of_the_seed() {
        assert_eq!(order(Some(1)), order(Some(1)));
        assert_ne!(order(Some(1)), order(Some(2)));
        assert_ne!(order(None), order(None));
    }
}
